"""No tenant reads, changes, counts or deletes another tenant's row, through any relation or function."""

import json

import psycopg
import pytest

from harness.entries import ALICE, BOB, CACHE
from harness.errors import sqlstate_of
from harness.months import this_month
from harness.roles import acting, outcome, sqlstates, temporary_roles
from harness.tenants import SECRET, fill_for_alice, function_statements


@pytest.fixture
def my_roles(cluster):
    with temporary_roles(cluster, '"My Tenant"', '"My Service"') as names:
        yield names


def denied(statements):
    return dict.fromkeys(statements, "42501")


def relation_statements(connection, partitions=False):
    """Every way to use each relation of the extension's schema; of partitions only, if wanted."""
    relations = connection.execute(
        """SELECT c.oid::regclass::text, c.relkind::text,
                  (SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = c.oid AND attnum = 1)
           FROM pg_class c JOIN pg_extension e ON e.extnamespace = c.relnamespace
           WHERE e.extname = 'infinite_pages_cache' AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
             AND (NOT %s OR c.relispartition) ORDER BY 1""", (partitions,)).fetchall()
    statements = []
    for name, kind, column in relations:
        statements += [f"SELECT * FROM {name}", f"SELECT count(*) FROM {name}"]
        if kind == "S":
            statements += [f"SELECT nextval('{name}')", f"SELECT setval('{name}', 1)", f"SELECT pg_sequence_last_value('{name}')"]
            continue
        statements += [f"UPDATE {name} SET {column} = DEFAULT", f"DELETE FROM {name}", f"INSERT INTO {name} DEFAULT VALUES"]
        if kind != "v":
            statements += [f"TRUNCATE {name}", f"COPY {name} TO STDOUT", f"COPY {name} FROM STDIN",
                           f"LOCK {name} IN ROW SHARE MODE", f"CREATE INDEX ON {name} ({column})",
                           f"ALTER TABLE {name} DISABLE ROW LEVEL SECURITY"]
    return statements


def rows_of_alice(database):
    return database.execute(
        f"SELECT t::text FROM {CACHE} t WHERE user_id = %s UNION ALL SELECT t::text FROM cache_audit_log t WHERE user_id = %s "
        "UNION ALL SELECT t::text FROM cache_audit_archive t WHERE user_id = %s ORDER BY 1", (ALICE,) * 3)


@pytest.mark.parametrize("role, user", [("authenticated", BOB), ("authenticated", None), ("anon", None), ("anon", ALICE)])
def test_whether_others_have_entries_makes_no_difference_to_what_a_tenant_sees(supabase, role, user):
    with supabase.connect() as connection:
        statements = relation_statements(connection) + function_statements(connection)
        before = {statement: outcome(connection, statement, user, role) for statement in statements}
        fill_for_alice(supabase)
        after = {statement: outcome(connection, statement, user, role) for statement in statements}
        assert after == before
        # The test would see it if there were something to see.
        with acting(connection, ALICE):
            assert connection.execute(f"SELECT count(*) FROM {CACHE}").fetchone() == (3,)


@pytest.mark.parametrize("role, user", [("authenticated", BOB), ("anon", ALICE)])
def test_nothing_that_a_tenant_runs_changes_anothers_rows(supabase, role, user):
    fill_for_alice(supabase)
    before = rows_of_alice(supabase)
    assert len(before) == 3 + 2 + 1
    policies = supabase.execute("SELECT * FROM cache_content_policies ORDER BY 1")
    with supabase.connect() as connection:
        for statement in relation_statements(connection) + function_statements(connection):
            outcome(connection, statement, user, role, keep=True)
    assert rows_of_alice(supabase) == before
    assert supabase.execute("SELECT * FROM cache_content_policies ORDER BY 1") == policies
    with supabase.connect() as connection, acting(connection, ALICE):
        assert connection.execute("SELECT cache_lookup(%s, 't', 'k')", (ALICE,)).fetchone() == (SECRET,)
        connection.execute("SELECT cache_upsert(%s, 't', 'new', '1')", (ALICE,))


@pytest.mark.parametrize("role", ["authenticated", "anon", "service_role"])
def test_no_partition_can_be_used_directly(supabase, role):
    fill_for_alice(supabase)
    with supabase.connect() as connection:
        statements = relation_statements(connection, partitions=True)
        for partition in ("infinite_pages_cache_2031_05", "cache_audit_log_2001_01", f"infinite_pages_cache_{this_month(connection)}"):
            assert f"SELECT * FROM {partition}" in statements
        assert sqlstates(connection, statements, ALICE, role) == denied(statements)


