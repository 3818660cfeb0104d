#!/usr/bin/env python
"""Load: as many connections as the guide allows look up, write and touch while the worker ticks, and now and then a session holds a lock on the
table that maintenance has to wait for. Prints latencies with and without that session, and fails on any error, and when the session makes
lookups wait longer than infinite_pages_cache.lock_timeout lets maintenance hold them up.

    python tests/long/load.py                                       15 minutes with a million entries
    LOAD_SECONDS=60 LOAD_ENTRIES=20000 python tests/long/load.py    a short one
"""

import array
import collections
import os
import re
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from harness.cluster import Cluster
from harness.database import Database
from harness.entries import CACHE
from harness.months import add_dead_months, partitions
from harness.worker import status, wait_until

SECONDS = int(os.environ.get("LOAD_SECONDS", "900"))
ENTRIES = int(os.environ.get("LOAD_ENTRIES", "1000000"))
# max_connections of the deployment guide.
CLIENTS = 200
USERS, KEYS = 1000, ENTRIES // 1000
# In milliseconds, as the extension has it by default.
LOCK_TIMEOUT = 500
# The lock is held for a tenth of the time in the middle of each third.
HOLDS, HELD = 3, max(4, SECONDS / 30)

SETTINGS = {
    "max_connections": CLIENTS + 20, "infinite_pages_cache.naptime": "1s", "infinite_pages_cache.lock_timeout": f"{LOCK_TIMEOUT}ms",
    "shared_buffers": "1GB", "max_wal_size": "4GB", "log_line_prefix": "%m [%p] %a %e ",
}

# What a client does, of a hundred times.
SHARES = {"lookup": 80, "upsert": 15, "touch": 3, "invalidate": 2}
ADDRESS = "md5('user ' || :user)::uuid, 'chapter_content', 'k' || :key"
SCRIPTS = {
    "lookup": f"SELECT cache_lookup({ADDRESS});",
    "upsert": f"SELECT cache_upsert({ADDRESS}, jsonb_build_object('text', repeat('x', :size)), ttl => '10 minutes');",
    "touch": f"SELECT cache_touch({ADDRESS}, '20 minutes');",
    "invalidate": f"SELECT cache_invalidate({ADDRESS});",
}
RANDOM = f"\\set user random(1, {USERS})\n\\set key random_zipfian(1, {KEYS}, 1.05)\n\\set size random(50, 4000)\n"


def fill(database):
    """The entries, in batches as an application would import them."""
    started = time.monotonic()
    per_call = min(10_000, ENTRIES)
    with database.connect() as connection:
        connection.execute("UPDATE cache_content_policies SET max_entries = NULL")
        for first in range(0, ENTRIES, per_call):
            connection.execute(
                "SELECT cardinality(cache_upsert_many((SELECT jsonb_agg(jsonb_build_object('user_id', md5('user ' || (1 + n %% %s)), "
                "'content_type', 'chapter_content', 'cache_key', 'k' || (1 + n / %s), 'content', jsonb_build_object('text', repeat('x', 50 + n %% 1000)), "
                "'ttl', '1 day')) FROM generate_series(%s::int, %s::int) n)))", (USERS, USERS, first, min(first + per_call, ENTRIES) - 1))
        [(count,)] = connection.execute(f"SELECT count(*) FROM {CACHE}")
        assert count == ENTRIES, count
        connection.execute(f"VACUUM (ANALYZE) {CACHE}")
    print(f"{ENTRIES} entries in {time.monotonic() - started:.0f} s", flush=True)


class Holder(threading.Thread):
    """Holds a lock on the table, with which clients read and write and maintenance cannot drop a month; it has some to drop."""

    def __init__(self, database):
        super().__init__(daemon=True)
        self.database, self.held, self.waits, self.error = database, [], 0, None

    def run(self):
        try:
            for _ in range(HOLDS):
                time.sleep((SECONDS / HOLDS - HELD) * 0.5)
                self.hold(HELD)
                time.sleep((SECONDS / HOLDS - HELD) * 0.4)
        except BaseException as error:  # noqa: BLE001
            self.error = error

    def hold(self, seconds):
        with self.database.connect(autocommit=False) as session, self.database.connect() as observer:
            # What a report or an export holds, and what maintenance's own lock conflicts with.
            session.execute(f"LOCK TABLE {CACHE} IN ACCESS SHARE MODE")
            add_dead_months(self.database, 13, 12)
            started = time.time()
            while time.time() < started + seconds:
                self.waits += observer.execute(
                    "SELECT count(*) FROM pg_locks WHERE relation = %s::regclass AND mode = 'AccessExclusiveLock' AND NOT granted", (CACHE,)).fetchone()[0]
                time.sleep(0.02)
            session.rollback()
            self.held.append((started, time.time()))


