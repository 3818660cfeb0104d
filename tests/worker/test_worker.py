"""The background worker serves the databases that have the cache, as told by its settings, and shows what it does."""

import re
import subprocess
import time

import pytest

from harness.cluster import BINDIR, Cluster, as_server_user
from harness.database import Database
from harness.entries import ALICE, CACHE, LONG_AGO, add_entries, count, expired, lookup, upsert
from harness.errors import sqlstate_of
from harness.maintenance import STEPS, slow_down_deletions
from harness.months import add_audit_month, add_month, bounds, name_of
from harness.reports import columns_of
from harness.roles import ESCAPES, temporary_roles
from harness.worker import LAUNCHER, WORKER, is_served, launcher, log_of, processes, settings, status, wait_for_step, wait_for_ticks, wait_until, without_worker

# ── which databases ──────────────────────────────────────────────────────────────────────────────

@pytest.fixture(scope="module")
def census():
    """Databases of every kind, in a server of their own, whose numbers nothing but the worker changes."""
    cluster = Cluster({"infinite_pages_cache.naptime": "100ms", "autovacuum": "off", "statement_timeout": "60s"})
    yield cluster
    cluster.remove()


def transactions(cluster, *names):
    """Transactions in databases; whoever connects to one makes some."""
    return dict(cluster.execute("SELECT datname, xact_commit + xact_rollback FROM pg_stat_database WHERE datname = ANY (%s)", (list(names),)))


def test_databases_with_the_cache_are_served_and_others_left_alone(census):
    with_cache, without = Database(census), Database(census, extension=False)
    template = Database(census)
    add_entries(template, 5)
    wait_until(lambda: expired(template) == 0)
    census.execute(f"ALTER DATABASE {template.name} IS_TEMPLATE true")
    time.sleep(0.5)
    with template.connect() as connection:
        connection.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, expires_at) VALUES (%s, 't', 'k', '1', %s)", (ALICE, LONG_AGO))
    # Whoever was connected has told the numbers when it left.
    others = (without.name, template.name, "template0", "template1")
    time.sleep(1)
    before = transactions(census, *others)
    for _ in range(3):
        is_served(with_cache)
        wait_for_ticks(with_cache, 5)
    assert transactions(census, *others) == before
    assert expired(template) == 1
    assert status(template)["last_run"] is not None      # it was served before it became a template

    # A database made later is served, and so is one made from a template that has the extension.
    later = Database(census)
    is_served(later)
    census.execute(f"CREATE DATABASE copy TEMPLATE {template.name}")
    copy = Database.existing(census, "copy")
    wait_until(lambda: expired(copy) == 0)
    wait_for_ticks(copy)
    # And one that is no template any more.
    census.execute(f"ALTER DATABASE {template.name} IS_TEMPLATE false")
    wait_until(lambda: expired(template) == 0)
    # And one that gets the extension after it has been seen without.
    without.execute("CREATE EXTENSION infinite_pages_cache")
    is_served(without, timeout=5)
    for database in (with_cache, without, template, later, copy):
        database.drop()


def test_many_databases_are_all_served(census):
    """Some have more to do than a tick has time for; they keep no other from its turn, and no two workers meet."""
    slow, quick = [Database(census) for _ in range(3)], [Database(census) for _ in range(5)]
    for database in slow:
        slow_down_deletions(database, "true", 0.02)
        add_entries(database, 5000)
    for database in slow:
        wait_for_step(census, database.name)
    for database in quick:
        add_entries(database, 3)
    most, until = 0, time.monotonic() + 30
    with census.connect() as connection:
        while quick_left := [database for database in quick if expired(database)]:
            assert time.monotonic() < until, f"{len(quick_left)} of {len(quick)} databases have had no turn"
            for _ in range(20):
                served = [name for (name,) in connection.execute("SELECT datname FROM pg_stat_activity WHERE backend_type = %s", (WORKER,))]
                assert len(served) == len(set(served)), served
                most = max(most, len(served))
                time.sleep(0.01)
    assert most == 3
    assert all(expired(database) > 0 for database in slow)
    for database in slow + quick:
        database.drop()


def test_a_database_whose_drop_was_interrupted_is_left_alone(census):
    """PostgreSQL marks it so, and refuses each connection to it with an error in the log."""
    database = Database(census)
    is_served(database)
    census.execute("UPDATE pg_database SET datconnlimit = -2 WHERE datname = %s", (database.name,))
    time.sleep(0.5)
    logged = len(census.log())
    time.sleep(2)
    assert "invalid database" not in census.log()[logged:]
    census.execute(f"DROP DATABASE {database.name}")


