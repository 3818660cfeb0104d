"""Plans, and the rows that scans have read."""


def nodes(plan):
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def rows_read(connection):
    """By the transaction: in scans of whole partitions, and by index. As the server counts them."""
    return connection.execute("SELECT sum(seq_tup_read)::integer, sum(idx_tup_fetch)::integer FROM pg_stat_xact_user_tables "
                              "WHERE relname ~ '^infinite_pages_cache_\\d'").fetchone()
