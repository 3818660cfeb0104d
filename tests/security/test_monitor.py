"""A monitor sees every figure, and nothing of what is cached: no content, key, prompt, metadata or user agent."""

import pytest

from harness.database import Database
from harness.dumps import dumped_as_script
from harness.entries import ALICE, BOB, CACHE, lookup, upsert
from harness.errors import sqlstate_of
from harness.roles import acting, outcome, sqlstates, temporary_roles
from harness.tenants import function_statements
from harness.worker import log_of, status, wait_until, without_worker

# In each column of an entry and of the audit log that a tenant or its client fills with words of theirs.
SECRET = "zebra"
REPORTS = ["cache_performance_metrics", "partition_health_metrics", "cache_connection_metrics", "cache_alerts", "cache_maintenance_log",
           "cache_maintenance_status", "cache_maintenance_progress", "user_cache_analytics", "verify_production_cache()",
           "check_partition_health()", "cache_statistics()", "cache_statistics(true)", "cache_statistics_hourly",
           "cache_entry_summary", "cache_user_summary", "cache_content_policies", "cache_pending_hits_by('user')",
           "cache_pending_hits_by('content_type')"]
# What differs from one call to the next.
MOMENTS = "measured_at", "avg_query_duration_seconds", "last_run"


@pytest.fixture
def monitors(cluster):
    with temporary_roles(cluster, "monitor", "exporter", "tenant_too", "bystander", "cache_owner"), cluster.connect() as connection:
        connection.execute("GRANT pg_monitor TO exporter")
        yield


@pytest.fixture
def worker_monitors(worker_cluster):
    with temporary_roles(worker_cluster, "monitor", "exporter"), worker_cluster.connect() as connection:
        connection.execute("GRANT pg_monitor TO exporter")
        yield


@pytest.fixture(params=["superuser", "owner"])
def watched(request, monitors, database):
    """A cache in use, whose tables belong to a superuser, or to a role that is none."""
    with database.connect() as connection:
        connection.execute("SELECT cache_grant_tenant('tenant_too'), cache_grant_monitor('tenant_too'), cache_grant_monitor('monitor')")
        connection.execute(f"""SELECT set_config('request.headers', '{{"user-agent": "{SECRET}"}}', false)""")
        for user, number in ((ALICE, 1), (ALICE, 2), (BOB, 3)):
            key = (user, "tone", f"{SECRET} {number}")
            upsert(connection, f'"{SECRET}"', key, prompt_template=SECRET, prompt_variables=f'{{"a": "{SECRET}"}}', metadata=f'{{"a": "{SECRET}"}}',
                   foundation_dependency=SECRET, semantic_similarity_hash=SECRET, token_cost=3)
            lookup(connection, key)
        connection.execute(f"UPDATE {CACHE} SET expires_at = now() - interval '1 day' WHERE cache_key = '{SECRET} 2'")
        connection.execute("INSERT INTO cache_audit_log (user_id, action, user_agent) SELECT %s, 'upsert', %s FROM generate_series(1, 1500)", (ALICE, SECRET))
        if request.param == "owner":
            connection.execute("GRANT USAGE, CREATE ON SCHEMA public TO cache_owner")
            for (name,) in connection.execute("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')").fetchall():
                connection.execute(f"ALTER TABLE {name} OWNER TO cache_owner")
    return database


def figures(connection, role):
    """All that a role sees in each report."""
    found = {}
    with connection.transaction():
        connection.execute(f"SET LOCAL ROLE {role}")
        for report in REPORTS:
            cursor = connection.execute(f"SELECT * FROM {report}")
            names = [column.name for column in cursor.description]
            found[report] = sorted((repr([(name, value) for name, value in zip(names, row) if name not in MOMENTS]) for row in cursor))
    return found