HOSTILE = {
    "timeouts": "statement_timeout = '1ms', idle_in_transaction_session_timeout = '1ms', lock_timeout = '1ms'",
    "styles": "\"TimeZone\" = 'Pacific/Kiritimati', \"DateStyle\" = 'German', \"IntervalStyle\" = 'sql_standard', extra_float_digits = '-15'",
    "isolation": "default_transaction_isolation = 'serializable', default_transaction_deferrable = 'on'",
    "names": "search_path = 'evil', quote_all_identifiers = 'on', standard_conforming_strings = 'off', default_table_access_method = 'heap', check_function_bodies = 'off'",
    "planner": "enable_indexscan = 'off', enable_bitmapscan = 'off', plan_cache_mode = 'force_custom_plan', constraint_exclusion = 'off'",
    "compilation": "jit = 'on', jit_above_cost = '0', jit_inline_above_cost = '0', jit_optimize_above_cost = '0'",
    "row security": "row_security = 'off'",
    "the cache switched off": "infinite_pages_cache.enabled = 'off'",
    "another role": "role = 'stranger'",
    "replica": "session_replication_role = 'replica'",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_settings_of_a_database_do_not_reach_the_worker(served, kind):
    """They are in force for new sessions while the worker has work; the test watches through one from before."""
    with temporary_roles(served.cluster, "stranger"), served.connect() as before:
        with without_worker(served.cluster):
            before.execute("CREATE SCHEMA evil; CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT NULL::timestamptz'")
            before.execute(f"DROP TABLE {name_of(3)}")
            add_entries(served, 5)
            add_month(served, -3)
            for setting in HOSTILE[kind].split(", "):
                before.execute(f"ALTER DATABASE {served.name} SET {setting}")
        one = lambda sql: before.execute(sql).fetchone()[0]
        wait_until(lambda: one(f"SELECT count(*) FROM {CACHE}") == 0)
        wait_until(lambda: one(f"SELECT to_regclass('{name_of(-3)}') IS NULL AND to_regclass('{name_of(3)}') IS NOT NULL"))
        # Some more ticks.
        last = one("SELECT last_run FROM cache_maintenance_status")
        wait_until(lambda: one("SELECT last_run FROM cache_maintenance_status") > last)
        before.execute(f"ALTER DATABASE {served.name} RESET ALL")
        before.execute("SET TimeZone = 'UTC'")
        assert one(f"SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = '{name_of(3)}'").endswith("-01 00:00:00+00')")
        assert before.execute("SELECT step, detail FROM cache_maintenance_log WHERE status <> 'ok'").fetchall() == []
        # Neither have they made it slow.
        assert one("SELECT max(duration_ms) FROM cache_maintenance_log WHERE step = 'delete expired entries'") < 500
        before.execute("DROP SCHEMA evil CASCADE")


def test_a_database_of_another_schema_and_of_an_odd_name(worker_cluster):
    with worker_cluster.connect() as connection:
        connection.execute('CREATE DATABASE "Größe ""1"""')
    database = Database.existing(worker_cluster, 'Größe "1"')
    with database.connect() as connection:
        connection.execute('CREATE SCHEMA "Pages 1"; CREATE EXTENSION infinite_pages_cache SCHEMA "Pages 1"')
        connection.execute('SET search_path = "Pages 1"')
        connection.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, expires_at) VALUES (%s, 't', 'k', '1', %s)", (ALICE, LONG_AGO))
        wait_until(lambda: connection.execute(f"SELECT count(*) FROM {CACHE}").fetchone() == (0,))
        assert connection.execute("SELECT worker, last_run IS NOT NULL FROM cache_maintenance_status").fetchone() == ("on", True)
    worker_cluster.execute('DROP DATABASE "Größe ""1"""')


# ── settings ─────────────────────────────────────────────────────────────────────────────────────