def test_what_is_not_a_tenants_business_is_denied(supabase):
    """Maintenance, set-up, the audit log, metrics about everybody, and everything for anon."""
    fill_for_alice(supabase)
    calls = [f"SELECT * FROM {call}" for call in (
        "cache_setup()", "cache_run_maintenance()", "create_monthly_cache_partition('2031-06-01')", "drop_old_cache_partitions(1)",
        "archive_audit_logs('1 day')", "cache_grant_tenant('authenticated')", "cache_grant_service('authenticated')",
        "cleanup_expired_cache_entries_production()", f"cache_forget_user('{BOB}')", "verify_production_cache()", "check_partition_health()",
        "cache_performance_metrics", "partition_health_metrics", "cache_connection_metrics", "cache_alerts", "cache_maintenance_log",
        "cache_performance_metrics()", "partition_health_metrics()", "cache_connection_metrics()", "cache_alerts()",
        "cache_maintenance_log()", "cache_audit_log", "cache_audit_archive", "cache_maintenance_runs", "cache_audit_log_id_seq")]
    changes = ["INSERT INTO cache_content_policies (content_type) VALUES ('x')", "UPDATE cache_content_policies SET ttl = NULL",
               "DELETE FROM cache_content_policies", "TRUNCATE cache_content_policies", f"TRUNCATE {CACHE}",
               f"CREATE TABLE work.x (a uuid, b uuid, c timestamptz, FOREIGN KEY (a, b, c) REFERENCES {CACHE})",
               f"CREATE POLICY p ON {CACHE} USING (true)", "SELECT setval('cache_audit_log_id_seq', 9223372036854775807)",
               f"CREATE TRIGGER t BEFORE UPDATE ON {CACHE} FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()"]
    for_anon = [f"SELECT * FROM {CACHE}", "SELECT * FROM user_cache_analytics", "SELECT * FROM cache_content_policies",
                f"SELECT cache_lookup('{BOB}', 't', 'k')", f"SELECT * FROM cache_get('{BOB}', 't', 'k')",
                f"SELECT * FROM cache_lookup_many('{BOB}', 't', '{{k}}')", f"SELECT cache_upsert('{BOB}', 't', 'k', '1')",
                f"SELECT * FROM cache_search('{BOB}', 't', '{{}}')",
                f"SELECT cache_touch('{BOB}', 't', 'k')", f"SELECT cache_invalidate('{BOB}', 't', 'k')",
                f"SELECT get_infinite_pages_analytics('{BOB}')", "SELECT cache_create_current_partition()"]
    supabase.execute("CREATE SCHEMA work; GRANT ALL ON SCHEMA work TO authenticated, anon")
    with supabase.connect() as connection:
        assert sqlstates(connection, calls + changes, BOB) == denied(calls + changes)
        assert sqlstates(connection, calls + changes + for_anon, BOB, "anon") == denied(calls + changes + for_anon)


def test_another_user_in_an_argument(supabase):
    fill_for_alice(supabase)
    before = supabase.contents()
    with supabase.connect() as connection:
        reads = {
            f"SELECT cache_lookup('{ALICE}', 't', 'k')": [(None,)],
            f"SELECT * FROM cache_get('{ALICE}', 't', 'k')": [],
            f"SELECT * FROM cache_lookup_many('{ALICE}', 't', '{{k,k2}}')": [("k", None), ("k2", None)],
            f"SELECT * FROM cache_search('{ALICE}', 't', '{{}}')": [],
            f"SELECT cache_touch('{ALICE}', 't', 'k', '1 day')": [(None,)],
            f"SELECT cache_invalidate('{ALICE}', 't', 'k')": [(0,)],
            f"SELECT cache_invalidate_content_type('{ALICE}', 't')": [(0,)],
            f"""SELECT cache_invalidate_where('{ALICE}', '{{"tag": "a"}}')""": [(0,)],
            f"SELECT cache_invalidate_dependents('{ALICE}', 'f')": [(0,)],
        }
        assert {read: outcome(connection, read, BOB, keep=True) for read in reads} == reads
        batch = json.dumps([{"user_id": user, "content_type": "t", "cache_key": "new", "content": 1} for user in (BOB, ALICE)])
        for write in (f"SELECT cache_upsert('{ALICE}', 't', 'k', '1')", f"SELECT cache_upsert('{ALICE}', 't', 'new', '1')",
                      f"SELECT cache_upsert_many('{batch}')"):
            sqlstate, message, detail, hint = outcome(connection, write, BOB, keep=True)
            assert sqlstate == "42501" and "another user" in message and ALICE in detail and BOB in detail and "claim" in hint
            sqlstate, message, detail, hint = outcome(connection, write, None, keep=True)
            assert sqlstate == "42501" and "no user" in detail and hint
    assert supabase.contents() == before


