"""the end of a month

A month in which everything has expired goes by drop_old_cache_partitions(), or by DELETE of the same rows from the plain
table, on a new copy of the servers each time, right after a checkpoint. The DELETE leaves its space to VACUUM, which is
measured beside it and not counted."""

import time

from .. import months, server
from ..measure import Figure, progress, table
from ..months import Months
from ..targets import Reached

CACHE = "infinite_pages_cache_partitioned"


def run(options):
    kind = Months(options.entries, months=1, expired=True, tables=("plain",))
    found = {}
    actions = {"drop_old_cache_partitions()": dropped, "DELETE": deleted, "VACUUM after it": vacuumed}
    for turn in range(options.copies):
        progress(f"expire: {turn + 1} of {options.copies} …")
        with server.start(kind, months.SETTINGS) as one:
            # The first may find less in memory. VACUUM always comes after the DELETE.
            order = list(actions) if turn % 2 else [*list(actions)[1:], *list(actions)[:1]]
            for name in order:
                found.setdefault(name, []).append(measured(one, kind, actions[name]))
    figures = {name: [Figure(column) for column in zip(*found[name])] for name in actions}
    drop, delete = figures["drop_old_cache_partitions()"], figures["DELETE"]
    yield table((f"a month of {kind.entries:,} entries", "seconds", "WAL, bytes", "time, ratio", "WAL, ratio"), [
        (name, f"{seconds:.4f}", f"{wal:,.0f}",
         *(("1", "1") if name == "DELETE" else (f"{seconds / delete[0]:.5f}", f"{wal / delete[1]:.7f}")))
        for name, (seconds, wal) in figures.items()])
    yield Reached("expire/time", drop[0] / delete[0])
    yield Reached("expire/WAL", drop[1] / delete[1])


def measured(one, kind, action):
    """Returns seconds, and bytes of WAL."""
    with one.connect() as connection:
        connection.execute("CHECKPOINT")
        before = sizes(connection)
        position = connection.execute("SELECT pg_current_wal_lsn()").fetchone()[0]
        began = time.monotonic()
        table = action(connection)
        seconds = time.monotonic() - began
        wal = float(connection.execute("SELECT pg_current_wal_lsn() - %s::pg_lsn", (position,)).fetchone()[0])
        if table is not None and (before[table], sizes(connection)[table]) != (kind.entries, 0):
            raise RuntimeError(f"{table} had {before[table]} entries and now has {sizes(connection)[table]}")
        return seconds, wal


def sizes(connection):
    return {table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in (CACHE, "plain")}


def dropped(connection):
    connection.execute("SELECT * FROM drop_old_cache_partitions(months_to_keep => 1)")
    return CACHE


def deleted(connection):
    connection.execute("DELETE FROM plain WHERE expires_at < now()")
    return "plain"


def vacuumed(connection):
    connection.execute("VACUUM plain")
