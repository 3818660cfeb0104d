"""What the tests of the background worker share: how it is watched, and work for it."""

import contextlib
import time

from harness import waiting
from harness.entries import add_entries, count

LAUNCHER = "infinite_pages_cache launcher"
WORKER = "infinite_pages_cache worker"


def wait_until(condition, timeout=20):
    """Waits without taking the machine from the server."""
    waiting.wait_until(condition, timeout, pause=0.05)


def processes(cluster, kind, database=None):
    """Process ids of the launcher or of workers."""
    sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = %s AND (%s::text IS NULL OR datname = %s)"
    return [pid for (pid,) in cluster.execute(sql, (kind, database, database))]


def launcher(cluster):
    """The process id of the launcher, once there is one."""
    wait_until(lambda: processes(cluster, LAUNCHER))
    [pid] = processes(cluster, LAUNCHER)
    return pid


def status(database):
    """The row of cache_maintenance_status."""
    with database.connect() as connection:
        cursor = connection.execute("SELECT * FROM cache_maintenance_status")
        [row] = cursor.fetchall()
        return dict(zip([column.name for column in cursor.description], row))


def wait_for_ticks(database, ticks=2, timeout=20):
    """Waits for that many ends of ticks: of two, the second tick began after the call."""
    seen = status(database)["last_run"]
    for _ in range(ticks):
        wait_until(lambda: status(database)["last_run"] not in (None, seen), timeout)
        seen = status(database)["last_run"]


def is_served(database, timeout=20):
    """A tick deletes what has expired; called anew it waits for a new tick."""
    key = f"served {time.monotonic_ns()}"
    add_entries(database, 1, prefix=key)
    wait_until(lambda: count(database, f"cache_key LIKE '{key}%'") == 0, timeout)


def wait_for_step(cluster, database, step="delete expired entries", timeout=20):
    """Waits until a worker is at a step in a database, by its name; returns the process id."""
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
    """What the maintenance log says of a step, oldest first."""
    with database.connect() as connection:
        cursor = connection.execute("SELECT run_at, status, affected, detail, role FROM cache_maintenance_log WHERE step = %s ORDER BY run_at", (step,))
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row)) for row in cursor]


@contextlib.contextmanager
def settings(cluster, **values):
    """Settings of the server for a while."""
    cluster.set(**values)
    try:
        yield
    finally:
        cluster.set(**dict.fromkeys(values))


@contextlib.contextmanager
def without_worker(cluster):
    """Nothing ticks meanwhile; at the end there is one tick for all that was prepared."""
    with settings(cluster, naptime=0):
        time.sleep(0.3)
        wait_until(lambda: not processes(cluster, WORKER))
        yield