def test_a_unique_index_does_not_tell_what_others_have(supabase):
    fill_for_alice(supabase)
    entry, created_at = supabase.execute(f"SELECT id, created_at FROM {CACHE} WHERE user_id = %s AND cache_key = 'k'", (ALICE,))[0]
    insert = (f"INSERT INTO {CACHE} (id, user_id, content_type, cache_key, content, created_at) "
              f"VALUES ('{{}}', '{{}}', 't', '{{}}', '1', '{created_at}')")
    with supabase.connect() as connection:
        theirs = [insert.format(entry, ALICE, "k"), insert.format(entry, ALICE, "free"), insert.format(BOB, ALICE, "k"),
                  insert.format(entry, ALICE, "k") + " ON CONFLICT (id, user_id, created_at) DO UPDATE SET content = '2'",
                  f"UPDATE {CACHE} SET user_id = '{ALICE}'"]
        assert sqlstates(connection, theirs, BOB) == denied(theirs)
        # An id that somebody else has is free.
        assert outcome(connection, insert.format(entry, BOB, "own"), BOB) == 1
        assert outcome(connection, insert.format(entry, BOB, "own") + " ON CONFLICT DO NOTHING", BOB) == 1


def test_malformed_claims_show_nothing_and_raise_nothing(supabase):
    fill_for_alice(supabase)
    malformed = [
        " ", "x", "null", "[]", "{}", "{", f'"{ALICE}"', ALICE, '{"sub": null}', '{"sub": ""}', '{"sub": 1}', '{"sub": "alice"}',
        f'{{"sub": ["{ALICE}"]}}', f'{{"sub": {{"sub": "{ALICE}"}}}}', f'{{"user_id": "{ALICE}"}}', f'{{"SUB": "{ALICE}"}}',
        f'{{"sub": "{ALICE}"', f'{{"sub": "{ALICE}"}} x', f'{{"sub": "{ALICE}\'"}}', '{"sub": "%"}', "[" * 100_000,
        f'{{"sub": "{ALICE}", "sub": null}}', '{"sub": "\\u0000"}', '{"sub": "\\ud800"}',
    ]
    nothing = {
        "SELECT cache_current_user_id()": [(None,)],
        f"SELECT * FROM {CACHE}": [], f"DELETE FROM {CACHE}": 0, "SELECT * FROM user_cache_analytics": [],
        f"SELECT cache_lookup('{ALICE}', 't', 'k')": [(None,)], f"SELECT * FROM cache_get('{ALICE}', 't', 'k')": [],
        f"SELECT cache_invalidate('{ALICE}', 't', 'k')": [(0,)],
    }
    with supabase.connect() as connection:
        for claims in malformed:
            for statement, expected in nothing.items():
                with acting(connection, None, claims=claims):
                    cursor = connection.execute(statement)
                    found = cursor.fetchall() if cursor.description else cursor.rowcount
                assert (claims[:80], statement, found) == (claims[:80], statement, expected)


def test_claims_decide_before_the_setting(supabase):
    fill_for_alice(supabase)
    cases = [  # claims, infinite_pages_cache.user_id, who it is
        (None, None, None), (None, ALICE, ALICE), ("", ALICE, ALICE), ("", "nobody", None), ("", "", None),
        (f'{{"sub": "{BOB}"}}', ALICE, BOB), (f'{{"sub": "{BOB}"}}', None, BOB),
        ("{}", ALICE, None), ('{"sub": null}', ALICE, None), ("x", ALICE, None),
    ]
    for claims, setting, user in cases:
        with supabase.connect() as connection, connection.transaction():
            if claims is not None:
                connection.execute("SELECT set_config('request.jwt.claims', %s, true)", (claims,))
            if setting is not None:
                connection.execute("SELECT set_config('infinite_pages_cache.user_id', %s, true)", (setting,))
            connection.execute("SET LOCAL ROLE authenticated")
            users = {str(row[0]) for row in connection.execute(f"SELECT user_id FROM {CACHE}")}
            assert (claims, setting, users) == (claims, setting, {user} - {None})


