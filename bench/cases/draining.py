"""storing the hits of 65,536 entries

One call of cache_flush_statistics(), which stores them in one transaction, for a new choice of entries of a large cache
each time. HOT updates are those that touch no index."""

import time

from .. import data, server
from ..measure import Figure, progress, table

ROUNDS = 5
PLACES = 65_536


def run(options):
    with server.start(options.entries) as one:
        seconds, rows, hot = [], [], []
        for turn in range(ROUNDS):
            progress(f"draining: {turn + 1} of {ROUNDS} …")
            updated, took, share = drained(one, options.entries, turn)
            seconds.append(took)
            rows.append(updated / took)
            hot.append(100 * share)
        yield table((f"{updated:,} of {options.entries:,} entries", "seconds", "rows/s", "HOT, %"), [
            ("the first", f"{seconds[0]:.2f}", f"{rows[0]:,.0f}", f"{hot[0]:.1f}"),
            ("all", f"{Figure(seconds):.2f}", f"{Figure(rows):,.0f}", f"{Figure(hot):.1f}")])


def drained(one, entries, turn):
    """Has entries looked up, and stores their hits."""
    one.execute(f"""SELECT count(cache_lookup({data.user(entries)}, {data.content_type(entries)}, {data.cache_key()}))
                    FROM (SELECT n FROM generate_series(0, {entries - 1}) n ORDER BY md5(n || ' {turn}') LIMIT {PLACES}) k""")
    one.execute("CHECKPOINT")
    before = updates(one)
    began = time.monotonic()
    updated, locked = one.execute("SELECT entries_updated, entries_locked FROM cache_flush_statistics()")[0]
    took = time.monotonic() - began
    if locked or updated != min(PLACES, entries):
        raise RuntimeError(f"{updated} entries were updated, {locked} were locked")
    # A backend reports what it has done when it ends, if not before.
    deadline = time.monotonic() + 20
    while (after := updates(one))[0] < before[0] + updated:
        if time.monotonic() > deadline:
            raise RuntimeError("the server does not report the updates")
        time.sleep(0.05)
    return updated, took, (after[1] - before[1]) / (after[0] - before[0])


def updates(one):
    return one.execute("""SELECT coalesce(sum(n_tup_upd), 0), coalesce(sum(n_tup_hot_upd), 0) FROM pg_stat_user_tables
                          WHERE relname LIKE 'infinite\\_pages\\_cache\\_%'""")[0]