@pytest.mark.parametrize("role", ["monitor", "exporter", "tenant_too"])
@pytest.mark.parametrize("large", [False, True])
def test_a_monitor_sees_the_figures_that_a_superuser_sees(watched, role, large):
    with watched.connect() as connection:
        if large:
            connection.execute("SET infinite_pages_cache.exact_report_size = 0; SELECT * FROM cache_run_maintenance()")
        expected = figures(connection, "postgres")
        assert len(expected["user_cache_analytics"]) == 2 and "('total_entries', " in expected["cache_performance_metrics"][0]
        if role != "exporter":
            # Of other roles' sessions the server itself shows a role the state only if it is a member of pg_monitor.
            del expected["cache_connection_metrics"]
        found = figures(connection, role)
        assert {report: found[report] for report in expected} == expected
        assert any("unusual access" in row and "Decimal('99.9')" in row for row in expected["cache_alerts"])


def test_what_is_hidden_from_the_owner_is_not_measured_for_a_monitor(watched):
    """It is counted with the owner's rights."""
    measured = lambda: {position for position, value in connection.execute(
        "SELECT row_number() OVER (), value FROM cache_alerts").fetchall() if value is not None and position in (9, 10)}
    with watched.connect() as connection:
        superuser = watched.value(f"SELECT rolsuper FROM pg_roles r JOIN pg_class c ON c.relowner = r.oid WHERE relname = '{CACHE}'")
        connection.execute(f"ALTER TABLE {CACHE} FORCE ROW LEVEL SECURITY")
        with acting(connection, None, "monitor"):
            assert measured() == ({9, 10} if superuser else {10})
        connection.execute(f"ALTER TABLE {CACHE} NO FORCE ROW LEVEL SECURITY")
        with acting(connection, None, "monitor"):
            assert measured() == {9, 10}


def columns(connection):
    return connection.execute(
        "SELECT c.oid::regclass::text, quote_ident(a.attname) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped "
        "WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v')").fetchall()


def ways_to_read(connection):
    everything = columns(connection)
    statements = [f"SELECT {column} FROM {name}" for name, column in everything] + [f"SELECT count(*) FROM {name}" for name, _ in everything]
    return statements + [f"SELECT * FROM {call[7:]}" for call in function_statements(connection)]


@pytest.mark.parametrize("role", ["monitor", "exporter"])
def test_nothing_of_what_is_cached_can_be_reached_by_a_monitor(watched, role):
    """By any column of any relation, or any function; digests of keys, by which a key could be guessed, neither."""
    with watched.connect() as connection:
        digests = [digest for (digest,) in connection.execute(f"SELECT cache_entry_digest(content_type, cache_key)::text FROM {CACHE}")]
        statements = ways_to_read(connection)
        calls = [f"cache_{way}('{ALICE}', 'tone', {key})" for way, key in (("lookup", f"'{SECRET} 1'"), ("get", f"'{SECRET} 1'"),
                                                                        ("lookup_many", f"ARRAY['{SECRET} 1']"), ("search", "'{}'"))]
        statements += [f"SELECT * FROM {call}" for call in calls] + [f"SELECT get_infinite_pages_analytics('{ALICE}')"]
        answered = set()
        for statement in statements:
            found = outcome(connection, statement, ALICE, role)
            if not isinstance(found, tuple):
                answered.add(statement)
            # What a statement itself names is in its error.
            assert not any(word in str(found).replace(f"'{SECRET}", "") for word in (SECRET, *digests)), statement
        assert len(answered) > 80
        assert not any(statement.startswith(f"SELECT * FROM {call}") for statement in answered for call in calls)
        assert [statement for statement in answered if f"FROM {CACHE}" in statement or "FROM cache_audit" in statement] == []
        assert outcome(connection, "SELECT count(*) FROM cache_pending_hits()", ALICE, role) == [(0,)]