@pytest.mark.parametrize("plan_cache_mode", ["auto", "force_generic_plan", "force_custom_plan"])
def test_a_kept_plan_serves_each_role_and_user_with_their_own_rows(supabase, plan_cache_mode):
    fill_for_alice(supabase)
    calls = ["SELECT cache_lookup(%s, 't', 'k')", "SELECT (cache_get(%s, 't', 'k')).content",
             "SELECT content FROM cache_lookup_many(%s, 't', '{k}')",
             "SELECT content FROM cache_search(%s, 't', '{}') WHERE cache_key = 'k'",
             f"SELECT content FROM {CACHE} WHERE user_id = %s AND cache_key = 'k'"]
    with supabase.connect(prepare_threshold=1) as connection:
        connection.execute(f"SET plan_cache_mode = {plan_cache_mode}")

        def found():
            rows = [connection.execute(call, (ALICE,)).fetchall() for call in calls]
            return {row[0][0] if row else None for row in rows}

        for _ in range(15):
            assert found() == {SECRET}
            with acting(connection, ALICE):
                assert found() == {SECRET}
            with acting(connection, BOB):
                assert found() == {None}
                assert connection.execute("SELECT total_cache_entries FROM user_cache_analytics").fetchall() == [(1,)]
                assert connection.execute("SELECT cache_touch(%s, 't', 'k', '1 day')", (ALICE,)).fetchone() == (None,)
                assert connection.execute("SELECT cache_invalidate(%s, 't', 'k')", (ALICE,)).fetchone() == (0,)
            with acting(connection, BOB, "service_role"):
                assert found() == {SECRET}
                assert connection.execute("SELECT cache_touch(%s, 't', 'k', '1 day')", (ALICE,)).fetchone() != (None,)
            # The user changes within one transaction, too.
            with acting(connection, ALICE):
                assert found() == {SECRET}
                connection.execute("SELECT set_config('request.jwt.claims', %s, true)", (json.dumps({"sub": BOB}),))
                assert found() == {None}
        assert outcome(connection, f"SELECT cache_lookup('{ALICE}', 't', 'k')", ALICE, "anon")[0] == "42501"


def test_row_security_cannot_be_switched_off_or_leaked_around(supabase):
    fill_for_alice(supabase)
    seen = []
    with supabase.connect() as connection:
        connection.add_notice_handler(lambda notice: seen.append(notice.message_primary))
        with pytest.raises(psycopg.errors.InsufficientPrivilege), acting(connection, BOB):
            connection.execute("SET LOCAL row_security = off")
            connection.execute(f"SELECT * FROM {CACHE}")
        with acting(connection, BOB):
            # A function that is cheaper than the policy, and tells what it gets.
            connection.execute("CREATE FUNCTION pg_temp.tell(jsonb) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS "
                               "$$BEGIN RAISE NOTICE '%', $1; RETURN true; END$$")
            connection.execute(f"SELECT * FROM {CACHE} WHERE pg_temp.tell(content)")
            connection.execute(f"UPDATE {CACHE} SET metadata = '{{}}' WHERE pg_temp.tell(content)")
            assert connection.execute("SELECT * FROM pg_stats WHERE schemaname = 'public' AND tablename LIKE 'infinite_pages_cache%'"
                                      ).fetchall() == []
    assert set(seen) == {'"the words of bob"'}


def test_the_service_role_works_for_every_user(supabase):
    fill_for_alice(supabase)
    supabase.execute(f"UPDATE {CACHE} SET expires_at = now() - interval '1 day' WHERE cache_key = 'k2'")
    with supabase.connect() as connection, acting(connection, None, "service_role"):
        assert connection.execute("SELECT cache_lookup(%s, 't', 'k'), cache_lookup(%s, 't', 'k')", (ALICE, BOB)
                                  ).fetchone() == (SECRET, "the words of bob")
        assert connection.execute(f"SELECT count(*) FROM {CACHE}").fetchone() == (4,)
        assert connection.execute("SELECT total_entries, expired_entries FROM cache_performance_metrics").fetchall() == [(4, 1)]
        for view in ("partition_health_metrics", "cache_alerts", "user_cache_analytics", "verify_production_cache()",
                     "check_partition_health()", "cache_audit_log", "cache_content_policies"):
            assert connection.execute(f"SELECT * FROM {view}").fetchall() != []
        connection.execute("SELECT * FROM cache_maintenance_log")
        assert connection.execute("SELECT sum(deleted_count) FROM cleanup_expired_cache_entries_production()").fetchone() == (1,)
        connection.execute("SELECT cache_upsert(%s, 't', 'by service', '1')", (BOB,))
        # Alice's two entries left; of audit rows two, and an archived one.
        assert connection.execute("SELECT * FROM cache_forget_user(%s)", (ALICE,)).fetchone() == (2, 3)
        assert connection.execute(f"SELECT DISTINCT user_id::text FROM {CACHE}").fetchall() == [(BOB,)]


