"""Nodes of plans, and the numbers of rows that scans read."""


def nodes(plan):
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def rows_read(connection):
    """The rows that the transaction has read, by sequential scans and by index scans of partitions, as the server counts them."""
    return connection.execute("SELECT sum(seq_tup_read)::integer, sum(idx_tup_fetch)::integer FROM pg_stat_xact_user_tables "
                              "WHERE relname ~ '^infinite_pages_cache_\\d'").fetchone()
