#!/usr/bin/env python
"""A long run: clients write, read and let expire, the worker ticks every second. Prints what it costs over time and
fails on any error, any deadlock, and on memory or tables that grow without end.

    python tests/long/soak.py                     20 minutes
    SOAK_SECONDS=60 python tests/long/soak.py     a short one
"""

import itertools
import json
import os
import random
import re
import statistics
import sys
import threading
import time
import uuid
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).parent.parent))
from harness.cluster import Cluster
from harness.database import Database
from harness.entries import CACHE, expired
from harness.worker import LAUNCHER, WORKER, wait_until

SECONDS = float(os.environ.get("SOAK_SECONDS", "1200"))
INTERVAL = min(30, SECONDS / 12)
CLIENTS = 8
USERS = [str(uuid.UUID(int=number, version=4)) for number in range(1, 41)]
TYPES = ["tone", "themes", "setting", "chapter_content"]
KEYS = 2500

# Growth that counts as a leak, in kB a minute, and from what length of run on it can be told from warming up.
LEAK = 200
LONG_ENOUGH = 600


class Client(threading.Thread):
    """A connection kept for the whole run; every other one is a tenant's."""

    def __init__(self, database, number):
        super().__init__(daemon=True)
        self.database, self.number = database, number
        self.connection = database.connect()
        self.pid = self.connection.info.backend_pid
        self.operations, self.lookups, self.errors = 0, [], []
        self.stop = threading.Event()

    def run(self):
        dice = random.Random(self.number)
        is_tenant = self.number % 2 == 1
        user = USERS[self.number]
        if is_tenant:
            self.connection.execute("SET ROLE soak_tenant")
            self.connection.execute("SELECT set_config('infinite_pages_cache.user_id', %s, false)", (user,))
        while not self.stop.is_set():
            key = (user if is_tenant else dice.choice(USERS), dice.choice(TYPES), f"k{int(dice.paretovariate(0.6)) % KEYS}")
            try:
                self.operate(dice, key)
            except psycopg.Error as error:
                self.errors.append(f"{error.sqlstate}: {error}")
                if self.connection.closed:
                    return
            self.operations += 1
            # People and models are slower than this; the machine is not to be the limit.
            time.sleep(0.002)

    def operate(self, dice, key):
        execute, chance = self.connection.execute, dice.random()
        content = json.dumps({"text": "x" * dice.randrange(50, 4000)})
        ttl = f"{dice.choice((1, 2, 5, 10, 30, 120))} seconds"
        if chance < 0.70:
            started = time.perf_counter()
            execute("SELECT cache_lookup(%s, %s, %s)", key)
            self.lookups.append(time.perf_counter() - started)
        elif chance < 0.92:
            execute("SELECT cache_upsert(%s, %s, %s, %s::jsonb, ttl => %s)", (*key, content, ttl))
        elif chance < 0.95:
            batch = [{"user_id": key[0], "content_type": key[1], "cache_key": f"k{dice.randrange(KEYS)}", "content": 1, "ttl": ttl}
                     for _ in range(20)]
            execute("SELECT cache_upsert_many(%s::jsonb)", (json.dumps(batch),))
        elif chance < 0.97:
            execute("SELECT cache_touch(%s, %s, %s, %s)", (*key, ttl))
        elif chance < 0.99:
            execute("SELECT cache_invalidate(%s, %s, %s)", key)
        else:
            execute("SELECT content FROM cache_lookup_many(%s, %s, %s)", (*key[:2], [f"k{dice.randrange(KEYS)}" for _ in range(20)]))


def memory(pid):
    """Resident and anonymous memory of a process in kB; None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return None
    found = dict(re.findall(r"^(Rss|Anonymous):\s+(\d+) kB", text, re.M))
    return (int(found["Rss"]), int(found["Anonymous"])) if found else None


def name_of_process(pid):
    """What a process of the server calls itself; None before it does."""
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
    except OSError:
        return None
    return title.removeprefix("postgres: ") if title.startswith("postgres: ") else None


class Workers(threading.Thread):
    """Looks at the server's processes for workers, which live for moments, and remembers the largest."""

    def __init__(self, cluster):
        super().__init__(daemon=True)
        self.postmaster = (cluster.data / "postmaster.pid").read_text().split()[0]
        self.peak, self.seen, self.stop = (0, 0), set(), threading.Event()

    def run(self):
        names = {}
        while not self.stop.is_set():
            children = Path(f"/proc/{self.postmaster}/task/{self.postmaster}/children").read_text().split()
            names = {pid: names.get(pid) or name_of_process(pid) for pid in children}
            for pid, name in names.items():
                if name and name.startswith(WORKER) and (now := memory(pid)):
                    self.seen.add(pid)
                    self.peak = max(self.peak[0], now[0]), max(self.peak[1], now[1])
            time.sleep(0.01)

    def take(self):
        peak, self.peak = self.peak, (0, 0)
        return peak


SIZES = f"""
    SELECT sum(pg_table_size(c.oid))::bigint, sum(pg_indexes_size(c.oid))::bigint, sum(s.n_dead_tup)::bigint, sum(s.n_live_tup)::bigint
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_stat_user_tables s ON s.relid = c.oid
    WHERE i.inhparent = '{CACHE}'::regclass"""


