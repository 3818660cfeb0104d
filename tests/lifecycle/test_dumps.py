"""A dump that runs beside a drop of months: the month stays, and the dump succeeds."""

import os
import subprocess

import pytest

from harness.cluster import Cluster
from harness.database import Database
from harness.errors import sqlstate_of
from harness.months import add_audit_month, add_dead_months, bounds
from harness.waiting import wait_until
from harness.worker import log_of, status, without_worker

# Whoever drops a table waits at the end of its DROP until the gate is open.
GATE = """
    CREATE TABLE gate (open boolean);
    INSERT INTO gate VALUES (false);
    GRANT SELECT ON gate TO PUBLIC;
    CREATE FUNCTION wait_at_gate() RETURNS event_trigger LANGUAGE plpgsql AS $f$
    BEGIN
        WHILE NOT (SELECT g.open FROM public.gate g) LOOP PERFORM pg_sleep(0.01); END LOOP;
    END $f$;
    CREATE EVENT TRIGGER wait_at_gate ON sql_drop WHEN TAG IN ('DROP TABLE') EXECUTE FUNCTION wait_at_gate()"""


def is_at_gate(database):
    return database.value("SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'")


def open_gate(database):
    database.execute("UPDATE gate SET open = true")


class Dump:
    """A pg_dump that has begun."""

    def __init__(self, database, *options):
        cluster = database.cluster
        self.database = database
        self.process = subprocess.Popen([str(cluster.bindir / "pg_dump"), "-h", str(cluster.directory), "-U", "postgres", "-d", database.name, *options],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def waits(self):
        return self.database.value("SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'pg_dump' "
                                   "AND wait_event_type = 'Lock'")

    def result(self):
        output, errors = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, errors
        return output


def connected_dump(database):
    """What is connected as pg_dump is, and does nothing yet."""
    return database.connect(application_name="pg_dump")


def test_a_dump_that_connects_while_the_worker_drops_a_month_is_not_broken(served):
    """It has its snapshot, in which the month is, and waits for the lock that the drop holds."""
    with without_worker(served.cluster):
        [dead] = add_dead_months(served, 3)
        served.execute(GATE)
    wait_until(lambda: is_at_gate(served))
    dump = Dump(served)
    wait_until(dump.waits)
    open_gate(served)
    assert dead in dump.result()
    # That is no failure, and once the dump is gone so is the month.
    wait_until(lambda: dead not in bounds(served))
    assert [row for row in log_of(served, "drop dead months") if row["status"] != "ok"] == []
    assert status(served)["consecutive_failures"] == 0


@pytest.mark.parametrize("call", ["SELECT * FROM drop_old_cache_partitions(1)", "SELECT * FROM cache_run_maintenance()"])
def test_a_dump_that_connects_while_a_month_is_dropped_by_hand_is_not_broken(database, call):
    [dead] = add_dead_months(database, 3)
    database.execute(GATE)
    with database.connect() as connection:
        process = subprocess.Popen(["psql", "-X", "-h", str(database.cluster.directory), "-U", "postgres", "-d", database.name, "-c", call],
                                   stdout=subprocess.PIPE, text=True, env={**os.environ, "PATH": f"{database.cluster.bindir}:{os.environ['PATH']}"})
        wait_until(lambda: is_at_gate(database))
        dump = Dump(database)
        wait_until(dump.waits)
        open_gate(database)
        told = process.communicate(timeout=60)[0]
        assert process.returncode == 0 and "pg_dump" in told, told
        assert dead in dump.result()
        assert dead in bounds(database)
        connection.execute(call)
    assert dead not in bounds(database)


def test_an_owner_sees_the_dump_of_a_superuser(owned):  # noqa: F811
    [dead] = add_dead_months(owned, 3)
    owned.execute(f"ALTER TABLE {dead} OWNER TO cache_owner")
    with owned.connect() as connection:
        connection.execute("SET ROLE cache_owner")
        with connected_dump(owned):
            [(detail,)] = connection.execute("SELECT detail FROM drop_old_cache_partitions(1)").fetchall()
            assert "pg_dump" in detail
        wait_until(lambda: owned.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pg_dump'") == 0)
        with connection.transaction():
            assert connection.execute("SELECT dropped FROM drop_old_cache_partitions(1)").fetchall() == [(True,)]
    assert dead not in bounds(owned)


@pytest.mark.parametrize("call, step", [("SELECT partition_name, dropped, detail FROM drop_old_cache_partitions(1)", None),
                                        ("SELECT step, affected = 1, detail FROM cache_run_maintenance()", "drop dead months")])
def test_nothing_is_dropped_by_hand_while_a_dump_is_connected(database, call, step):
    [dead] = add_dead_months(database, 3)
    with database.connect() as connection:
        with connected_dump(database):
            rows = {name: (dropped, detail) for name, dropped, detail in connection.execute(call)}
            dropped, detail = rows[step or dead]
            assert not dropped and "pg_dump" in detail
            assert dead in bounds(database)
        wait_until(lambda: database.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pg_dump'") == 0)
        rows = {name: dropped for name, dropped, _ in connection.execute(call)}
        assert rows[step or dead] is True
    assert dead not in bounds(database)


DROPS = {
    "drop_old_cache_partitions": lambda database: ("SELECT * FROM drop_old_cache_partitions(1)", *add_dead_months(database, 3)),
    "cache_run_maintenance": lambda database: ("SELECT * FROM cache_run_maintenance()", *add_dead_months(database, 3)),
    "audit retention": lambda database: ("SELECT * FROM cache_run_maintenance()", add_audit_month(database, -20)),
}


@pytest.mark.parametrize("kind", DROPS)
def test_a_transaction_that_would_break_a_dump_does_not_commit(database, kind):
    """The month is locked, so a dump that has connected meanwhile waits, for what its snapshot shows."""
    call, month = DROPS[kind](database)
    parent = "cache_audit_log" if "audit" in month else "infinite_pages_cache_partitioned"
    is_there = lambda: database.value("SELECT count(*) FROM pg_inherits WHERE inhparent = %s::regclass AND inhrelid = to_regclass(%s)", (parent, month)) == 1
    with database.connect(autocommit=False) as connection:
        connection.execute(call)
        dump = Dump(database)
        wait_until(dump.waits)
        error = sqlstate_of(connection.commit)
        assert error.sqlstate == "55006" and error.message_detail and "pg_dump" in error.message_detail and error.message_hint
        assert month in dump.result()
        assert is_there()
        connection.execute(call)
        connection.commit()
        assert not is_there()


def test_a_transaction_that_has_taken_its_drops_back_commits(database):
    [dead] = add_dead_months(database, 3)
    with database.connect(autocommit=False) as connection:
        with pytest.raises(ZeroDivisionError), connection.transaction():
            connection.execute("SELECT * FROM drop_old_cache_partitions(1)")
            raise ZeroDivisionError
        with connected_dump(database):
            connection.execute("CREATE TABLE kept ()")
            connection.commit()
    assert dead in bounds(database) and database.value("SELECT to_regclass('kept') IS NOT NULL")


def test_a_transaction_that_has_dropped_a_month_is_not_prepared():
    """It would commit later, by COMMIT PREPARED, which asks for no dump."""
    cluster = Cluster({"max_prepared_transactions": 2, "infinite_pages_cache.naptime": 0})
    try:
        database = Database(cluster)
        [dead] = add_dead_months(database, 3)
        drop = "SELECT dropped FROM drop_old_cache_partitions(1)"
        with database.connect() as connection:
            connection.execute(f"BEGIN; {drop}")
            error = sqlstate_of(lambda: connection.execute("PREPARE TRANSACTION 'p'"))
            assert error.sqlstate == "0A000" and "month" in error.message_primary and error.message_detail and error.message_hint
            assert dead in bounds(database) and database.execute("SELECT gid FROM pg_prepared_xacts") == []
            # What has taken its drops back is prepared.
            connection.execute(f"ROLLBACK; BEGIN; SAVEPOINT s; {drop}; ROLLBACK TO s; CREATE TABLE kept (); PREPARE TRANSACTION 'p'")
            connection.execute("COMMIT PREPARED 'p'")
            assert connection.execute(drop).fetchall() == [(True,)]
    finally:
        cluster.remove()


def test_a_dump_that_connects_while_a_month_is_archived_has_it(database, empty_database):
    """It waits for the commit, and reads the month as a part of the log, as its snapshot shows it."""
    add_audit_month(database, -6, rows=7)
    with database.connect(autocommit=False) as connection:
        assert connection.execute("SELECT audit_rows FROM archive_audit_logs()").fetchall() == [(7,)]
        dump = Dump(database)
        wait_until(dump.waits)
        connection.commit()
    script = dump.result()
    database.cluster.client("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", empty_database.name, input=script)
    assert empty_database.value("SELECT count(*) FROM cache_audit_log") == 7


def test_months_are_not_archived_while_a_dump_is_connected(database):
    month = add_audit_month(database, -6)
    with connected_dump(database):
        error = sqlstate_of(lambda: database.execute("SELECT * FROM archive_audit_logs()"))
        assert error.sqlstate == "55006" and "pg_dump" in error.message_detail and error.message_hint
    wait_until(lambda: database.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pg_dump'") == 0)
    assert database.execute("SELECT archived_partition FROM archive_audit_logs()") == [(month,)]


def test_the_name_of_pg_dump_alone_keeps_no_month(database, cluster):
    """Anybody can call a connection so; it counts of whoever could do as the owner does."""
    [dead] = add_dead_months(database, 3)
    database.execute("CREATE ROLE someone LOGIN")
    try:
        with database.connect("someone", application_name="pg_dump"):
            assert database.execute("SELECT dropped FROM drop_old_cache_partitions(1)") == [(True,)]
    finally:
        database.execute("DROP ROLE someone")
    assert dead not in bounds(database)
