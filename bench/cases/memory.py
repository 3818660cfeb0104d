"""what a backend keeps in memory

One session looks up keys at random, one of eight of which does not exist, a statement each. Its memory is what the
kernel counts as its own (anonymous), without what all backends share; the memory contexts of PostgreSQL are a part of it."""

import random
import re
from pathlib import Path

from .. import months, server
from ..measure import Figure, progress, table
from ..months import Months
from ..targets import Reached

FIRST = 1000


def run(options):
    kind = Months(options.entries)
    progress("memory …")
    with server.start(kind, months.SETTINGS) as one, one.connect() as connection:
        chance = random.Random(6)
        rows, done = [], 0
        for count in (FIRST, options.entries // 10, options.entries):
            hits = looked_up(connection, kind, chance, count - done)
            done = count
            rows.append((count, own_memory(connection), contexts(connection), hits))
        yield table(("lookups so far", "own memory, MB", "of it memory contexts, MB"),
                    [(f"{count:,}", f"{own:.2f}", f"{used:.2f}") for count, own, used, _ in rows])
        yield Reached("memory", Figure([rows[-1][1] - rows[0][1]]), work=f"memory of a backend after {done:,} lookups, MB more")


def looked_up(connection, kind, chance, count):
    """Checks the number of hits."""
    sql = "SELECT cache_lookup(%s, %s, %s) IS NOT NULL"
    hits = expected = 0
    with connection.cursor() as cursor:
        for start in range(0, count, 1000):
            # The number of an entry, or one far past the last.
            numbers = [chance.randint(1, kind.entries) + (20 * kind.entries if chance.random() < 1 / 8 else 0)
                       for _ in range(min(1000, count - start))]
            expected += sum(n <= kind.entries for n in numbers)
            cursor.executemany(sql, [kind.address(n) for n in numbers], returning=True)
            while True:
                hits += cursor.fetchone()[0]
                if not cursor.nextset():
                    break
    if hits != expected or not 0 < hits < count:
        raise RuntimeError(f"{hits} of {count} lookups were hits, not {expected}")
    return hits


def own_memory(connection):
    """Returns megabytes."""
    rollup = Path(f"/proc/{connection.info.backend_pid}/smaps_rollup").read_text()
    return int(re.search(r"^Anonymous:\s+(\d+) kB", rollup, re.M)[1]) / 1024


def contexts(connection):
    return float(connection.execute("SELECT sum(total_bytes) FROM pg_backend_memory_contexts").fetchone()[0]) / 2**20