def test_settings_and_their_units(worker_cluster):
    found = {name: row for name, *row in worker_cluster.execute(
        "SELECT name, vartype, unit, boot_val, min_val, max_val, context FROM pg_settings WHERE name LIKE 'infinite_pages_cache.%'")}
    assert found["infinite_pages_cache.naptime"] == ["integer", "ms", "30000", "0", "86400000", "sighup"]
    assert found["infinite_pages_cache.retention_months"][:5] == ["integer", None, "0", "0", "1200"]
    assert found["infinite_pages_cache.skip_steps"][0] == "string" and found["infinite_pages_cache.skip_steps"][5] == "superuser"
    assert found["infinite_pages_cache.maintenance_role"][0] == "string" and found["infinite_pages_cache.maintenance_role"][5] == "sighup"


@pytest.mark.parametrize("naptime", ["1s", "100ms"])
def test_naptime_is_the_time_between_two_ticks(served, naptime):
    seconds = 1 if naptime == "1s" else 0.1
    with settings(served.cluster, naptime=naptime):
        wait_until(lambda: served.value("SHOW infinite_pages_cache.naptime") == naptime)
        wait_for_ticks(served)
        started = time.monotonic()
        wait_for_ticks(served, 3)
        took = time.monotonic() - started
        row = status(served)
    assert (2 * seconds if seconds == 1 else 0.1) < took < 3 * seconds + 2
    assert row["worker"] == "on" and row["next_run"] is not None
    assert -2 < (row["next_run"] - row["last_run"]).total_seconds() < seconds + 2


def test_naptime_0_stops_the_ticks_until_a_reload(served):
    cluster = served.cluster
    is_served(served)
    with without_worker(cluster):
        before = status(served)
        assert (before["worker"], before["next_run"]) == ("off", None)
        add_entries(served, 3)
        time.sleep(1.5)
        assert status(served)["last_run"] == before["last_run"]
        assert expired(served) == 3
        [check] = [row for row in served.execute("SELECT name, ok, hint FROM verify_production_cache() WHERE NOT ok")]
        assert "naptime" in check[2]
        assert processes(cluster, LAUNCHER) == [launcher(cluster)]
    wait_until(lambda: expired(served) == 0)
    assert status(served)["worker"] == "on"
    assert served.execute("SELECT * FROM verify_production_cache() WHERE NOT ok") == []


@pytest.mark.parametrize("value", ["-1", "'25h'", "'often'"])
def test_other_naptimes_are_refused(worker_cluster, value):
    refused = sqlstate_of(lambda: worker_cluster.execute(f"ALTER SYSTEM SET infinite_pages_cache.naptime = {value}"))
    assert refused.sqlstate == "22023"


def test_steps_are_left_out_for_the_server(served):
    with without_worker(served.cluster):
        served.cluster.set(skip_steps="drop dead months, delete expired entries")
        add_month(served, -3)
        add_entries(served, 3)
        audit = add_audit_month(served, -20)
    try:
        wait_until(lambda: served.value("SELECT to_regclass(%s) IS NULL", (audit,)))
        wait_for_ticks(served, 3)
        assert expired(served) == 3 and name_of(-3) in bounds(served)
    finally:
        served.cluster.set(skip_steps=None)
    wait_until(lambda: expired(served) == 0 and name_of(-3) not in bounds(served))


def test_steps_are_left_out_for_a_database(served):
    other = Database(served.cluster)
    served.execute(f"ALTER DATABASE {served.name} SET infinite_pages_cache.skip_steps = 'delete expired entries'")
    wait_for_ticks(served)
    for database in (served, other):
        add_entries(database, 3)
    wait_until(lambda: expired(other) == 0)
    wait_for_ticks(served, 3)
    assert expired(served) == 3
    served.execute(f"ALTER DATABASE {served.name} RESET infinite_pages_cache.skip_steps")
    wait_until(lambda: expired(served) == 0)
    other.drop()


@pytest.mark.parametrize("value", ["delete everything", "analyze, delete everything", "analyze,,x"])
def test_unknown_steps_are_refused_with_the_names_of_the_known(database, value):
    for statement in ("SET", "ALTER SYSTEM SET", f"ALTER DATABASE {database.name} SET"):
        refused = sqlstate_of(lambda: database.execute(f"{statement} infinite_pages_cache.skip_steps = '{value}'"))
        assert refused.sqlstate == "22023"
        told = " ".join(filter(None, (refused.message_primary, refused.message_detail, refused.message_hint)))
        assert value.split(",")[-1].strip() in told
        assert [step for step in STEPS if step not in told] == []