def test_the_service_role_sees_how_many_connections_there_are(supabase):
    """It is no superuser, and other roles' sessions show it no details."""
    with supabase.connect() as connection, acting(connection, None, "service_role"):
        assert connection.execute("SELECT total_connections >= 1, percent_of_max_connections > 0 FROM cache_connection_metrics "
                                  "WHERE database_name = current_database()").fetchall() == [(True, True)]
        assert connection.execute("SELECT value > 0 FROM cache_alerts WHERE rule LIKE 'connections%'").fetchall() == [(True,)]


def test_what_a_tenant_writes_into_its_rows_does_not_break_the_reports_on_all(supabase):
    fill_for_alice(supabase)
    with supabase.connect() as connection:
        with acting(connection, ALICE):
            connection.execute(f"UPDATE {CACHE} SET hit_count = 9223372036854775807, adaptation_count = 9223372036854775807, "
                               "token_cost_saved = 9223372036854775807, last_accessed = 'infinity', expires_at = 'infinity', reuse_score = NULL, "
                               "metadata = NULL, access_frequency = NULL")
        with acting(connection, None, "service_role"):
            assert {row[0] for row in connection.execute("SELECT user_id::text FROM user_cache_analytics")} == {ALICE, BOB}
            for report in ("cache_performance_metrics", "partition_health_metrics", "cache_alerts", "check_partition_health()",
                           "verify_production_cache()", "cleanup_expired_cache_entries_production()"):
                assert connection.execute(f"SELECT * FROM {report}").fetchall() != []
            connection.execute("SELECT get_infinite_pages_analytics(%s)", (ALICE,))
        assert connection.execute("SELECT step FROM cache_run_maintenance() WHERE status <> 'ok'").fetchall() == []


@pytest.mark.parametrize("schema", ["public", '"My Cache"'])
def test_roles_of_other_names_and_an_extension_in_another_schema(my_roles, empty_database, schema):
    empty_database.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}; CREATE EXTENSION infinite_pages_cache SCHEMA {schema}")
    with empty_database.connect() as connection:
        # Nothing before it is granted.
        with pytest.raises(psycopg.errors.InsufficientPrivilege), acting(connection, ALICE, '"My Tenant"'):
            connection.execute(f"SELECT {schema}.cache_lookup(%s, 't', 'k')", (ALICE,))
        for _ in range(2):
            connection.execute(f"SELECT {schema}.cache_grant_tenant('My Tenant'), {schema}.cache_grant_service('My Service')")
        for user in (ALICE, BOB):
            with acting(connection, user, '"My Tenant"'):
                connection.execute(f"SELECT {schema}.cache_upsert(%s, 't', 'k', to_jsonb(%s::text))", (user, user))
        for user, other in ((ALICE, BOB), (BOB, ALICE)):
            with acting(connection, user, '"My Tenant"'):
                assert connection.execute(f"SELECT {schema}.cache_lookup(%s, 't', 'k'), {schema}.cache_lookup(%s, 't', 'k')",
                                          (user, other)).fetchone() == (user, None)
                assert connection.execute(f"SELECT user_id::text, total_cache_entries FROM {schema}.user_cache_analytics"
                                          ).fetchall() == [(user, 1)]
        statements = relation_statements(connection, partitions=True) + [f"SELECT {schema}.cache_forget_user('{BOB}')"]
        assert sqlstates(connection, statements, BOB, '"My Tenant"') == denied(statements)
        with acting(connection, None, '"My Service"'):
            assert connection.execute(f"SELECT count(*) FROM {schema}.{CACHE}").fetchone() == (2,)
            assert connection.execute(f"SELECT count(*) FROM {schema}.cache_audit_log").fetchone() == (2,)
            assert connection.execute(f"SELECT total_entries FROM {schema}.cache_performance_metrics").fetchall() == [(2,)]
            assert connection.execute(f"SELECT deleted_count FROM {schema}.cleanup_expired_cache_entries_production()").fetchall() == [(0,)]
            assert connection.execute(f"SELECT * FROM {schema}.cache_forget_user(%s)", (ALICE,)).fetchone() == (1, 1)
            for view in ("partition_health_metrics", "cache_connection_metrics", "cache_alerts", "cache_maintenance_log"):
                connection.execute(f"SELECT * FROM {schema}.{view}")