# A step that fails by an error that says what is cached: the step, its SQLSTATE, and what the owner has done.
FORGED = "(SQLSTATE ZEBRA) "
FAILURES = {
    "a key that a partition holds twice": ("secure partitions", "23505", f"""
        CREATE TABLE by_hand PARTITION OF {CACHE} FOR VALUES FROM ('2035-01-01') TO ('2035-02-01');
        INSERT INTO {CACHE} (user_id, content_type, cache_key, content, created_at, expires_at)
        SELECT '{ALICE}', 'tone', '{SECRET}', '1', '2035-01-02', 'infinity' FROM generate_series(1, 2)"""),
    "a check that a hit breaks": ("flush statistics", "23514", f"ALTER TABLE {CACHE} ADD CHECK (hit_count < 1) NOT VALID"),
    "a check that an audited lookup breaks": ("flush statistics", "23514", "ALTER TABLE cache_audit_log ADD CHECK (action <> 'lookup')"),
    "a trigger that tells the content": ("delete expired entries", "P0001", f"""
        CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '{FORGED}% is here', OLD.content; END $$;
        CREATE TRIGGER tell BEFORE DELETE ON {CACHE} FOR EACH ROW EXECUTE FUNCTION tell()"""),
    "a trigger that tells a long content": ("delete expired entries", "P0001", f"""
        CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION '%', repeat(OLD.content::text || '{FORGED}', 100) USING DETAIL = OLD.content, HINT = OLD.content; END $$;
        CREATE TRIGGER tell BEFORE DELETE ON {CACHE} FOR EACH ROW EXECUTE FUNCTION tell()"""),
}


def fail(database, change):
    """Has maintenance fail from now on."""
    database.execute(f"ALTER DATABASE {database.name} SET infinite_pages_cache.audit = 'all'; SELECT cache_grant_monitor('monitor')")
    database.execute(change)
    with database.connect() as connection:
        connection.execute(f"""SELECT set_config('request.headers', '{{"user-agent": "{SECRET}"}}', false)""")
        key = (ALICE, "tone", f"{SECRET} 1")
        upsert(connection, f'"{SECRET}"', key, prompt_template=SECRET)
        assert lookup(connection, key) == SECRET
        connection.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, expires_at) "
                           f"""VALUES ('{ALICE}', 'tone', '{SECRET} 2', '"{SECRET}"', now() - interval '1 day')""")


def check_told(database, step, state, by_worker):
    """The owner is told what the error said, and a monitor its SQLSTATE."""
    [(whole,)] = set(database.execute("SELECT detail FROM cache_maintenance_log WHERE status = 'failed' AND step = %s", (step,)))
    assert f"(SQLSTATE {state})" in whole and SECRET in whole
    tick = "SELECT detail FROM verify_production_cache() WHERE name = 'the last tick succeeded'"
    reports = ["SELECT last_error FROM cache_maintenance_status", tick] if by_worker else []
    with database.connect() as connection:
        assert all(SECRET in connection.execute(report).fetchone()[0] for report in reports)
        for role in ("monitor", "exporter"):
            for statement in ways_to_read(connection):
                assert SECRET not in str(outcome(connection, statement, ALICE, role)).lower(), statement
            with acting(connection, None, role):
                log = f"SELECT detail FROM cache_maintenance_log WHERE status = 'failed' AND step = '{step}'"
                for report in (log, *reports):
                    told = connection.execute(report).fetchone()[0]
                    assert f"an error (SQLSTATE {state}), whose message is for the owner and services" in told, report
                assert connection.execute("SELECT value > 0 FROM cache_alerts WHERE rule ~ 'failed maintenance steps'").fetchone() == (True,)
                assert connection.execute("SELECT ok FROM verify_production_cache() WHERE name ~ 'step failed lately'").fetchone() == (False,)


@pytest.mark.parametrize("failure", FAILURES)
def test_a_monitor_is_told_the_sqlstate_alone_of_a_step_that_failed_by_hand(monitors, database, failure):
    step, state, change = FAILURES[failure]
    fail(database, change)
    database.execute("SELECT * FROM cache_run_maintenance()")
    check_told(database, step, state, by_worker=False)


# The worker builds no index of a partition made by hand.
@pytest.mark.parametrize("failure", list(FAILURES)[1:])
def test_a_monitor_is_told_the_sqlstate_alone_of_a_step_that_failed_for_the_worker(worker_monitors, served, failure):
    step, state, change = FAILURES[failure]
    served.execute(f"ALTER DATABASE {served.name} SET infinite_pages_cache.skip_steps = 'flush statistics, delete expired entries'")
    fail(served, change)
    other = {"flush statistics": "delete expired entries", "delete expired entries": "flush statistics"}[step]
    served.execute(f"ALTER DATABASE {served.name} SET infinite_pages_cache.skip_steps = '{other}'")
    wait_until(lambda: log_of(served, step) and state in (status(served)["last_error"] or ""))
    check_told(served, step, state, by_worker=True)