def test_a_misspelt_setting_is_told(served):
    """In a session, for a database, and in the configuration."""
    with served.connect() as connection:
        for sql in ("SET infinite_pages_cache.nap_time = '1min'", f"ALTER DATABASE {served.name} SET infinite_pages_cache.nap_time = '1min'"):
            error = sqlstate_of(lambda: connection.execute(sql))
            assert "infinite_pages_cache.nap_time" in error.message_primary, error.message_primary
        error = sqlstate_of(lambda: connection.execute("ALTER SYSTEM SET infinite_pages_cache.naptime = '2d'"))
        assert "naptime" in error.message_primary
        connection.execute("ALTER SYSTEM SET infinite_pages_cache.naptime = '1d'")
        connection.execute("ALTER SYSTEM RESET infinite_pages_cache.naptime")
    cluster = Cluster({"infinite_pages_cache.prmake": "4"})
    try:
        assert any("infinite_pages_cache.prmake" in line for line in cluster.log().splitlines() if "WARNING" in line), cluster.log()
        cluster.configure({"infinite_pages_cache.lok_timeout": "1s"})
        cluster.execute("SELECT pg_reload_conf()")
        wait_until(lambda: "infinite_pages_cache.lok_timeout" in cluster.log())
    finally:
        cluster.remove()


@pytest.mark.parametrize("value", ["", "analyze", " analyze , enforce limits ", ", ".join(sorted(STEPS))])
def test_known_steps_are_taken(database, value):
    with database.connect() as connection:
        connection.execute(f"SET infinite_pages_cache.skip_steps = '{value}'")


def test_a_tenant_sets_none_of_these(database, cluster):
    with temporary_roles(cluster, "tenant"), database.connect() as connection:
        connection.execute("SELECT cache_grant_tenant('tenant'); SET ROLE tenant")
        for name, value in (("naptime", "1s"), ("skip_steps", "analyze"), ("maintenance_role", "tenant"), ("retention_months", "1")):
            refused = sqlstate_of(lambda: connection.execute(f"SET infinite_pages_cache.{name} = '{value}'"))
            assert refused.sqlstate in ("42501", "55P02"), name


def test_settings_of_maintenance_reach_the_next_tick(served):
    with settings(served.cluster, premake=5):
        wait_until(lambda: name_of(5) in bounds(served))
    assert name_of(6) not in bounds(served)


# ── what a tick costs ────────────────────────────────────────────────────────────────────────────

def test_ticks_with_nothing_due_write_nothing(served):
    with settings(served.cluster, naptime="100ms"):
        add_entries(served, 100, "infinity")
        # Whoever reads a page with dead rows may prune it, and logs that; here it has been done.
        served.execute("VACUUM ANALYZE")
        wait_for_ticks(served, 5)
        with served.connect() as connection:
            def numbers():
                return connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0', pg_snapshot_xmax(pg_current_snapshot())::text, "
                                          "(SELECT count(*) FROM cache_maintenance_log)").fetchone()

            def tick(seen):
                while (now := connection.execute("SELECT last_run FROM cache_maintenance_status").fetchone()[0]) == seen:
                    time.sleep(0.02)
                return now
            seen = tick(None)
            before = numbers()
            for _ in range(20):
                seen = tick(seen)
            after = numbers()
    assert after[1:] == before[1:]
    # The server notes now and then which transactions run. A row in the log each tick would be 5 kB and more.
    assert after[0] - before[0] < 3000


def test_nothing_is_connected_between_ticks(served):
    cluster = served.cluster
    with settings(cluster, naptime="4s"):
        wait_for_ticks(served, 1)
        with cluster.connect() as connection:
            time.sleep(0.5)
            until = time.monotonic() + 1.5
            while time.monotonic() < until:
                assert connection.execute("SELECT backend_type, datname FROM pg_stat_activity WHERE backend_type LIKE 'infinite%%'").fetchall() == [(LAUNCHER, None)]
                time.sleep(0.01)


# ── what it shows ────────────────────────────────────────────────────────────────────────────────

