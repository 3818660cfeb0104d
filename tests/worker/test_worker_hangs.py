"""Code of a user's that hangs holds up its own database for a while, others for less, and is told."""

import os
import signal
from datetime import datetime, timedelta, timezone

import pytest

from harness.clock import ClockCluster
from harness.cluster import Cluster
from harness.database import Database
from harness.entries import CACHE, add_entries, expired
from harness.months import add_audit_month
from harness.reports import columns_of, report
from harness.roles import temporary_roles
from harness.worker import WORKER, is_served, launcher, log_of, processes, status, wait_for_step, wait_until, without_worker

# Seconds that a transaction of small batches may take, and that the launcher waits on top of it.
LIMIT, GRACE = 60, 10
STEP = "delete expired entries"

SLEEPS = "BEGIN PERFORM pg_sleep(3600); RETURN OLD; END"
# It does not end for being cancelled.
INSISTS = "BEGIN LOOP BEGIN PERFORM pg_sleep(3600); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END"


def hang(database, body):
    database.execute(f"""
        CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS $${body}$$;
        CREATE TRIGGER hang BEFORE DELETE ON {CACHE} FOR EACH ROW EXECUTE FUNCTION hang()""")


def check(database, name):
    [row] = [row for row in report(database, "verify_production_cache()") if row["name"] == name]
    return row


def overdue_alert(database):
    [row] = [row for row in report(database, "cache_alerts") if "overdue" in row["rule"]]
    return row


def test_triggers_that_hang_take_no_place_for_ever():
    cluster = Cluster({"infinite_pages_cache.naptime": "200ms", "autovacuum": "off"})
    try:
        first, second, stubborn, other = [Database(cluster) for _ in range(4)]
        with without_worker(cluster):
            for database, body in ((first, SLEEPS), (second, SLEEPS), (stubborn, INSISTS)):
                hang(database, body)
                add_entries(database, 1)
                # A step after the one that hangs.
                add_audit_month(database, -20)
        # Each has one of the three places.
        for database in (first, second, stubborn):
            wait_for_step(cluster, database.name)
        [worker] = processes(cluster, WORKER, stubborn.name)
        add_entries(other, 3)

        # The two that can be cancelled have failed at that step, and have gone on with the others.
        wait_until(lambda: expired(other) == 0, LIMIT + GRACE)
        for database in (first, second):
            wait_until(lambda: log_of(database, "trim audit log"))
            [failure] = log_of(database, STEP)
            assert failure["status"] == "failed" and "longer than 60 seconds" in failure["detail"], failure
            assert failure["run_at"] == log_of(database, "trim audit log")[0]["run_at"]
            now = status(database)
            assert now["consecutive_failures"] > 0 and "longer than 60 seconds" in now["last_error"]
        assert len([line for line in cluster.log().splitlines() if STEP in line and "longer than 60 seconds" in line]) >= 2

        # The one that cannot keeps its place a little longer, which is told, and is then terminated.
        wait_until(lambda: status(stubborn)["worker"] == "overdue", GRACE)
        late = status(stubborn)
        assert late["next_run"] < datetime.now(timezone.utc) - timedelta(seconds=LIMIT)
        row = check(stubborn, "the worker runs")
        assert not row["ok"] and "overdue" in row["detail"] and "cache_maintenance_progress" in row["hint"]
        assert overdue_alert(stubborn)["firing"] and not overdue_alert(other)["firing"]
        wait_until(lambda: worker not in processes(cluster, WORKER), 2 * GRACE)
        wait_until(lambda: STEP in (status(stubborn)["last_error"] or ""))
        assert "terminated" in status(stubborn)["last_error"]
        assert status(stubborn)["consecutive_failures"] > 0
        # Its other steps have their turn.
        wait_until(lambda: log_of(stubborn, "trim audit log"))
        wait_until(lambda: status(stubborn)["worker"] == "on")
        is_served(other, 5)
    finally:
        cluster.remove()


@pytest.fixture(scope="module")
def slow_clock():
    cluster = ClockCluster({"infinite_pages_cache.naptime": "30s", "autovacuum": "off"})
    yield cluster
    cluster.remove()


