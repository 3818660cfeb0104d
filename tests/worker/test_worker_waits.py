"""Whoever sits on a lock for long holds up the worker, but not the clients, and not the worker's other work: nobody waits longer than lock_timeout for maintenance."""

import os
import random
import threading
import time

from harness.entries import ALICE, add_entries, expired, lookup, upsert
from harness.months import add_month, bounds, name_of
from harness.worker import wait_for_ticks, wait_until

# How long somebody sits idle in a transaction, in seconds: IPC_SITTER=600 for ten minutes.
SITTING = float(os.environ.get("IPC_SITTER", "20"))
BASELINE = min(SITTING, 120) / 4
CLIENTS = 4
LOCK_TIMEOUT = 0.3
KEYS = 200


class Lookups:
    """Clients that look up, some hundred times a second each, and remember how long each lookup took."""

    def __init__(self, database):
        self.database, self.times, self.errors = database, [], []

    def run(self, number):
        dice = random.Random(number)
        with self.database.connect() as connection:
            while not self.stop.is_set():
                key = dice.randrange(KEYS)
                started = time.perf_counter()
                try:
                    assert lookup(connection, (ALICE, "t", f"k{key}")) == key
                except Exception as error:
                    self.errors.append(error)
                self.times.append(time.perf_counter() - started)
                time.sleep(0.003)

    def __enter__(self):
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(number,)) for number in range(CLIENTS)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join(30)

    def p99(self):
        return sorted(self.times)[len(self.times) * 99 // 100]


def attempts(database):
    """Waits of the worker for the table, by the server's log."""
    return database.cluster.log().count("still waiting for AccessExclusiveLock")


def test_a_session_idle_in_a_transaction_holds_up_no_lookup(served):
    database = served
    cluster = database.cluster
    cluster.execute("ALTER SYSTEM SET log_lock_waits = on")
    cluster.set(lock_timeout=f"{int(LOCK_TIMEOUT * 1000)}ms")
    try:
        with database.connect() as connection:
            for key in range(KEYS):
                upsert(connection, str(key), (ALICE, "t", f"k{key}"), ttl="infinity")
        # Plans are made, and everything due is done.
        with Lookups(database):
            wait_for_ticks(database)
        with Lookups(database) as baseline:
            time.sleep(BASELINE)

        with database.connect(autocommit=False) as sitter:
            sitter.execute("SELECT count(*) FROM infinite_pages_cache_partitioned")
            # Attached, as the extension does it, a month needs no lock that the sitter denies.
            add_month(database, -3)
            tried = attempts(database)
            with Lookups(database) as held_up:
                until = time.monotonic() + SITTING
                while time.monotonic() < until:
                    # The other steps go on.
                    add_entries(database, 20)
                    wait_until(lambda: expired(database) == 0, 5)
                    time.sleep(0.5)
            tried = attempts(database) - tried
            assert name_of(-3) in bounds(database)
            sitter.rollback()
        # The waits have doubled meanwhile: the next attempt is no further ahead than the first one lies back.
        wait_until(lambda: name_of(-3) not in bounds(database), 60 + 1.2 * SITTING)
    finally:
        cluster.execute("ALTER SYSTEM RESET log_lock_waits")
        cluster.set(lock_timeout=None)
    assert baseline.errors == held_up.errors == []
    print(f"lookups: {len(baseline.times)} and {len(held_up.times)}, p99 {baseline.p99() * 1000:.2f} and {held_up.p99() * 1000:.2f} ms, "
          f"longest {max(baseline.times) * 1000:.1f} and {max(held_up.times) * 1000:.1f} ms, {tried} attempts")
    assert held_up.p99() < 5 * baseline.p99() + 0.005
    assert max(held_up.times) < LOCK_TIMEOUT + max(baseline.times) + 0.1
    # Attempts are spaced out: a tick each 200 ms would have made five a second.
    assert 2 <= tried <= 10 + SITTING / 20
    assert len(held_up.times) > 50 * SITTING