def test_status_of_a_served_database(served):
    is_served(served)
    with without_worker(served.cluster):
        add_month(served, -1)
        add_entries(served, 1)
        off = status(served)
    assert list(off) == ["worker", "last_run", "last_success", "next_run", "consecutive_failures", "last_error", "months_ahead", "oldest_expired_entry"]
    assert f"{off['oldest_expired_entry']:%Y-%m-%d}" == LONG_AGO and off["months_ahead"] == 3
    wait_until(lambda: expired(served) == 0)
    wait_for_ticks(served)
    on = status(served)
    assert on["worker"] == "on" and on["oldest_expired_entry"] is None
    assert on["last_success"] == on["last_run"] or on["last_success"] > off["last_run"]
    assert (on["consecutive_failures"], on["last_error"]) == (0, None)
    assert on["next_run"] is not None


def test_progress_shows_a_running_step(served):
    slow_down_deletions(served, "OLD.cache_key LIKE 'e%'", 0.01)
    with settings(served.cluster, cleanup_batch_size=10):
        add_entries(served, 300)
        pid = wait_for_step(served.cluster, served.name)
        seen = []
        with served.connect() as connection:
            while len(seen) < 3:
                rows = [row for row in columns_of(connection, "SELECT * FROM cache_maintenance_progress") if row["datname"] == served.name]
                if rows and rows[0]["step"] == "delete expired entries" and rows[0]["affected"] not in [row["affected"] for row in seen]:
                    seen += rows
                    assert connection.execute("SELECT query, application_name, datname, usename FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchone()[:3] == (
                        "infinite_pages_cache: delete expired entries", WORKER, served.name)
                time.sleep(0.05)
    assert list(seen[0]) == ["pid", "datname", "step", "run_started", "step_started", "affected", "steps_done", "steps_total"]
    assert {row["pid"] for row in seen} == {pid}
    affected = [row["affected"] for row in seen]
    assert affected == sorted(affected) and affected[0] < affected[-1] <= 300
    for row in seen:
        assert row["run_started"] <= row["step_started"]
        assert 0 < row["steps_done"] < row["steps_total"] and row["steps_total"] >= len(STEPS)
    wait_until(lambda: expired(served) == 0)
    wait_until(lambda: served.value("SELECT count(*) FROM cache_maintenance_progress WHERE datname = current_database() AND step = 'delete expired entries'") == 0)


def test_an_analyze_that_autovacuum_holds_up_is_no_failure(served):
    with served.connect(autocommit=False) as vacuum:
        vacuum.execute(f"LOCK TABLE ONLY {name_of(0)} IN SHARE UPDATE EXCLUSIVE MODE")
        add_entries(served, 1000, "infinity")
        wait_until(lambda: log_of(served, "analyze"))
        # Told once, and not tried again at each tick.
        wait_for_ticks(served, 10)
        [row] = log_of(served, "analyze")
        assert (row["status"], row["affected"]) == ("ok", 1) and name_of(0) in row["detail"]
        assert (status(served)["consecutive_failures"], status(served)["last_error"]) == (0, None)


def test_the_views_of_the_worker_are_for_service_roles(served):
    with temporary_roles(served.cluster, "tenant", "backend"), served.connect() as connection:
        connection.execute("SELECT cache_grant_tenant('tenant'), cache_grant_service('backend')")
        for view in ("cache_maintenance_status", "cache_maintenance_progress"):
            connection.execute("SET ROLE backend")
            connection.execute(f"SELECT * FROM {view}")
            connection.execute("SET ROLE tenant")
            assert sqlstate_of(lambda: connection.execute(f"SELECT * FROM {view}")).sqlstate == "42501"
        connection.execute("RESET ROLE")


def test_a_read_only_database_is_left_alone(served):
    with without_worker(served.cluster):
        add_entries(served, 3)
        before = served.contents()
        served.execute(f"ALTER DATABASE {served.name} SET default_transaction_read_only = on")
    time.sleep(1)
    assert status(served)["worker"] == "read only"
    assert served.contents() == before
    with served.connect() as connection:
        assert status(served)["consecutive_failures"] == 0
        connection.execute("SET default_transaction_read_only = off")
        connection.execute(f"ALTER DATABASE {served.name} RESET default_transaction_read_only")
    wait_until(lambda: expired(served) == 0)


def test_without_its_keys_a_table_is_not_touched(served):
    """As in the middle of a restore, which brings the keys last."""
    with without_worker(served.cluster):
        add_entries(served, 3)
        [(key,)] = served.execute("SELECT conname FROM pg_constraint WHERE conrelid = 'cache_maintenance_runs'::regclass AND contype = 'p'")
        served.execute(f"ALTER TABLE cache_maintenance_runs DROP CONSTRAINT {key}")
        before = served.contents()
    time.sleep(1)
    assert served.contents() == before
    assert status(served)["worker"] == "not ready"
    assert status(served)["consecutive_failures"] == 0
    served.execute("ALTER TABLE cache_maintenance_runs ADD PRIMARY KEY (run_at, step)")
    wait_until(lambda: expired(served) == 0)
    assert status(served)["worker"] == "on"