def test_what_failed_last_is_told_to_no_monitor_when_tables_are_gone(worker_monitors, served):
    _, state, change = FAILURES["a trigger that tells the content"]
    fail(served, change)
    wait_until(lambda: state in (status(served)["last_error"] or ""))
    # A tick that found the tables gone would have an error of its own.
    with without_worker(served.cluster), served.connect() as connection:
        connection.execute(f"DROP TABLE {CACHE}, cache_audit_log, cache_maintenance_runs, cache_statistics_hourly")
        report = "SELECT last_error FROM cache_maintenance_status"
        assert SECRET in connection.execute(report).fetchone()[0]
        for role in ("monitor", "exporter"):
            with acting(connection, None, role):
                told = connection.execute(report).fetchone()[0]
                assert state in told and SECRET not in told


def test_services_and_who_reads_all_data_are_told_what_an_error_said(monitors, database):
    step, state, change = FAILURES["a trigger that tells the content"]
    fail(database, change)
    database.execute("SELECT cache_grant_service('tenant_too'), cache_run_maintenance(); GRANT pg_read_all_data, pg_monitor TO bystander")
    with database.connect() as connection:
        for role in ("tenant_too", "bystander"):
            for name in ("cache_maintenance_log", "cache_maintenance_runs"):
                with acting(connection, None, role):
                    [(told,)] = connection.execute(f"SELECT detail FROM {name} WHERE status = 'failed' AND step = %s", (step,)).fetchall()
                    assert SECRET in told and state in told


def test_no_set_up_grants_the_log_of_maintenance_to_a_monitor(monitors, empty_database):
    empty_database.execute("CREATE EXTENSION infinite_pages_cache VERSION '0.2.0'; ALTER EXTENSION infinite_pages_cache UPDATE")
    empty_database.execute("SELECT cache_grant_monitor('monitor'), cache_setup()")
    assert monitor_of(empty_database) and monitor_of(empty_database, "exporter")
    for role in ("monitor", "pg_monitor"):
        assert not empty_database.value(f"SELECT has_table_privilege('{role}', 'cache_maintenance_runs', 'SELECT')")


def test_a_monitor_changes_nothing(watched):
    """Nor makes, drops or cleans anything."""
    with watched.connect() as connection:
        before = watched.contents()
        statements = [f"{change} {name}" for name in sorted({name for name, _ in columns(connection)})
                      for change in ("DELETE FROM", "TRUNCATE", "DROP TABLE")]
        statements += [f"SELECT {call}" for call in (
            "cache_setup()", "cache_run_maintenance()", "cache_flush_statistics()", "create_monthly_cache_partition('2031-01-01')",
            "drop_old_cache_partitions(1)", "archive_audit_logs('1 day')", "cleanup_expired_cache_entries_production()",
            f"cache_forget_user('{ALICE}')", "cache_grant_monitor('bystander')", "cache_grant_tenant('monitor')", "cache_create_current_partition()")]
        found = sqlstates(connection, statements, ALICE, "monitor")
        assert {statement: state for statement, state in found.items() if state not in ("42501", "42809", "55000")} == {}
        assert watched.contents() == before


def test_a_tenant_that_is_a_monitor_too_sees_its_own_entries_and_all_figures(watched):
    with watched.connect() as connection:
        with acting(connection, BOB, "tenant_too"):
            assert connection.execute(f"SELECT DISTINCT user_id::text FROM {CACHE}").fetchall() == [(BOB,)]
            assert lookup(connection, (BOB, "tone", f"{SECRET} 3")) == SECRET
            assert lookup(connection, (ALICE, "tone", f"{SECRET} 1")) is None
            assert connection.execute("SELECT * FROM cache_search(%s, 'tone', '{}')", (ALICE,)).fetchall() == []
            assert connection.execute("SELECT DISTINCT user_id::text FROM cache_pending_hits()").fetchall() == [(BOB,)]
            assert connection.execute("SELECT total_entries FROM cache_performance_metrics WHERE content_type = 'tone'").fetchone() == (3,)