def test_grants_are_the_owners_to_give(mallory, database):
    for function in ("cache_grant_tenant", "cache_grant_service"):
        error = sqlstate_of(lambda: database.execute(f"SELECT {function}('no such role')"))
        assert error.sqlstate == "42704" and "no such role" in error.message_primary and error.message_detail and error.message_hint
        call = f"SELECT {function}('mallory')"
        with database.connect(mallory) as connection:
            assert sqlstate_of(lambda: connection.execute(call)).sqlstate == "42501"
            # The right to call it is not the right to grant.
            database.execute(f"GRANT EXECUTE ON FUNCTION {function} TO mallory")
            error = sqlstate_of(lambda: connection.execute(call))
            assert error.sqlstate == "42501" and error.message_detail and error.message_hint
            assert sqlstate_of(lambda: connection.execute(f"SELECT * FROM {CACHE}")).sqlstate == "42501"


def test_a_tenants_first_write_of_a_month_creates_its_partition_closed_to_tenants(supabase):
    with supabase.connect() as connection:
        now = this_month(connection)
        connection.execute(f"DROP TABLE infinite_pages_cache_{now}, cache_audit_log_{now}")
        with acting(connection, ALICE):
            connection.execute("SELECT cache_upsert(%s, 't', 'k', '1')", (ALICE,))
        assert connection.execute(f"SELECT tableoid::regclass::text FROM {CACHE}").fetchall() == [(f"infinite_pages_cache_{now}",)]
        for name, parent in ((f"infinite_pages_cache_{now}", CACHE), (f"cache_audit_log_{now}", "cache_audit_log")):
            assert connection.execute(
                "SELECT c.relrowsecurity, c.relowner = p.relowner, "
                "       (SELECT count(*) FROM aclexplode(c.relacl) a WHERE a.grantee <> c.relowner) "
                "FROM pg_class c, pg_class p WHERE c.oid = %s::regclass AND p.oid = %s::regclass", (name, parent)).fetchone() == (True, True, 0)
        statements = relation_statements(connection, partitions=True)
        assert sqlstates(connection, statements, ALICE) == denied(statements)
        assert connection.execute("SELECT * FROM check_partition_health() WHERE NOT ok").fetchall() == []


