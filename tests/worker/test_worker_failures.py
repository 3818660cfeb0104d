"""Trouble with one thing stops no other, is told once each time, and is tried again less and less often."""

import re
import time

import pytest

from harness.cluster import Cluster
from harness.database import Database
from harness.entries import CACHE, add_entries, expired, lookup, upsert
from harness.months import add_month, bounds, name_of
from harness.worker import LAUNCHER, WORKER, is_served, launcher, log_of, processes, status, wait_for_ticks, wait_until, without_worker

# ── a step that fails ────────────────────────────────────────────────────────────────────────────


def take_a_name(database):
    """A table of somebody's stands where a coming month's partition is to be."""
    database.execute(f"DROP TABLE {name_of(3)}; CREATE TABLE {name_of(3)} (mine text)")


def give_it_back(database):
    database.execute(f"DROP TABLE {name_of(3)}")


def forbid_deletions(database):
    database.execute(f"""
        CREATE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'nothing is deleted here'; END$$;
        CREATE TRIGGER forbid BEFORE DELETE ON {CACHE} FOR EACH ROW WHEN (OLD.cache_key LIKE 'trap%') EXECUTE FUNCTION forbid()""")
    add_entries(database, 3, prefix="trap")


def allow_deletions(database):
    database.execute(f"DROP TRIGGER forbid ON {CACHE}; DROP FUNCTION forbid()")


TRAPS = {
    "premake partitions": (take_a_name, give_it_back, name_of(3)),
    "delete expired entries": (forbid_deletions, allow_deletions, "nothing is deleted here"),
}


@pytest.mark.parametrize("step", TRAPS)
def test_a_failing_step_is_told_once_an_attempt_and_holds_up_no_other(served, step):
    trap, release, message = TRAPS[step]
    other = "drop dead months"
    with without_worker(served.cluster):
        trap(served)
        add_month(served, -3)
        logged = len(served.cluster.log())
    # One failure each attempt: after 400 ms, 800 ms, … So many ticks pass between them.
    wait_until(lambda: len(log_of(served, step)) >= 4, 30)
    failures = log_of(served, step)
    assert {row["status"] for row in failures} == {"failed"}
    assert all(message in row["detail"] for row in failures)
    gaps = [(after["run_at"] - before["run_at"]).total_seconds() for before, after in zip(failures, failures[1:])]
    assert gaps[0] > 0.35
    assert all(later > 1.3 * earlier for earlier, later in zip(gaps, gaps[1:])), gaps
    # The server's log says it as often.
    told = [line for line in served.cluster.log()[logged:].splitlines() if re.search(r"\b(LOG|WARNING):", line) and message in line]
    assert len(failures) <= len(told) <= len(log_of(served, step)), told

    # The others ran in the very tick that failed first, and run ever since.
    assert [(row["status"], row["affected"], row["run_at"]) for row in log_of(served, other)] == [("ok", 1, failures[0]["run_at"])]
    now = status(served)
    assert message in now["last_error"] and now["worker"] == "on"
    assert now["consecutive_failures"] >= 4
    if step != "delete expired entries":
        is_served(served)
    # A tick in which the step is not tried is no success.
    for _ in range(5):
        wait_for_ticks(served, 1)
        later = status(served)
        assert later["consecutive_failures"] >= now["consecutive_failures"]
        assert later["last_success"] is None or later["last_success"] < failures[0]["run_at"]
    checks = {name: (ok, hint) for name, ok, hint in served.execute("SELECT name, ok, hint FROM verify_production_cache()")}
    assert any("tick" in name and not ok and hint for name, (ok, hint) in checks.items()), checks

    release(served)
    wait_until(lambda: status(served)["consecutive_failures"] == 0, 30)
    recovered = status(served)
    assert recovered["last_success"] > failures[-1]["run_at"]
    if step == "delete expired entries":
        wait_until(lambda: expired(served) == 0)
    else:
        wait_until(lambda: name_of(3) in bounds(served))
    # Trouble that comes again is met with short waits again.
    before = len(log_of(served, step))
    trap(served)
    wait_until(lambda: len([row for row in log_of(served, step)[before:] if row["status"] == "failed"]) >= 3, 5)
    release(served)


def test_maintenance_by_hand_and_the_worker_exclude_each_other(served):
    with served.connect(autocommit=False) as connection:
        wait_until(lambda: connection.execute("SELECT step FROM cache_run_maintenance()").fetchone()[0] != "run")
        add_entries(served, 5)
        time.sleep(1)
        assert expired(served) == 5
        connection.commit()
    wait_until(lambda: expired(served) == 0)
    # That it could not run is no failure.
    assert status(served)["consecutive_failures"] == 0


def test_a_run_by_hand_counts_as_a_run(served):
    with without_worker(served.cluster):
        before = served.value("SELECT clock_timestamp()")
        served.execute("SELECT * FROM cache_run_maintenance()")
        now = status(served)
        assert now["worker"] == "off" and now["next_run"] is None
        assert now["last_run"] >= before and now["last_success"] >= before