def slope(points):
    """Growth a minute of (seconds, value): the median of the slopes between any two. Least squares would take for growth
    what comes and goes, as a worker's memory in a tick that analyzes."""
    slopes = [60 * (y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in itertools.combinations(points, 2)]
    return statistics.median(slopes) if slopes else 0.0


def percentile(values, share):
    return sorted(values)[int(len(values) * share)] * 1000 if values else 0.0


def soak(cluster):
    database = Database(cluster)
    database.execute("CREATE ROLE soak_tenant NOLOGIN; SELECT cache_grant_tenant('soak_tenant'); "
                     "UPDATE cache_content_policies SET max_entries = 300 WHERE content_type = 'tone'")
    [(launcher,)] = cluster.execute("SELECT pid FROM pg_stat_activity WHERE backend_type = %s", (LAUNCHER,))
    clients = [Client(database, number) for number in range(CLIENTS)]
    workers = Workers(cluster)
    for thread in (workers, *clients):
        thread.start()

    columns = ("seconds", "ops/s", "p50 ms", "p99 ms", "max ms", "entries", "expired", "dead rows", "heap MB", "index MB",
               "launcher kB", "client kB", "worker peak kB", "failures")
    print(" ".join(f"{name:>14}" for name in columns), flush=True)
    started, rows = time.monotonic(), []
    with database.connect() as observer:
        before = 0
        while time.monotonic() - started < SECONDS:
            time.sleep(INTERVAL)
            elapsed = time.monotonic() - started
            lookups = []
            for client in clients:
                taken, client.lookups = client.lookups, []
                lookups += taken
            operations = sum(client.operations for client in clients)
            heap, index, dead, _ = observer.execute(SIZES).fetchone()
            entries, over = observer.execute(f"SELECT count(*), count(*) FILTER (WHERE expires_at < now()) FROM {CACHE}").fetchone()
            failures, = observer.execute("SELECT count(*) FROM cache_maintenance_log WHERE status <> 'ok'").fetchone()
            rows.append((elapsed, (operations - before) / INTERVAL, percentile(lookups, .5), percentile(lookups, .99), percentile(lookups, .99999),
                         entries, over, dead, heap / 1e6, index / 1e6, memory(launcher)[1],
                         sum(memory(client.pid)[1] for client in clients) / CLIENTS, workers.take()[1], failures))
            before = operations
            print(" ".join(f"{value:14.2f}" if isinstance(value, float) else f"{value:14d}" for value in rows[-1]), flush=True)
    for thread in (workers, *clients):
        thread.stop.set()
    for thread in (workers, *clients):
        thread.join(30)

    problems = [f"client {client.number}: {error}" for client in clients for error in client.errors]
    [(deadlocks,)] = database.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    if deadlocks:
        problems.append(f"{deadlocks} deadlocks")
    problems += [line for line in cluster.log().splitlines() if re.search(r"\b(ERROR|FATAL|PANIC):|WARNING:", line)]
    problems += [f"maintenance: {row}" for row in database.execute("SELECT step, detail FROM cache_maintenance_log WHERE status <> 'ok'")]
    for client in clients:
        client.connection.close()
    # With nobody writing, the worker finishes: in the end nothing that has expired is left.
    time.sleep(1)
    try:
        wait_until(lambda: expired(database) == 0, 60)
    except AssertionError:
        problems.append(f"{expired(database)} expired entries are left")
    ticks, successes = database.execute("SELECT last_run, last_success FROM cache_maintenance_status")[0]
    print(f"last run {ticks}, last success {successes}, {len(workers.seen)} workers seen, deadlocks {deadlocks}")

    half = [row for row in rows if row[0] > rows[-1][0] / 2]
    for name, column in (("launcher", 10), ("clients, on average", 11), ("workers, peak", 12)):
        growth = slope([(row[0], row[column]) for row in half])
        print(f"anonymous memory of {name}: {rows[0][column]:.0f} kB, {rows[-1][column]:.0f} kB at the end, "
              f"in the second half {growth:+.1f} kB a minute")
        if SECONDS >= LONG_ENOUGH and growth > LEAK:
            problems.append(f"memory of {name} grows by {growth:.1f} kB a minute")
    for name, column in (("heap", 8), ("indexes", 9)):
        growth = slope([(row[0], row[column]) for row in half])
        print(f"{name}: {rows[-1][column]:.1f} MB, in the second half {growth:+.3f} MB a minute")
        if SECONDS >= LONG_ENOUGH and growth * (SECONDS / 120) > 0.5 * rows[-1][column]:
            problems.append(f"{name} grow by {growth:.1f} MB a minute")
    if len(workers.seen) < 3:
        problems.append("hardly a worker was seen")
    print(f"operations: {sum(client.operations for client in clients)}")
    return problems


def main():
    cluster = Cluster({"infinite_pages_cache.naptime": "1s"})
    try:
        problems = soak(cluster)
    finally:
        cluster.remove()
    print("\n".join(problems[:50]) or "no error, no deadlock")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