def test_tenants_work_where_execute_is_not_open_to_everybody(roles, empty_database):
    """A hardening that many databases have."""
    empty_database.execute("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
    empty_database.execute("CREATE EXTENSION infinite_pages_cache")
    with empty_database.connect() as connection:
        for role in ("authenticated", "service_role"):
            with acting(connection, ALICE, role):
                connection.execute("SELECT cache_upsert(%s, 't', 'k', '1', ttl => '1 day')", (ALICE,))
                assert connection.execute("SELECT cache_lookup(%s, 't', cache_key('{}')), cache_lookup(%s, 't', 'k')", (ALICE, ALICE)
                                          ).fetchone() == (None, 1)
                assert connection.execute("SELECT total_cache_entries FROM user_cache_analytics").fetchall() == [(1,)]


# Shadows of every plain function, aggregate and operator of PostgreSQL, and of the extension's own.
PLANT_EVIL = """
CREATE SCHEMA evil;
GRANT USAGE ON SCHEMA evil TO PUBLIC;
DO $plant$
DECLARE shadowed record;
BEGIN
    FOR shadowed IN
        SELECT p.proname, oidvectortypes(p.proargtypes) AS arguments, format_type(p.prorettype, NULL) AS result
        FROM pg_proc p
        WHERE p.pronamespace IN ('pg_catalog'::regnamespace, 'public'::regnamespace) AND p.prokind IN ('f', 'a')
          AND p.proargmodes IS NULL AND NOT p.proretset
          AND NOT EXISTS (SELECT 1 FROM pg_type t WHERE t.typtype = 'p' AND t.oid = ANY (p.proargtypes::oid[] || p.prorettype))
    LOOP
        EXECUTE format('CREATE FUNCTION evil.%I(%s) RETURNS %s LANGUAGE plpgsql AS '
                       '$$BEGIN RAISE EXCEPTION ''evil function was called''; END$$',
                       shadowed.proname, shadowed.arguments, shadowed.result);
    END LOOP;
    FOR shadowed IN
        SELECT o.oid, o.oprname, format_type(o.oprleft, NULL) AS l, format_type(o.oprright, NULL) AS r, format_type(o.oprresult, NULL) AS result
        FROM pg_operator o
        WHERE o.oprkind = 'b' AND NOT EXISTS (SELECT 1 FROM pg_type t WHERE t.typtype = 'p' AND t.oid IN (o.oprleft, o.oprright, o.oprresult))
    LOOP
        EXECUTE format('CREATE FUNCTION evil."operator %s"(%s, %s) RETURNS %s LANGUAGE plpgsql AS '
                       '$$BEGIN RAISE EXCEPTION ''evil operator was called''; END$$', shadowed.oid, shadowed.l, shadowed.r, shadowed.result);
        EXECUTE format('CREATE OPERATOR evil.%s (FUNCTION = evil."operator %s", LEFTARG = %s, RIGHTARG = %s)',
                       shadowed.oprname, shadowed.oid, shadowed.l, shadowed.r);
    END LOOP;
    FOR shadowed IN
        SELECT c.relname FROM pg_class c
        WHERE c.relkind IN ('r', 'p', 'v') AND c.relnamespace IN ('pg_catalog'::regnamespace, 'public'::regnamespace)
    LOOP
        EXECUTE format('CREATE TABLE evil.%I ()', shadowed.relname);
    END LOOP;
END
$plant$;
GRANT ALL ON ALL TABLES IN SCHEMA evil TO PUBLIC;
"""


@pytest.mark.parametrize("role", ["authenticated", "service_role", "postgres"])
def test_nothing_planted_in_the_search_path_is_ever_called(supabase, role):
    supabase.execute(PLANT_EVIL)
    entry = json.dumps([{"user_id": ALICE, "content_type": "t", "cache_key": "batch", "content": 2, "ttl": "1 day", "token_cost": 1,
                         "expires_at": None, "story_id": ALICE}])
    calls = {
        f"""public.cache_upsert('{ALICE}', 't', 'k', '1', '1 day', '{{"tag": "a"}}', foundation_dependency => 'f') IS NOT NULL""": True,
        f"public.cache_lookup('{ALICE}', 't', 'k')": 1,
        f"public.cache_lookup('{ALICE}', 't', 'missing')": None,
        f"(public.cache_get('{ALICE}', 't', 'k')).content": 1,
        f"(public.cache_lookup_many('{ALICE}', 't', '{{k}}')).content": 1,
        f"""(public.cache_search('{ALICE}', 't', '{{"tag": "a"}}')).content""": 1,
        f"public.cache_touch('{ALICE}', 't', 'k') IS NOT NULL": True,
        f"public.cache_upsert_many('{entry}') IS NOT NULL": True,
        "public.cache_key('{}')": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        f"(public.get_infinite_pages_analytics('{ALICE}'))['total_cache_entries']": 2,
        f"public.cache_invalidate('{ALICE}', 't', 'batch')": 1,
        f"""public.cache_invalidate_where('{ALICE}', '{{"tag": "b"}}')""": 0,
        f"public.cache_invalidate_content_type('{ALICE}', 'u')": 0,
        f"public.cache_invalidate_dependents('{ALICE}', 'f')": 1,
    }
    with supabase.connect() as connection:
        connection.execute("SET search_path = evil, pg_catalog, public")
        caught = sqlstate_of(lambda: connection.execute("SELECT 'a'::pg_catalog.text = 'b'::pg_catalog.text"))
        assert caught.message_primary == "evil operator was called"
        with acting(connection, ALICE, role):
            for _ in range(7):
                for call, expected in calls.items():
                    assert (call, connection.execute(f"SELECT {call}").fetchone()) == (call, (expected,))
                connection.execute("SELECT * FROM public.user_cache_analytics")
        if role != "authenticated":
            with acting(connection, ALICE, role):
                for call in ("cleanup_expired_cache_entries_production()", "verify_production_cache()", "check_partition_health()",
                             "cache_performance_metrics", "partition_health_metrics", "cache_connection_metrics", "cache_alerts",
                             "cache_maintenance_log", f"cache_forget_user('{ALICE}')"):
                    connection.execute(f"SELECT * FROM public.{call}")
        if role == "postgres":
            for call in ("cache_setup()", "create_monthly_cache_partition('2031-05-01')", "cache_run_maintenance()",
                         "drop_old_cache_partitions(1)", "archive_audit_logs('1 day')", "cache_grant_tenant('authenticated')",
                         "cache_grant_service('service_role')"):
                connection.execute(f"SELECT * FROM public.{call}")
            assert {row[0] for row in connection.execute("SELECT status FROM public.cache_maintenance_log")} == {"ok"}


def test_temporary_objects_do_not_stand_in_for_the_extensions_own(supabase):
    fill_for_alice(supabase)
    names = [name for (name,) in supabase.execute(
        "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p', 'v') AND relnamespace IN ('pg_catalog'::regnamespace, 'public'::regnamespace)")]
    with supabase.connect() as connection:
        connection.execute("SET ROLE authenticated")
        for name in names:
            connection.execute(f'CREATE TEMP TABLE "{name}" ()')
        connection.execute("CREATE DOMAIN pg_temp.uuid AS text CHECK (false); CREATE DOMAIN pg_temp.interval AS text CHECK (false)")
        connection.execute("RESET ROLE")
        for role in ("authenticated", "service_role"):
            with acting(connection, ALICE, role):
                connection.execute("SELECT public.cache_upsert(%s, 't', 'k', '7')", (ALICE,))
                assert connection.execute("SELECT public.cache_lookup(%s, 't', 'k')", (ALICE,)).fetchone() == (7,)
                assert connection.execute("SELECT content FROM public.cache_get(%s, 't', 'k')", (ALICE,)).fetchall() == [(7,)]
                assert connection.execute("SELECT total_cache_entries FROM public.user_cache_analytics").fetchall()[0] == (3,)
        connection.execute("SELECT * FROM public.cache_setup()")
        assert connection.execute("SELECT name FROM public.verify_production_cache() WHERE NOT ok").fetchall() == []


def test_the_isolation_test_of_the_guide(supabase):
    fill_for_alice(supabase)
    with supabase.connect() as connection:
        tables = connection.execute("SELECT tablename, rowsecurity FROM pg_tables WHERE tablename LIKE 'infinite_pages_cache%'").fetchall()
        assert len(tables) >= 5 and all(secure for _, secure in tables)
        connection.execute("SET role authenticated")
        assert connection.execute(f"SELECT count(*) FROM {CACHE}").fetchone() == (0,)
        connection.execute("SELECT set_config('request.jwt.claims', %s, false)", (json.dumps({"sub": BOB}),))
        assert connection.execute(f"SELECT count(*) FROM {CACHE}").fetchone() == (1,)


@pytest.mark.parametrize("table", [CACHE, "cache_audit_log", "cache_content_policies", "cache_maintenance_runs"])
def test_a_table_that_somebody_else_planted_is_not_adopted(mallory, empty_database, table):
    empty_database.execute("GRANT CREATE ON SCHEMA public TO mallory")
    with empty_database.connect(mallory) as connection:
        connection.execute(f"CREATE TABLE {table} (user_id uuid, created_at timestamptz, timestamp timestamptz)")
    error = sqlstate_of(lambda: empty_database.execute("CREATE EXTENSION infinite_pages_cache"))
    assert error.sqlstate == "42501" and table in error.message_primary and "mallory" in error.message_detail and error.message_hint
    assert empty_database.execute("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace") == [(table,)]


@pytest.mark.parametrize("by", ["cache_setup()", "cache_run_maintenance()"])
def test_what_is_below_a_partition_and_a_default_one_are_closed(supabase, by):
    """Tables that the owner has made by hand, which default privileges open to everybody."""
    with supabase.connect() as connection:
        connection.execute(f"""
            CREATE TABLE divided PARTITION OF {CACHE} FOR VALUES FROM ('2031-03-01 00:00+00') TO ('2031-04-01 00:00+00') PARTITION BY HASH (user_id);
            CREATE TABLE part PARTITION OF divided FOR VALUES WITH (MODULUS 1, REMAINDER 0) PARTITION BY HASH (user_id);
            CREATE TABLE leaf PARTITION OF part FOR VALUES WITH (MODULUS 1, REMAINDER 0);
            CREATE TABLE others PARTITION OF {CACHE} DEFAULT;
            CREATE TABLE others_of_the_log PARTITION OF cache_audit_log DEFAULT;
            INSERT INTO {CACHE} (user_id, content_type, cache_key, content, created_at)
            VALUES ('{ALICE}', 't', 'k', '1', '2031-03-05'), ('{ALICE}', 't', 'k', '1', '2041-03-05')""")
        tables = ("divided", "part", "leaf", "others", "others_of_the_log")
        open_ones = "SELECT name, detail FROM verify_production_cache() WHERE name = 'row security is on' AND NOT ok"
        assert connection.execute(open_ones).fetchall() != []
        assert [outcome(connection, f"SELECT count(*) FROM {table}", BOB) for table in tables] == [[(1,)]] * 4 + [[(0,)]]
        connection.execute(f"SELECT * FROM {by}")
        for table in tables:
            for statement in (f"SELECT count(*) FROM {table}", f"DELETE FROM {table}", f"TRUNCATE {table}"):
                assert "42501" in str(outcome(connection, statement, BOB)), (table, statement)
        assert connection.execute("SELECT relname FROM pg_class WHERE relname = ANY (%s) AND NOT relrowsecurity", (list(tables),)).fetchall() == []
        assert connection.execute(open_ones).fetchall() == []