def test_what_is_not_ready_is_named(served):
    served.execute("DROP TABLE cache_user_summary")
    assert status(served)["worker"] == "not ready"
    checks = {name: (ok, detail, hint) for name, ok, detail, hint in served.execute("SELECT * FROM verify_production_cache()")}
    ok, detail, hint = checks["tables exist"]
    assert not ok and "cache_user_summary" in detail and "cache_setup" in hint
    assert not checks["the worker runs"][0] and "first check" in checks["the worker runs"][2]
    assert "verify_production_cache" in served.value("SELECT obj_description('cache_maintenance_status'::regclass)")
    served.execute("SELECT cache_setup()")
    wait_until(lambda: status(served)["worker"] == "on")


@pytest.fixture(scope="module")
def not_preloaded():
    cluster = Cluster({"shared_preload_libraries": ""})
    yield Database(cluster)
    cluster.remove()


def test_without_preloading_all_but_the_worker_works(not_preloaded):
    database = not_preloaded
    assert processes(database.cluster, LAUNCHER) == []
    row = status(database)
    assert row["worker"] == "not preloaded" and row["next_run"] is None and row["last_run"] is None
    assert row["months_ahead"] == 3
    with database.connect() as connection:
        upsert(connection, "1")
        assert lookup(connection) == 1
        assert connection.execute("SELECT * FROM cache_maintenance_progress").fetchall() == []
        add_entries(database, 5)
        assert f"{status(database)['oldest_expired_entry']:%Y-%m-%d}" == LONG_AGO
        steps = {step: (result, affected) for step, result, affected in connection.execute("SELECT step, status, affected FROM cache_run_maintenance()")}
        assert steps["delete expired entries"] == ("ok", 5)
        assert {result for result, _ in steps.values()} == {"ok"}
        connection.execute("SELECT cache_setup()")
        failed = connection.execute("SELECT name, hint FROM verify_production_cache() WHERE NOT ok").fetchall()
        assert failed and all("shared_preload_libraries" in hint for _, hint in failed)
    assert status(database)["last_run"] is not None


def test_a_server_in_single_user_mode():
    """As for repairs: the library is preloaded, and there is no postmaster to start a worker."""
    cluster = Cluster({"infinite_pages_cache.naptime": "100ms"})
    try:
        database = Database(cluster)
        add_entries(database, 1, "infinity")
        cluster.stop()
        done = subprocess.run(as_server_user([str(BINDIR / "postgres"), "--single", "-D", str(cluster.data), database.name]), cwd="/", text=True,
                              input=f"SELECT cache_lookup('{ALICE}', 't', 'e1') AS found\n", capture_output=True, check=True)
        assert 'found = "1"' in done.stdout, done
        cluster.start()
        is_served(database)
    finally:
        cluster.remove()


# ── whose rights ─────────────────────────────────────────────────────────────────────────────────

@pytest.fixture
def owned(served):
    """A cache that belongs to a role that is no superuser."""
    with temporary_roles(served.cluster, "cache_owner", "deputy", "stranger"):
        with without_worker(served.cluster):
            served.execute("""
                GRANT CREATE ON SCHEMA public TO cache_owner;
                DO $$ DECLARE t regclass; BEGIN
                    FOR t IN SELECT c.oid FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') LOOP
                        EXECUTE format('ALTER TABLE %s OWNER TO cache_owner', t);
                    END LOOP;
                END $$;
                GRANT cache_owner TO deputy""")
        yield served


def test_the_worker_acts_as_the_owner_of_the_table(owned):
    is_served(owned)
    assert {row["role"] for row in log_of(owned, "delete expired entries")[-1:]} == {"cache_owner"}
    with settings(owned.cluster, premake=4):
        wait_until(lambda: name_of(4) in bounds(owned))
    assert owned.value("SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = %s", (name_of(4),)) == "cache_owner"