def test_maintenance_that_does_not_come_is_told(slow_clock):
    """The launcher stands still, as when the machine has no time for it."""
    cluster = slow_clock
    database = Database(cluster)
    wait_until(lambda: status(database)["last_run"] is not None)
    assert status(database)["worker"] == "on" and check(database, "the worker runs")["ok"]
    assert (overdue_alert(database)["value"], overdue_alert(database)["firing"]) == (0, False)
    pid = launcher(cluster)
    os.kill(pid, signal.SIGSTOP)
    try:
        begun = datetime.now(timezone.utc)
        cluster.set_clock(begun + timedelta(seconds=120))
        assert status(database)["worker"] == "on"
        cluster.set_clock(begun + timedelta(seconds=200))
        assert status(database)["worker"] == "overdue"
        assert status(database)["next_run"] <= begun + timedelta(seconds=40)
        with temporary_roles(cluster, "watcher", "backend") as _, database.connect() as connection:
            connection.execute("GRANT pg_read_all_data TO watcher")
            connection.execute("SELECT cache_grant_service('backend')")
            for role in ("watcher", "backend", "postgres"):
                connection.execute(f"SET ROLE {role}")
                [alert] = [row for row in columns_of(connection, "SELECT * FROM cache_alerts") if "overdue" in row["rule"]]
                assert alert["firing"] and alert["severity"] == "critical" and 3.2 < alert["value"] < 4, alert
            connection.execute("RESET ROLE")
        # One that has never had a turn.
        fresh = Database(cluster)
        assert status(fresh)["worker"] == "on" and status(fresh)["last_run"] is None
        cluster.set_clock(begun + timedelta(seconds=500))
        assert status(fresh)["worker"] == "overdue" and status(fresh)["last_run"] is None
        # A worker that is switched off is not late.
        cluster.set(naptime=0)
        wait_until(lambda: status(fresh)["worker"] == "off")
        assert overdue_alert(fresh)["value"] is None
        cluster.set(naptime=None)
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: status(database)["worker"] == "on" and status(fresh)["worker"] == "on")
    for row in (database, fresh):
        row.drop()


def test_a_run_by_hand_that_does_not_end_is_told(slow_clock):
    """Ticks come, and find that they cannot run."""
    cluster = slow_clock
    database = Database(cluster)
    wait_until(lambda: status(database)["last_run"] is not None)
    with database.connect(autocommit=False) as connection:
        wait_until(lambda: connection.execute("SELECT step FROM cache_run_maintenance()").fetchone()[0] != "run")
        begun = status(database)
        cluster.set_clock(begun["last_run"] + timedelta(minutes=20))
        # A reload has the launcher look at the clock.
        cluster.execute("SELECT pg_reload_conf()")
        wait_until(lambda: status(database)["next_run"] > begun["last_run"] + timedelta(minutes=19))
        late = status(database)
        assert late["worker"] == "overdue" and late["last_run"] == begun["last_run"]
        assert overdue_alert(database)["firing"] and 19 < overdue_alert(database)["value"] < 22
        connection.rollback()
    cluster.execute("SELECT pg_reload_conf()")
    cluster.set_clock(begun["last_run"] + timedelta(minutes=22))
    cluster.execute("SELECT pg_reload_conf()")
    wait_until(lambda: status(database)["worker"] == "on")
    database.drop()


def test_a_worker_that_is_switched_on_is_not_late(slow_clock):
    """However long it was off."""
    cluster = slow_clock
    database = Database(cluster)
    wait_until(lambda: status(database)["last_run"] is not None)
    cluster.set(naptime=0)
    wait_until(lambda: status(database)["worker"] == "off")
    pid = launcher(cluster)
    cluster.set_clock(datetime.now(timezone.utc) + timedelta(days=2))
    cluster.set(naptime="1min")
    seen = set()
    wait_until(lambda: seen.add(status(database)["worker"]) or (status(database)["last_run"] or datetime.now(timezone.utc)) > datetime.now(timezone.utc) + timedelta(days=1), 30)
    assert seen <= {"on", "off"}
    assert launcher(cluster) == pid
    cluster.set(naptime=None)
    database.drop()