def test_after_a_restart_the_last_success_is_what_the_log_knows():
    cluster = Cluster({"infinite_pages_cache.naptime": "200ms", "autovacuum": "off"})
    try:
        database = Database(cluster)
        with without_worker(cluster):
            database.execute("SELECT * FROM cache_run_maintenance()")
            by_hand = status(database)["last_success"]
        add_entries(database, 3)
        wait_until(lambda: log_of(database, "delete expired entries"))
        cluster.set(naptime=0)
        wait_until(lambda: not processes(cluster, WORKER))
        assert status(database)["last_success"] > by_hand

        def restarted():
            cluster.restart()
            return status(database)

        # The worker's own run, not the older one by hand.
        by_worker = max(row["run_at"] for row in log_of(database, "delete expired entries"))
        now = restarted()
        assert now["worker"] == "off" and by_worker > by_hand
        assert now["last_success"] == now["last_run"] == by_worker
        # While a step waits to be tried again, what others did is no success.
        write = "INSERT INTO cache_maintenance_runs (run_at, step, status, role) VALUES (%s + %s * interval '1 minute', %s, %s, 'x')"
        for minutes, step, result in ((1, "premake partitions", "failed"), (2, "delete expired entries", "ok"), (9, "delete expired entries", "ok")):
            database.execute(write, (by_worker, minutes, step, result))
        now = restarted()
        assert now["last_success"] == by_worker and now["last_run"] > by_worker
        # It was, once the step was due again and did not fail; and once it did something.
        database.execute(write, (by_worker, 17, "delete expired entries", "ok"))
        assert (restarted()["last_success"] - by_worker).total_seconds() == 17 * 60
        database.execute("DELETE FROM cache_maintenance_runs WHERE run_at > %s + interval '10 minutes'", (by_worker,))
        database.execute(write, (by_worker, 8, "premake partitions", "ok"))
        assert (restarted()["last_success"] - by_worker).total_seconds() == 9 * 60
        # The first tick knows better.
        cluster.set(naptime=None)
        wait_until(lambda: (status(database)["consecutive_failures"], status(database)["worker"]) == (0, "on"))
    finally:
        cluster.remove()


# ── no place for a worker ────────────────────────────────────────────────────────────────────────

# Static workers, which take their places when the server starts: ours, and PostgreSQL's for logical replication.
STATIC = 2


def test_when_all_places_for_workers_are_taken_it_says_so_now_and_then():
    cluster = Cluster({"infinite_pages_cache.naptime": "100ms", "max_worker_processes": STATIC, "autovacuum": "off"})
    try:
        database = Database(cluster)
        [(others,)] = cluster.execute("SELECT count(*) FROM pg_stat_activity WHERE backend_type IN ('logical replication launcher', %s)", (LAUNCHER,))
        assert others == STATIC
        add_month(database, -3)
        add_entries(database, 10)
        time.sleep(6)
        assert processes(cluster, WORKER) == []
        # Some 60 ticks would have come; their waits double from 100 ms on.
        told = [line for line in cluster.log().splitlines() if "max_worker_processes" in line]
        hints = [line for line in told if "HINT:" in line]
        assert 3 <= len(hints) <= 8, told
        assert len(told) <= 2 * len(hints)
        assert processes(cluster, LAUNCHER) == [launcher(cluster)]
        # The check says what to raise.
        hints = dict(database.execute("SELECT name, hint FROM verify_production_cache() WHERE NOT ok"))
        assert "max_worker_processes" in hints["the last tick succeeded"]
        assert "max_worker_processes" in hints.get("the worker runs", "max_worker_processes")
        # Nothing else is touched.
        with database.connect() as connection:
            upsert(connection, "1")
            assert lookup(connection) == 1
        rows = dict(database.execute("SELECT step, affected FROM cache_run_maintenance()"))
        assert rows["delete expired entries"] == 10 and rows["drop dead months"] == 1
        add_entries(database, 10)

        cluster.configure({"max_worker_processes": STATIC + 1})
        cluster.restart()
        wait_until(lambda: expired(database) == 0)
        is_served(database)
        # One place serves several databases in turn.
        second = Database(cluster)
        is_served(second)
        is_served(database)
    finally:
        cluster.remove()


def test_a_server_without_a_place_for_the_launcher_serves_all_the_same():
    cluster = Cluster({"infinite_pages_cache.naptime": "200ms", "max_worker_processes": STATIC - 1})
    try:
        database = Database(cluster)
        with database.connect() as connection:
            upsert(connection, "1")
            assert lookup(connection) == 1
            assert {result for (result,) in connection.execute("SELECT status FROM cache_run_maintenance()")} == {"ok"}
            # The operator is told.
            failed = connection.execute("SELECT name, hint FROM verify_production_cache() WHERE NOT ok").fetchall()
            assert failed and any("max_worker_processes" in hint for _, hint in failed)
    finally:
        cluster.remove()
