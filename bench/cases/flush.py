"""storing the hits of 65,536 entries

One call of cache_flush_statistics(), which stores them in one transaction, for a new choice of entries of a large cache
each time, right after a checkpoint: what it changes goes to the WAL page by page. HOT updates are those that touch no
index. What to compare with is the same number of rows updated by a plain UPDATE, which knows them by their primary keys."""

import time

from .. import data, server
from ..measure import Figure, progress, table

ROUNDS = 3
PLACES = 65_536


def run(options):
    with server.start(options.entries) as one:
        actions = {"cache_flush_statistics()": flush, "a plain UPDATE": plain}
        found = {name: [] for name in actions}
        for turn in range(ROUNDS):
            for name in list(actions)[:: -1 if turn % 2 else 1]:
                progress(f"flush: {name}, {turn + 1} of {ROUNDS} …")
                found[name].append(measured(one, actions[name], chosen(options.entries, f"{name} {turn}")))
        columns = ("seconds", "rows/s", "WAL, bytes/row", "HOT, %")
        rows = []
        for name, runs in found.items():
            figures = [Figure(column) for column in zip(*runs)]
            rows.append((name, *(f"{figure:{form}}" for figure, form in zip(figures, (".2f", ",.0f", ",.0f", ".1f")))))
        yield table((f"{min(PLACES, options.entries):,} of {options.entries:,} entries", *columns), rows)


def chosen(entries, seed):
    """Returns a query for the addresses of some entries."""
    return f"""(SELECT {data.user(entries)} AS user_id, {data.content_type(entries)} AS content_type, {data.cache_key()} AS cache_key
                FROM (SELECT n FROM generate_series(0, {entries - 1}) n ORDER BY md5(n || '{seed}') LIMIT {PLACES}) k)"""


def flush(one, entries):
    """Looks up entries; returns the statement that stores their hits."""
    one.execute(f"SELECT count(cache_lookup(user_id, content_type, cache_key)) FROM {entries} e")
    return "SELECT entries_updated FROM cache_flush_statistics()"


def plain(one, entries):
    one.execute(f"""
        DROP TABLE IF EXISTS chosen;
        CREATE TABLE chosen AS SELECT c.id, c.user_id, c.created_at FROM infinite_pages_cache_partitioned c JOIN {entries} e
            ON c.user_id = e.user_id AND cache_entry_digest(c.content_type, c.cache_key) = cache_entry_digest(e.content_type, e.cache_key);
        ANALYZE chosen""")
    return """
        WITH updated AS (
            UPDATE infinite_pages_cache_partitioned c SET hit_count = hit_count + 1, last_accessed = now()
            FROM chosen WHERE c.id = chosen.id AND c.user_id = chosen.user_id AND c.created_at = chosen.created_at RETURNING 1)
        SELECT count(*) FROM updated"""


def measured(one, prepare, entries):
    """Returns seconds, rows per second, bytes of WAL for a row, and the share of HOT updates."""
    sql = prepare(one, entries)
    one.execute("CHECKPOINT")
    before, position = updates(one), one.execute("SELECT pg_current_wal_lsn()")[0][0]
    began = time.monotonic()
    rows = one.execute(sql)[0][0]
    took = time.monotonic() - began
    wal = one.execute("SELECT pg_current_wal_lsn() - %s", (position,))[0][0]
    # A backend reports what it has done when it ends, if not before.
    deadline = time.monotonic() + 20
    while (after := updates(one))[0] < before[0] + rows:
        if time.monotonic() > deadline:
            raise RuntimeError("the server does not report the updates")
        time.sleep(0.05)
    if rows == 0 or after[0] - before[0] != rows:
        raise RuntimeError(f"{after[0] - before[0]} entries were updated, not {rows}")
    return took, rows / took, wal / rows, 100 * (after[1] - before[1]) / rows


def updates(one):
    return one.execute("""SELECT coalesce(sum(n_tup_upd), 0), coalesce(sum(n_tup_hot_upd), 0) FROM pg_stat_user_tables
                          WHERE relname LIKE 'infinite\\_pages\\_cache\\_%'""")[0]
