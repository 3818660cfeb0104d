"""The worker comes back by itself whatever ends it, loses nothing, and is never what a server waits for when it stops."""

import os
import signal
import threading
import time

import psycopg
import pytest

from harness.cluster import Cluster
from harness.database import Database
from harness.entries import ALICE, NEVER, add_entries, count, expired, lookup, upsert
from harness.maintenance import slow_down_deletions
from harness.months import add_audit_month, add_month, bounds, name_of
from harness.waiting import timed
from harness.worker import WORKER, is_served, launcher, status, wait_for_step, wait_for_ticks, wait_until, without_worker

# Longest that a fast stop may take: the worker is in the middle of a long cleanup.
STOP = 5


class Writers:
    """Clients that write until the server goes away, and remember what was committed."""

    def __init__(self, database, clients=2):
        self.database, self.committed = database, {}
        self.started = threading.Barrier(clients + 1)
        self.threads = [threading.Thread(target=self.write, args=(number,)) for number in range(clients)]

    def write(self, number):
        with self.database.connect() as connection:
            self.started.wait()
            try:
                for count in range(1_000_000):
                    key = (ALICE, "t", f"{number}/{count}")
                    upsert(connection, str(count), key, ttl="infinity")
                    self.committed[key] = count
            except psycopg.OperationalError:
                return

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        self.started.wait()
        wait_until(lambda: len(self.committed) > 50)
        return self

    def __exit__(self, *_):
        for thread in self.threads:
            thread.join(30)

    def all_there(self):
        with self.database.connect() as connection:
            return [key for key, content in self.committed.items() if lookup(connection, key) != content] == []


def kill_worker(database):
    os.kill(wait_for_step(database.cluster, database.name), signal.SIGKILL)


def kill_launcher(database):
    os.kill(launcher(database.cluster), signal.SIGKILL)


def kill_client(database):
    """A client that does nothing but look up."""
    with database.connect() as client:
        killer = threading.Timer(0.3, os.kill, (client.info.backend_pid, signal.SIGKILL))
        killer.start()
        with pytest.raises(psycopg.OperationalError):
            for _ in range(1_000_000):
                lookup(client)


def stop_at_once(database):
    wait_for_step(database.cluster, database.name)
    database.cluster.restart("immediate")


def kill_postmaster(database):
    wait_for_step(database.cluster, database.name)
    database.cluster.kill()
    database.cluster.start()


@pytest.mark.parametrize("crash", [kill_worker, kill_launcher, kill_client, stop_at_once, kill_postmaster])
def test_after_a_crash_every_entry_is_there_and_the_worker_goes_on(served, crash):
    cluster = served.cluster
    add_entries(served, 50, NEVER, prefix="live")
    # A step lasts some seconds, so that it is met in the middle.
    slow_down_deletions(served, "OLD.cache_key LIKE 'e%'", 0.05)
    add_entries(served, 40)
    before = launcher(cluster)
    with Writers(served) as writers:
        crash(served)
    cluster.wait_until_up()
    assert launcher(cluster) != before
    assert writers.all_there()
    assert count(served, "cache_key LIKE 'live%'") == 50
    # What had expired goes, and the next tick comes.
    wait_until(lambda: expired(served) == 0)
    wait_for_ticks(served)
    is_served(served)
    assert status(served)["last_error"] is None
    assert writers.all_there()


def terminate_launcher(database):
    return database.value("SELECT pg_terminate_backend(%s)", (launcher(database.cluster),))


def terminate_worker(database):
    return database.value("SELECT pg_terminate_backend(%s)", (wait_for_step(database.cluster, database.name),))


@pytest.mark.parametrize("terminate", [terminate_launcher, terminate_worker])
def test_after_a_termination_the_worker_goes_on_and_no_client_notices(served, terminate):
    slow_down_deletions(served, "OLD.cache_key LIKE 'e%'", 0.05)
    add_entries(served, 40)
    before = launcher(served.cluster)
    with served.connect() as client:
        assert terminate(served)
        wait_until(lambda: expired(served) == 0)
        is_served(served)
        assert lookup(client) is None
    assert (launcher(served.cluster) != before) == (terminate is terminate_launcher)


