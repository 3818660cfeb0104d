"""Watch the background worker, give it work, and set it up."""

import contextlib
import time

from harness import waiting
from harness.entries import add_entries, count
from harness.reports import columns_of, report

LAUNCHER = "infinite_pages_cache launcher"
WORKER = "infinite_pages_cache worker"


def wait_until(condition, timeout=20):
    """Wait with longer pauses, to leave the machine to the server."""
    waiting.wait_until(condition, timeout, pause=0.05)


def processes(cluster, kind, database=None):
    """Process ids of the launcher or of workers."""
    sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = %s AND (%s::text IS NULL OR datname = %s)"
    return [pid for (pid,) in cluster.execute(sql, (kind, database, database))]


def launcher(cluster):
    """Wait for the launcher. Returns its process id."""
    wait_until(lambda: processes(cluster, LAUNCHER))
    [pid] = processes(cluster, LAUNCHER)
    return pid


def status(database):
    """The row of cache_maintenance_status."""
    [row] = report(database, "cache_maintenance_status")
    return row


def wait_for_ticks(database, ticks=2, timeout=20):
    """Wait until so many ticks have ended. The second of them began after the call."""
    seen = status(database)["last_run"]
    for _ in range(ticks):
        wait_until(lambda: status(database)["last_run"] not in (None, seen), timeout)
        seen = status(database)["last_run"]


def is_served(database, timeout=20):
    """Wait until the worker deletes an expired entry that is added here; so each call waits for a tick of its own."""
    key = f"served {time.monotonic_ns()}"
    add_entries(database, 1, prefix=key)
    wait_until(lambda: count(database, f"cache_key LIKE '{key}%'") == 0, timeout)


def wait_for_step(cluster, database, step="delete expired entries", timeout=20):
    """Wait until a worker is at a step in a database. Returns its process id."""
    found = []
    with cluster.connect() as connection:
        def look():
            found[:] = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE backend_type = %s AND datname = %s AND query LIKE %s",
                (WORKER, database, f"%{step}%")).fetchall()
            return found
        waiting.wait_until(look, timeout)
    return found[0][0]


def log_of(database, step):
    """The rows of the maintenance log for a step, oldest first."""
    with database.connect() as connection:
        return columns_of(connection, "SELECT run_at, status, affected, detail, role FROM cache_maintenance_log WHERE step = %s ORDER BY run_at", (step,))


@contextlib.contextmanager
def settings(cluster, **values):
    """Settings of the server, reset at the end."""
    cluster.set(**values)
    try:
        yield
    finally:
        cluster.set(**dict.fromkeys(values))


@contextlib.contextmanager
def without_worker(cluster):
    """Stop the worker meanwhile, so that one tick finds all that was prepared."""
    with settings(cluster, naptime=0):
        time.sleep(0.3)
        wait_until(lambda: not processes(cluster, WORKER))
        yield