def pgbench(database, directory):
    """Runs the clients; returns what pgbench says."""
    scripts = []
    for name, share in SHARES.items():
        (directory / name).write_text(RANDOM + SCRIPTS[name] + "\n")
        scripts += ["-f", f"{directory / name}@{share}"]
    return database.cluster.client("pgbench", "-n", "-c", CLIENTS, "-j", 2, "-T", SECONDS, "-M", "prepared", "-l", f"--log-prefix={directory / 'latency'}",
                                   *scripts, database.name, check=False)


def latencies_of(directory):
    """Each call: when it ended, which script, and its milliseconds."""
    names = list(SHARES)
    for file in directory.glob("latency.*"):
        with file.open() as lines:
            for line in lines:
                # Client, transaction, microseconds, script, and the moment of its end.
                _, _, elapsed, script, seconds, microseconds, *_ = line.split()
                if elapsed.isdigit():
                    yield int(seconds) + int(microseconds) / 1e6, names[int(script)], int(elapsed) / 1000


def percentiles(values):
    values = sorted(values)
    return [values[min(len(values) - 1, int(len(values) * share))] for share in (0.5, 0.95, 0.99, 0.999)] + [values[-1]]


def load(cluster):
    database = Database(cluster)
    fill(database)
    holder = Holder(database)
    holder.start()
    directory = cluster.directory / "load"
    directory.mkdir()
    result = pgbench(database, directory)
    holder.join(SECONDS)
    problems = [f"holder: {holder.error!r}"] if holder.error else []
    # A client whose statement fails is aborted, and then pgbench fails.
    if result.returncode or "aborted" in result.stderr:
        problems.append(f"pgbench: {result.returncode}: {result.stdout[-1000:]}{result.stderr[-1000:]}")

    def is_held(moment, elapsed):
        return any(start <= moment and moment - elapsed / 1000 <= end for start, end in holder.held)

    groups = collections.defaultdict(lambda: array.array("d"))
    for moment, script, elapsed in latencies_of(directory):
        groups[script, is_held(moment, elapsed)].append(elapsed)
    print(f"{'':24}{'calls':>10}" + "".join(f"{name:>10}" for name in ("p50 ms", "p95 ms", "p99 ms", "p99.9 ms", "max ms")))
    figures = {}
    for script in SHARES:
        for held in (False, True):
            if values := groups[script, held]:
                figures[script, held] = percentiles(values)
                print(f"{script + (' beside the lock' if held else ''):24}{len(values):10}" + "".join(f"{value:10.2f}" for value in figures[script, held]))
    calls = sum(map(len, groups.values()))
    print(f"{calls / SECONDS:.0f} calls a second, {holder.waits} looks saw maintenance wait for the lock")

    if calls < 10 * SECONDS or len(holder.held) < HOLDS or ("lookup", True) not in figures:
        problems.append("hardly a call, or the lock was not held")
    else:
        without, beside = figures["lookup", False][2], figures["lookup", True][2]
        print(f"p99 of lookups: {without:.2f} ms, beside the lock {beside:.2f} ms")
        if beside - without >= LOCK_TIMEOUT:
            problems.append(f"beside the lock lookups take {beside - without:.0f} ms longer")
    if holder.waits == 0:
        problems.append("maintenance did not wait for the lock: nothing was measured")
    problems += [line for line in cluster.log().splitlines() if re.search(r"\b(ERROR|FATAL|PANIC):", line)]
    [(deadlocks,)] = database.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    duplicates = database.value(f"SELECT count(*) FROM (SELECT FROM {CACHE} GROUP BY user_id, content_type, cache_key HAVING count(*) > 1) d")
    if deadlocks or duplicates:
        problems.append(f"{deadlocks} deadlocks, {duplicates} keys with two rows")
    # Once nobody holds a lock the old months go.
    usual = {name for (name,) in database.execute("SELECT 'infinite_pages_cache_' || to_char(d, 'YYYY_MM') FROM generate_series("
                                                  "date_trunc('month', now() AT TIME ZONE 'UTC'), now() AT TIME ZONE 'UTC' + interval '4 months', '1 month') d")}
    try:
        wait_until(lambda: partitions(database) <= usual, 60)
    except AssertionError:
        problems.append(f"months are left: {partitions(database) - usual}")
    if error := status(database)["last_error"]:
        print(f"last error of the worker: {error}")
    return problems


def main():
    cluster = Cluster(SETTINGS)
    try:
        problems = load(cluster)
    finally:
        cluster.remove()
    print("\n".join(problems[:50]) or "no error, no deadlock, one row of each key")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