def test_the_worker_acts_as_the_role_that_is_set(owned):
    with settings(owned.cluster, maintenance_role="deputy"):
        wait_for_ticks(owned)
        is_served(owned)
        assert log_of(owned, "delete expired entries")[-1]["role"] == "deputy"
        assert status(owned)["consecutive_failures"] == 0
    wait_for_ticks(owned)
    is_served(owned)
    assert log_of(owned, "delete expired entries")[-1]["role"] == "cache_owner"


def test_an_unknown_role_is_a_failed_tick_that_says_so(owned):
    before = launcher(owned.cluster)
    with settings(owned.cluster, maintenance_role="nobody of this name"):
        wait_until(lambda: status(owned)["consecutive_failures"] > 1)
        row = status(owned)
        assert "nobody of this name" in row["last_error"]
        assert row["worker"] == "on"
        add_entries(owned, 3)
        time.sleep(1)
        assert expired(owned) == 3
        # Told now and then, not five times a second.
        assert len([line for line in owned.cluster.log().splitlines() if "nobody of this name" in line]) < 15
    wait_until(lambda: expired(owned) == 0, 30)
    wait_until(lambda: status(owned)["consecutive_failures"] == 0)
    assert launcher(owned.cluster) == before


def test_a_role_without_rights_fails_and_says_what(owned):
    with settings(owned.cluster, maintenance_role="stranger"):
        # A tick that has begun before ends as what it began as.
        wait_until(lambda: "must be owner" in (status(owned)["last_error"] or ""))
        add_entries(owned, 3)
        wait_for_ticks(owned)
        assert expired(owned) == 3
    wait_until(lambda: expired(owned) == 0, 30)


@pytest.mark.parametrize("kind", ["AFTER DELETE ON {table} FOR EACH ROW", "BEFORE DELETE ON {table} FOR EACH ROW",
                                  "AFTER DELETE ON {table} FOR EACH STATEMENT",
                                  "CONSTRAINT AFTER DELETE ON {table} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW",
                                  "CONSTRAINT AFTER INSERT ON cache_maintenance_runs DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"])
def test_an_owners_trigger_never_runs_as_a_superuser(owned, kind):
    """Least of all one that is deferred to the commit."""
    statements = "\n".join(
        f"BEGIN EXECUTE $s${statement}$s$; INSERT INTO public.seen VALUES ($s${statement}$s$, current_user, NULL); "
        f"EXCEPTION WHEN OTHERS THEN INSERT INTO public.seen VALUES ($s${statement}$s$, current_user, SQLSTATE); END;"
        for statement in ESCAPES)
    constraint, event = ("CONSTRAINT ", kind.removeprefix("CONSTRAINT ")) if kind.startswith("CONSTRAINT") else ("", kind)
    with without_worker(owned.cluster), owned.connect() as connection:
        connection.execute(f"""
            SET ROLE cache_owner;
            CREATE TABLE public.seen (statement text, who name, sqlstate text);
            CREATE FUNCTION public.spy() RETURNS trigger LANGUAGE plpgsql AS $f$
            BEGIN
                INSERT INTO public.seen VALUES ('begin', current_user, current_setting('is_superuser'));
                {statements}
                INSERT INTO public.seen VALUES ('end', current_user, NULL);
                RETURN OLD;
            END $f$;
            CREATE {constraint}TRIGGER spy {event.format(table=CACHE)} EXECUTE FUNCTION public.spy();
            RESET ROLE""")
        add_entries(owned, 1)
    wait_until(lambda: expired(owned) == 0)
    wait_until(lambda: owned.value("SELECT count(*) FROM seen WHERE statement = 'end'") >= 1)
    seen = owned.execute("SELECT statement, who, sqlstate FROM seen")
    assert {who for _, who, _ in seen} == {"cache_owner"}
    tried = {statement: sqlstate for statement, _, sqlstate in seen if statement in ESCAPES}
    assert set(tried) == set(ESCAPES) and None not in tried.values(), tried
    assert owned.execute("SELECT rolname FROM pg_roles WHERE rolsuper") == [("postgres",)]
    assert status(owned)["consecutive_failures"] == 0