def test_other_roles_see_what_they_saw(watched):
    with watched.connect() as connection:
        connection.execute("SELECT cache_grant_tenant('bystander')")
        with acting(connection, BOB, "bystander"):
            assert connection.execute("SELECT user_id::text, total_cache_entries FROM user_cache_analytics").fetchall() == [(BOB, 1)]
        for view in ("cache_alerts", "cache_performance_metrics"):
            assert outcome(connection, f"SELECT * FROM {view}", BOB, "bystander")[0] == "42501"


def test_what_the_owner_has_hung_on_its_tables_gets_no_more_than_the_owners_rights_from_a_monitor(watched):
    """A policy with an expression of the owner's is its own code."""
    watched.execute(f"""
        CREATE TABLE seen (who name);
        CREATE FUNCTION spy() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.seen VALUES (current_user); RETURN true; END $$;
        CREATE POLICY spy ON {CACHE} FOR SELECT TO PUBLIC USING (spy())""")
    with watched.connect() as connection:
        with acting(connection, None, "monitor"):
            assert connection.execute("SELECT sum(total_entries) FROM cache_performance_metrics").fetchone() == (3,)
        assert connection.execute("SELECT * FROM seen").fetchall() == []


def monitor_of(database, role="monitor"):
    """Whether a role sees the figures; None where it is refused."""
    with database.connect() as connection:
        connection.execute(f"SET ROLE {role}")
        try:
            return connection.execute("SELECT count(*) > 5 FROM cache_alerts").fetchone()[0]
        except Exception as error:
            assert error.sqlstate == "42501"
            return None


def test_drop_owned_takes_the_rights_of_a_monitor_back(monitors, database):
    assert (monitor_of(database), monitor_of(database, "exporter")) == (None, True)
    before = database.execute("SELECT relname, relacl::text FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1")
    database.execute("SELECT cache_grant_monitor('monitor')")
    assert monitor_of(database)
    database.execute("DROP OWNED BY monitor")
    assert monitor_of(database) is None
    assert database.execute("SELECT relname, relacl::text FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1") == before


def test_a_dump_brings_monitors_and_a_new_extension_knows_them(monitors, database, tmp_path):
    database.execute("SELECT cache_grant_monitor('monitor'); REVOKE SELECT ON cache_alerts FROM pg_monitor")
    target = Database(database.cluster, extension=False)
    dumped_as_script(database, target, tmp_path / "dump")
    assert (monitor_of(target), monitor_of(target, "exporter"), monitor_of(target, "bystander")) == (True, None, None)
    # Its functions and views are new; the tables tell who was a monitor.
    target.execute("DROP EXTENSION infinite_pages_cache CASCADE; CREATE EXTENSION infinite_pages_cache")
    assert (monitor_of(target), monitor_of(target, "exporter"), monitor_of(target, "bystander")) == (True, True, None)
    target.drop()


def test_who_may_read_one_table_of_figures_is_no_monitor(monitors, database):
    database.execute("GRANT SELECT ON cache_statistics_hourly, cache_maintenance_runs TO bystander; SELECT cache_setup()")
    assert monitor_of(database, "bystander") is None


def test_a_grant_on_all_tables_makes_no_monitor_of_a_tenant(monitors, database):
    """As platforms write it."""
    database.execute("SELECT cache_grant_tenant('bystander'); GRANT SELECT ON ALL TABLES IN SCHEMA public TO bystander; SELECT cache_setup()")
    assert monitor_of(database, "bystander") is None
    with database.connect() as connection:
        for user in (ALICE, BOB):
            upsert(connection, "1", (user, "tone", "k"))
        with acting(connection, BOB, "bystander"):
            assert connection.execute("SELECT user_id::text FROM user_cache_analytics").fetchall() == [(BOB,)]


def test_a_grant_to_a_role_that_does_not_exist(database):
    error = sqlstate_of(lambda: database.execute("SELECT cache_grant_monitor('nobody')"))
    assert (error.sqlstate, error.message_hint) == ("42704", "Create it first: CREATE ROLE … NOLOGIN.")