def test_a_cancelled_step_fails_and_the_others_run(served):
    with without_worker(served.cluster):
        slow_down_deletions(served, "OLD.cache_key LIKE 'e%'", 0.05)
        add_entries(served, 40)
        # A step that comes before, and one that comes after.
        add_month(served, -3)
        audit = add_audit_month(served, -20)
    pid = wait_for_step(served.cluster, served.name)
    assert served.value("SELECT pg_cancel_backend(%s)", (pid,))
    wait_until(lambda: served.value("SELECT to_regclass(%s) IS NULL", (audit,)))
    wait_until(lambda: expired(served) == 0)
    failed = served.execute("SELECT step, detail FROM cache_maintenance_log WHERE status = 'failed'")
    assert [step for step, _ in failed] == ["delete expired entries"]
    assert "cancel" in failed[0][1]
    # The same tick did the others.
    [run] = served.execute("SELECT run_at FROM cache_maintenance_log WHERE status = 'failed'")
    assert served.execute("SELECT step, affected FROM cache_maintenance_log WHERE run_at = %s AND status = 'ok' AND step IN "
                          "('drop dead months', 'trim audit log') ORDER BY 1", run) == [("drop dead months", 1), ("trim audit log", 1)]
    assert name_of(-3) not in bounds(served)


def test_terminations_again_and_again_use_nothing_up(served):
    """More of them than there are places for workers, or slots of anything."""
    with served.connect() as connection:
        until, killed = time.monotonic() + 4, 0
        while time.monotonic() < until:
            killed += connection.execute("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = %s",
                                         (WORKER,)).fetchone()[0]
        assert killed > 5
        connection.execute("SELECT pg_cancel_backend(%s)", (launcher(served.cluster),))
    is_served(served)
    wait_until(lambda: status(served)["consecutive_failures"] == 0)
    assert served.execute("SELECT * FROM cache_maintenance_log WHERE status <> 'ok'") == []


# ── stopping ─────────────────────────────────────────────────────────────────────────────────────

@pytest.fixture(scope="module")
def stopping():
    """A server with a lot to clean up, in batches that take seconds."""
    cluster = Cluster({"infinite_pages_cache.naptime": "0", "infinite_pages_cache.cleanup_batch_size": 100_000, "autovacuum": "off",
                       "max_wal_size": "4GB", "checkpoint_timeout": "1h"})
    database = Database(cluster)
    add_entries(database, 120_000)
    yield database
    cluster.remove()


@pytest.mark.parametrize("standby", ["", "nobody"], ids=["", "waiting for a standby that is not there"])
def test_a_fast_stop_does_not_wait_for_a_cleanup(stopping, standby):
    cluster = stopping.cluster
    assert expired(stopping) > 50_000
    cluster.configure({"synchronous_standby_names": standby, "infinite_pages_cache.naptime": "100ms"})
    cluster.execute("SELECT pg_reload_conf()")
    wait_for_step(cluster, stopping.name)
    time.sleep(0.2)
    [(running,)] = cluster.execute("SELECT count(*) FROM pg_stat_activity WHERE backend_type = %s AND query LIKE '%%delete expired%%'", (WORKER,))
    assert running == 1
    assert timed(cluster.stop) < STOP
    # Nothing ticks now, so what is left shows that the cleanup was cut short.
    cluster.configure({"infinite_pages_cache.naptime": "0", "synchronous_standby_names": ""})
    cluster.start()
    assert expired(stopping) > 0


def test_the_worker_does_not_wait_for_a_standby_that_is_not_there():
    """Nor does it leave its work undone: every kind of it, a DROP too."""
    cluster = Cluster({"infinite_pages_cache.naptime": "100ms", "synchronous_standby_names": "nobody", "synchronous_commit": "local",
                       "statement_timeout": "20s"})
    try:
        database = Database(cluster)
        add_month(database, -3)
        add_entries(database, 1000)
        cluster.configure({"synchronous_commit": "on"})
        cluster.execute("SELECT pg_reload_conf()")
        wait_until(lambda: expired(database) == 0 and name_of(-3) not in bounds(database))
        wait_for_ticks(database)
        assert status(database)["consecutive_failures"] == 0
        assert timed(cluster.stop) < STOP
    finally:
        cluster.remove()