def test_tables_of_different_owners_lend_nobody_rights(owned):
    """What one step writes belongs to one owner, or that of one table would run the triggers of another's."""
    with without_worker(owned.cluster), owned.connect() as connection:
        upsert(connection, "1", (ALICE, "t", "k"))
        connection.execute(f"""
            ALTER TABLE cache_statistics_hourly OWNER TO postgres;
            SET ROLE cache_owner;
            CREATE TABLE public.seen (who name);
            CREATE FUNCTION public.spy() RETURNS trigger LANGUAGE plpgsql AS $f$
            BEGIN INSERT INTO public.seen VALUES (current_user); RETURN NEW; END $f$;
            CREATE TRIGGER spy BEFORE UPDATE ON {CACHE} FOR EACH ROW EXECUTE FUNCTION public.spy();
            RESET ROLE""")
        assert lookup(connection, (ALICE, "t", "k")) == 1
        [(result, detail)] = connection.execute("SELECT status, detail FROM cache_run_maintenance() WHERE step = 'flush statistics'").fetchall()
        assert result == "failed" and "different owners" in detail
        checks = {name: (ok, detail, hint) for name, ok, detail, hint in connection.execute("SELECT * FROM verify_production_cache()")}
        ok, detail, hint = checks["the tables have one owner"]
        assert not ok and "cache_owner" in detail and "postgres" in detail and "OWNER TO" in hint
    wait_until(lambda: "different owners" in (status(owned)["last_error"] or ""))
    assert {row["status"] for row in log_of(owned, "flush statistics")} == {"failed"}
    assert owned.execute("SELECT * FROM seen") == []
    # The other steps go on.
    is_served(owned)
    owned.execute("ALTER TABLE cache_statistics_hourly OWNER TO cache_owner")
    wait_until(lambda: status(owned)["consecutive_failures"] == 0, 30)
    assert owned.execute("SELECT * FROM seen") == [("cache_owner",)]
    assert owned.execute("SELECT ok FROM verify_production_cache() WHERE name = 'the tables have one owner'") == [(True,)]


def test_an_owners_index_and_default_never_run_as_a_superuser(owned):
    """An index expression is the owner's code, too: it runs when ANALYZE or a new partition asks for it."""
    with without_worker(owned.cluster), owned.connect() as connection:
        connection.execute(f"""
            SET ROLE cache_owner;
            CREATE TABLE public.seen (who name);
            CREATE FUNCTION public.spy(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $f$
            BEGIN
                RAISE LOG 'spy runs as % in %', current_user, current_setting('application_name');
                RETURN $1;
            END $f$;
            CREATE INDEX ON {CACHE} (public.spy(cache_key));
            RESET ROLE""")
        add_entries(owned, 500, "infinity")
    is_served(owned)
    with settings(owned.cluster, premake=6):
        wait_until(lambda: name_of(6) in bounds(owned))
    # The ANALYZE of the worker has happened.
    wait_until(lambda: any(row["affected"] == 1 for row in log_of(owned, "analyze")))
    # The test itself inserts as postgres.
    ran = set(re.findall(r"spy runs as (\w+) in infinite_pages_cache worker", owned.cluster.log()))
    assert ran == {"cache_owner"}


def test_an_owners_settings_in_a_trigger_do_not_reach_other_steps(owned):
    """A trigger may leave behind a search_path and timeouts of its own."""
    with without_worker(owned.cluster), owned.connect() as connection:
        connection.execute(f"""
            SET ROLE cache_owner;
            CREATE TABLE public.seen (n int);
            CREATE FUNCTION public.spoil() RETURNS trigger LANGUAGE plpgsql AS $f$
            BEGIN
                PERFORM set_config('search_path', 'evil, pg_catalog', false), set_config('DateStyle', 'German', false),
                        set_config('TimeZone', 'Pacific/Kiritimati', false), set_config('statement_timeout', '1ms', false);
                RETURN NULL;
            END $f$;
            CREATE TRIGGER spoil AFTER DELETE ON {CACHE} FOR EACH ROW EXECUTE FUNCTION public.spoil();
            RESET ROLE""")
        owned.execute(f"DROP TABLE {name_of(3)}")
        audit = add_audit_month(owned, -20)
        owned.execute(f"ALTER TABLE {audit} OWNER TO cache_owner")
        add_entries(owned, 5)
    wait_until(lambda: expired(owned) == 0)
    wait_until(lambda: owned.value("SELECT to_regclass(%s) IS NULL", (audit,)))
    wait_until(lambda: name_of(3) in bounds(owned))
    assert "23:00" not in bounds(owned)[name_of(3)]
    wait_until(lambda: status(owned)["consecutive_failures"] == 0)
    assert count(owned, "cache_key LIKE 'e%'") == 0
