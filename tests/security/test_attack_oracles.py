"""What answers give away beside their rows: plans, errors, waiting, statistics, and what an earlier role has left in the session."""

import json
from datetime import datetime, timedelta

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.claims import CASES
from harness.entries import ALICE, BOB, CACHE
from harness.roles import acting, outcome, temporary_roles
from harness.tenants import fill_for_alice

SECRET = "alicesecret"
EXPLAIN = "EXPLAIN (ANALYZE, VERBOSE, BUFFERS, TIMING OFF, SUMMARY OFF)"


@pytest.fixture
def crowded(supabase):
    """So many entries of Alice's that each of their values is among the planner's statistics; a few of Bob's."""
    for user, word, count in ((ALICE, SECRET, 400), (BOB, "bobs", 3)):
        supabase.execute(f"""
            SELECT cache_upsert('{user}', '{word}-type', '{word}-key-' || n, to_jsonb('{word}'::text), metadata => '{{"tag": "{word}"}}',
                                foundation_dependency => '{word}-foundation', prompt_template => '{word}', semantic_similarity_hash => '{word}')
            FROM generate_series(1, {count}) n""")
    supabase.execute(f"CREATE STATISTICS extended (mcv) ON content_type, foundation_dependency FROM infinite_pages_cache_{this_month(supabase)}; "
                     f"CREATE STATISTICS expressed ON (lower(content_type)) FROM infinite_pages_cache_{this_month(supabase)}; ANALYZE")
    yield supabase


def this_month(database):
    return database.value("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')")


# ── plans ────────────────────────────────────────────────────────────────────────────────────────

CALLS = ["cache_lookup('{user}', '{type}', '{key}')", "cache_get('{user}', '{type}', '{key}')", "cache_lookup_many('{user}', '{type}', '{{{key}}}')",
         "cache_search('{user}', '{type}', '{{}}')", "cache_touch('{user}', '{type}', '{key}', '1 day')",
         "cache_invalidate('{user}', '{type}', '{key}')",
         "cache_invalidate_content_type('{user}', '{type}')", "cache_invalidate_dependents('{user}', '{key}')",
         "get_infinite_pages_analytics('{user}')", """cache_explain('{user}', '{type}', '{key}', '{{"tag": 1}}')""", "cache_refresh_candidates()",
         "cache_pending_hits()", "user_cache_analytics"]


@pytest.mark.parametrize("way", ["on", "off"])
def test_the_plan_of_a_call_is_the_same_whether_another_has_the_entry(crowded, way):
    """With what is read counted, which a clock would tell, too: the functions do not look at another's rows."""
    with crowded.connect() as connection:
        connection.execute(f"SET enable_indexscan = {way}")
        for call in CALLS:
            plans = []
            for user, kind, key in ((ALICE, f"{SECRET}-type", f"{SECRET}-key-7"), (ALICE, f"{SECRET}-type", "absent"), (ALICE, "absent", "absent"),
                                    ("00000000-0000-4000-8000-00000000000f", "absent", "absent")):
                statement = f"{EXPLAIN} SELECT FROM {call.format(user=user, type=kind, key=key)}"
                # The first ones fill the caches of the session.
                plans.append([outcome(connection, statement, BOB) for _ in range(8)][-1])
            plans = [[row[0].split("Function Call:")[0] for row in plan] for plan in plans]
            assert plans[1:] == plans[:1] * 3, call


def leaky(connection):
    """Operators of a tenant's that tell what they are given, and that ask the planner for its statistics."""
    connection.execute("CREATE SCHEMA IF NOT EXISTS work; GRANT ALL ON SCHEMA work TO authenticated; SET ROLE authenticated")
    for kind in ("text", "jsonb", "uuid"):
        connection.execute(f"CREATE FUNCTION work.leak_{kind}({kind}, {kind}) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS "
                           "$$BEGIN RAISE NOTICE 'leaked %', $1; RETURN true; END$$")
        for operator, estimator in (("<<<", "scalarltsel"), ("===", "eqsel"), ("<>>", "scalargtsel"), ("~~~~", "matchingsel")):
            connection.execute(f"CREATE OPERATOR work.{operator} (FUNCTION = work.leak_{kind}, LEFTARG = {kind}, RIGHTARG = {kind}, "
                               f"RESTRICT = {estimator})")
    connection.execute("RESET ROLE")


TEXTS = ["content_type", "cache_key", "foundation_dependency", "prompt_template", "semantic_similarity_hash"]


def probes():
    conditions = [f"{column} OPERATOR(work.{operator}) 'm'" for column in TEXTS for operator in ("<<<", "===", "<>>", "~~~~")]
    conditions += [f"metadata OPERATOR(work.{operator}) '1'" for operator in ("<<<", "===", "~~~~")]
    conditions += ["lower(content_type) OPERATOR(work.===) 'm'",
                   "content_type OPERATOR(work.===) 'm' AND foundation_dependency OPERATOR(work.===) 'm'"]
    for condition in conditions:
        yield f"SELECT FROM {CACHE} WHERE {condition}"
    yield f"UPDATE {CACHE} SET metadata = '{{}}' WHERE content_type OPERATOR(work.===) 'm'"
    yield f"DELETE FROM {CACHE} WHERE content_type OPERATOR(work.===) 'm'"
    yield f"SELECT FROM {CACHE} a JOIN {CACHE} b ON a.content_type OPERATOR(work.===) b.content_type"
    yield f"SELECT content_type, count(*) FROM {CACHE} GROUP BY 1 HAVING min(content_type) OPERATOR(work.===) 'm'"
    yield f"SELECT FROM (SELECT * FROM {CACHE} OFFSET 0) s WHERE content_type OPERATOR(work.===) 'm'"


def test_the_planner_shows_nobody_anothers_values(crowded):
    """It hands the commonest values of a column to a tenant's operator, unless it takes care (CVE-2017-7484, CVE-2025-8713)."""
    told = []
    with crowded.connect() as connection:
        leaky(connection)
        connection.add_notice_handler(lambda diag: told.append(diag.message_primary))
        for probe in probes():
            for prefix in ("EXPLAIN (VERBOSE)", EXPLAIN):
                found = outcome(connection, f"{prefix} {probe}", BOB)
                assert isinstance(found, list) and SECRET not in str(found), (probe, found)
        assert any("bobs" in notice for notice in told) and not any(SECRET in notice for notice in told)
        # The trap works: without row security it is all there to be told.
        told.clear()
        with acting(connection, None, "service_role", keep=False):
            connection.execute("SET LOCAL ROLE postgres")
            connection.execute(f"EXPLAIN SELECT FROM {CACHE} WHERE content_type OPERATOR(work.===) 'm'")
        assert any(SECRET in notice for notice in told)


def test_what_plans_do_tell(crowded):
    """Known, and said in SECURITY.md: whoever may EXPLAIN learns from PostgreSQL how many rows it expects. Not what is in them."""
    with crowded.connect() as connection:
        def estimate(user):
            [(plan,)] = outcome(connection, f"EXPLAIN (FORMAT JSON) SELECT FROM {CACHE} WHERE user_id = '{user}'", BOB)
            return plan[0]["Plan"]["Plan Rows"]

        assert estimate(ALICE) >= 300 > 10 > estimate("00000000-0000-4000-8000-00000000000f")


# ── errors and waiting ───────────────────────────────────────────────────────────────────────────

FIELDS = ("sqlstate", "message_primary", "message_detail", "message_hint", "context", "schema_name", "table_name", "column_name",
          "datatype_name", "constraint_name", "internal_query", "source_file", "source_line", "source_function")


def whole_error(connection, statement, user):
    with pytest.raises(psycopg.Error) as caught, acting(connection, user, keep=False):
        connection.execute(statement)
    return {field: getattr(caught.value.diag, field) for field in FIELDS}


def test_an_error_is_the_same_to_the_last_field_whether_another_has_the_entry(crowded):
    entry, created_at = crowded.execute(f"SELECT id, created_at FROM {CACHE} WHERE user_id = %s AND cache_key = %s", (ALICE, f"{SECRET}-key-7"))[0]
    insert = ("INSERT INTO {cache} (id, user_id, content_type, cache_key, content, created_at) "
              "VALUES ('{id}', '{user}', '{type}', '{key}', '1', '{at}')")
    with crowded.connect() as connection:
        for text in ("SELECT cache_upsert('{user}', '{type}', '{key}', '1')",
                     """SELECT cache_upsert_many('[{{"user_id": "{user}", "content_type": "{type}", "cache_key": "{key}", "content": 1}}]')""",
                     "INSERT INTO {cache} (user_id, content_type, cache_key, content) VALUES ('{user}', '{type}', '{key}', '1')",
                     insert,
                     insert + " ON CONFLICT (id, user_id, created_at) DO UPDATE SET content = '2'",
                     "UPDATE {cache} SET user_id = '{user}', content_type = '{type}', cache_key = '{key}' WHERE cache_key = 'bobs-key-1'",
                     "UPDATE {cache} SET id = '{id}', user_id = '{user}', created_at = '{at}' WHERE cache_key = 'bobs-key-1'"):
            # The statement's own text differs in nothing but what is looked for.
            there, absent = ({field: value and value.replace(kind, "TYPE").replace(key, "KEY").replace(str(id), "ID").replace(str(at), "AT")
                              for field, value in whole_error(connection, text.format(cache=CACHE, user=ALICE, type=kind, key=key, id=id, at=at),
                                                               BOB).items()}
                             for kind, key, id, at in ((f"{SECRET}-type", f"{SECRET}-key-7", entry, created_at),
                                                       ("another-type", "another-key", "00000000-0000-4000-8000-00000000000e",
                                                       "2026-01-01 00:00:00+00")))
            # A month of no partition is no secret.
            if "no partition" not in absent["message_primary"]:
                assert there == absent
            assert there["sqlstate"] == "42501"


def test_what_fails_on_a_row_fails_on_ones_own_only(crowded):
    """An expression that raises with the value it has been given, put before the policy in every way there is."""
    with crowded.connect() as connection:
        for condition in ("(content #>> '{{}}')::integer = 1", "cache_key::integer = 1", "1 / (length(cache_key) - {length}) > 0",
                          "(metadata->>'tag')::uuid IS NULL",
                          "content_type::date > now()", "jsonb_object_keys(content) = ''", "cache_key LIKE '%\\'"):
            for statement in ("SELECT count(*) FROM {cache} WHERE {condition}", "SELECT count(*) FILTER (WHERE {condition}) FROM {cache}",
                              "UPDATE {cache} SET metadata = '{{}}' WHERE {condition}", "DELETE FROM {cache} WHERE {condition}",
                              "SELECT * FROM {cache} WHERE user_id = '%s' AND {condition}" % ALICE,
                              "SELECT * FROM {cache} ORDER BY ({condition})"):
                whole = statement.format(cache=CACHE, condition=condition.format(length=len(f"{SECRET}-key-7")))
                assert SECRET not in str(outcome(connection, whole, BOB)), whole
        assert SECRET in str(outcome(connection, f"SELECT count(*) FROM {CACHE} WHERE cache_key::integer = 1", ALICE))


def test_nobody_waits_for_another_tenants_writes(crowded):
    """Waiting would tell that somebody writes a key, and hold others up at will."""
    key = f"{SECRET}-key-7"
    entry, created_at = crowded.execute(f"SELECT id, created_at FROM {CACHE} WHERE user_id = %s AND cache_key = %s", (ALICE, key))[0]
    foreign = [f"SELECT {call.format(user=ALICE, type=f'{SECRET}-type', key=key)}" for call in CALLS if "(" in call] + [
        f"SELECT cache_upsert('{ALICE}', '{SECRET}-type', '{key}', '1')", f"SELECT cache_upsert('{ALICE}', 't', 'new', '1')",
        f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content) VALUES ('{ALICE}', 't', 'new', '1')",
        f"INSERT INTO {CACHE} (id, user_id, content_type, cache_key, content, created_at) "
        f"VALUES ('{entry}', '{ALICE}', 't', 'new', '1', '{created_at}')",
        f"UPDATE {CACHE} SET metadata = '{{}}' WHERE user_id = '{ALICE}'", f"SELECT * FROM {CACHE} WHERE user_id = '{ALICE}' FOR UPDATE",
        # The same key of one's own.
        f"SELECT cache_upsert('{BOB}', '{SECRET}-type', '{key}', '1')", f"SELECT cache_upsert('{BOB}', 't', 'new', '1')"]
    with crowded.connect() as alice, crowded.connect() as bob:
        bob.execute("SET lock_timeout = '200ms'")
        with acting(alice, ALICE, keep=False):
            alice.execute("SELECT cache_upsert(%s, %s, %s, '1'), cache_upsert(%s, 't', 'new', '1')", (ALICE, f"{SECRET}-type", key, ALICE))
            for statement in foreign:
                found = outcome(bob, statement, BOB)
                assert not (isinstance(found, tuple) and found[0] == "55P03"), (statement, found)
        # Nor is she held up by what he has tried and not ended.
        alice.execute("SET lock_timeout = '200ms'")
        for statement in foreign:
            with acting(bob, BOB, keep=False):
                try:
                    with bob.transaction():
                        bob.execute(statement)
                except psycopg.errors.InsufficientPrivilege:
                    pass
                with acting(alice, ALICE, keep=False):
                    alice.execute("SELECT cache_upsert(%s, %s, %s, '1'), cache_upsert(%s, 't', 'new', '1')", (ALICE, f"{SECRET}-type", key, ALICE))


# ── statistics ───────────────────────────────────────────────────────────────────────────────────

def test_no_view_of_the_server_shows_anothers_words(crowded):
    """Every relation of pg_catalog and information_schema that a tenant may read, while Alice's sessions work."""
    with crowded.connect() as connection, crowded.connect(application_name=f"{SECRET}-application") as alice:
        alice.execute("SET ROLE authenticated")
        alice.execute("BEGIN")
        alice.execute("SELECT set_config('request.jwt.claims', %s, false)", (json.dumps({"sub": ALICE, "name": SECRET}),))
        alice.execute("SELECT cache_lookup(%s, %s, %s)", (ALICE, f"{SECRET}-type", f"{SECRET}-key-7"))
        alice.execute(f"DECLARE {SECRET} CURSOR WITH HOLD FOR SELECT * FROM {CACHE}")
        alice.execute(f"PREPARE {SECRET} AS SELECT '{SECRET}'")

        def seen(role, user, only="%"):
            found = set()
            with acting(connection, user, role, keep=False):
                relations = [name for (name,) in connection.execute(
                    "SELECT c.oid::regclass::text FROM pg_class c WHERE relkind IN ('r', 'v') AND has_table_privilege(c.oid, 'SELECT') "
                    "AND c.relnamespace IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace) AND relname LIKE %s", (only,)).fetchall()]
                for relation in relations:
                    try:
                        with connection.transaction():
                            if connection.execute(f"SELECT count(*) FROM {relation} r WHERE strpos(r::text, %s) > 0", (SECRET,)).fetchone()[0]:
                                found.add(relation)
                    except psycopg.errors.InsufficientPrivilege:
                        pass
            return found, len(relations)

        # PostgreSQL shows everybody what programs call themselves.
        found, count = seen("authenticated", BOB)
        assert found <= {"pg_stat_activity"} and count > 150
        for role, user in (("authenticated", BOB), ("anon", None)):
            assert seen(role, user, "pg_stat%")[0] <= {"pg_stat_activity"}
            assert connection_query(connection, role, user, alice.info.backend_pid) == ("<insufficient privilege>",)
        assert {"pg_stats", "pg_stats_ext", "pg_stat_activity"} <= seen("postgres", None, "pg_stat%")[0]


def connection_query(connection, role, user, pid):
    with acting(connection, user, role, keep=False):
        return connection.execute("SELECT query FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchone()


def test_hits_in_memory_are_shown_to_who_may_read_the_entries(supabase):
    """cache_pending_hits() reads shared memory, where no table's privileges apply by themselves, and anybody may call it."""
    fill_for_alice(supabase)
    with temporary_roles(supabase.cluster, "bypass", "reader"), supabase.connect() as connection:
        connection.execute(f"ALTER ROLE bypass BYPASSRLS; ALTER ROLE reader BYPASSRLS; GRANT SELECT ON {CACHE} TO reader")
        with acting(connection, ALICE):
            connection.execute("SELECT cache_lookup(%s, 't', 'k')", (ALICE,))
        for role, user, count in (("authenticated", ALICE, 1), ("authenticated", BOB, 0), ("authenticated", None, 0), ("anon", ALICE, 0),
                                  ("anon", None, 0),
                                  ("bypass", ALICE, 0), ("bypass", None, 0), ("reader", None, 1), ("service_role", None, 1)):
            for per in ("entry", "user", "content_type"):
                assert (role, user, len(outcome(connection, f"SELECT * FROM cache_pending_hits_by('{per}')", user, role))) == (role, user, count)


@pytest.mark.parametrize("way", ["on", "off"])
def test_the_helpers_of_a_lookup_guard_nothing(supabase, way):
    """Without EXECUTE on them a role has no more, and the direct way to an entry does not ask; what does guard, it asks for."""
    fill_for_alice(supabase)
    with supabase.connect() as connection:
        connection.execute(f"SET enable_indexscan = {way}")
        lookup = f"SELECT cache_lookup('{ALICE}', 't', 'k')"
        for helper in ("cache_current_user_id()", "cache_entry_digest(text, text)"):
            connection.execute(f"REVOKE EXECUTE ON FUNCTION {helper} FROM PUBLIC, anon, authenticated")
        own = outcome(connection, lookup, ALICE)
        assert own == [("the words of alice",)] if way == "on" else own[0] == "42501"
        for user in (BOB, None):
            foreign = outcome(connection, lookup, user)
            assert foreign == [(None,)] if way == "on" else foreign[0] == "42501"
        for right in ("EXECUTE ON FUNCTION cache_lookup(uuid, text, text)", f"SELECT ON {CACHE}"):
            connection.execute("BEGIN")
            connection.execute(f"REVOKE {right} FROM PUBLIC, anon, authenticated")
            connection.execute("COMMIT")
            assert outcome(connection, lookup, ALICE)[0] == "42501"
            connection.execute(f"GRANT {right} TO authenticated")


# ── one connection, many roles ───────────────────────────────────────────────────────────────────

# What a call shows without its counts of hits, which go on whoever asks.
STEADY = {"cache_get": "content", "cache_search": "content", "user_cache_analytics": "user_id, total_cache_entries",
          "get_infinite_pages_analytics": "get_infinite_pages_analytics->'total_cache_entries'"}
PANEL = [f"SELECT count(*), min(user_id::text), max(user_id::text) FROM {CACHE}", "EXECUTE kept", "SELECT kept()", "FETCH ALL FROM kept_cursor",
         *[f"SELECT {STEADY.get(call.split('(')[0], '*')} FROM {call.format(user=user, type='t', key='k')}"
           for call in CALLS if "pending" not in call for user in (ALICE, BOB)],
         f"SELECT cache_upsert('{ALICE}', 't', 'k', '3') IS NOT NULL", f"SELECT cache_upsert('{BOB}', 't', 'k', '3') IS NOT NULL",
         "SELECT count(*) FROM cache_audit_log", "SELECT count(*) FROM cache_performance_metrics",
         "SELECT ttl FROM cache_content_policies WHERE content_type = '*'",
         f"SELECT count(*) FROM infinite_pages_cache_2031_05"]


def prepared(database):
    # No statements that the client prepares by itself: it would drop this one with them.
    connection = database.connect(prepare_threshold=None)
    connection.execute(f"PREPARE kept AS SELECT array_agg(user_id::text ORDER BY user_id, cache_key) FROM {CACHE}")
    return connection


def answer(connection, role, user, statement):
    """Undone afterwards; what the clock changes is left out."""
    try:
        with acting(connection, user, role, keep=False):
            if "kept_cursor" in statement:
                connection.execute(f"DECLARE kept_cursor CURSOR FOR SELECT user_id::text, cache_key FROM {CACHE} ORDER BY 1, 2")
            rows = connection.execute(statement).fetchall()
            # Views promise no order.
            return sorted((tuple("a time" if isinstance(value, (datetime, timedelta)) else value for value in row) for row in rows), key=repr)
    except psycopg.Error as error:
        return error.diag.sqlstate, error.diag.message_primary


def test_what_a_role_sees_does_not_depend_on_who_came_before(supabase):
    """Roles, users, ways and partitions change on one connection, in generated orders; each answer is that of a new connection."""
    fill_for_alice(supabase)
    supabase.execute("SELECT cache_upsert(%s, 't', 'k', '2')", (BOB,))
    supabase.execute(f"CREATE FUNCTION kept() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT string_agg(user_id::text || cache_key, ',' "
                     f"ORDER BY user_id, cache_key) FROM {CACHE}); END $$; GRANT EXECUTE ON FUNCTION kept() TO PUBLIC")
    who = [("authenticated", ALICE), ("authenticated", BOB), ("authenticated", None), ("anon", ALICE), ("service_role", None), ("postgres", None)]
    expected = {}
    for role, user in who:
        # One that nobody else has used.
        with prepared(supabase) as connection:
            expected |= {(role, user, statement): answer(connection, role, user, statement) for statement in PANEL}
    # They differ, so a mix-up would show.
    assert len({repr([expected[role, user, statement] for statement in PANEL]) for role, user in who}) == len(who)

    @settings(CASES, max_examples=15)
    @given(st.lists(st.tuples(st.sampled_from(who), st.lists(st.sampled_from(PANEL), min_size=1, max_size=6), st.sampled_from(["on", "off"]),
                              st.sampled_from(["auto", "force_generic_plan"]), st.sampled_from([None, None, "ANALYZE", "partition"])),
                    min_size=4, max_size=12))
    def check(turns):
        with prepared(supabase) as connection:
            for (role, user), statements, way, mode, between in turns:
                connection.execute(f"SET enable_indexscan = {way}")
                connection.execute(f"SET plan_cache_mode = {mode}")
                if between == "ANALYZE":
                    connection.execute("ANALYZE infinite_pages_cache_partitioned")
                elif between == "partition":
                    # One more month, and one less, so that lists of partitions are read anew.
                    connection.execute("SELECT create_monthly_cache_partition('2033-01-01')")
                    connection.execute("DROP TABLE infinite_pages_cache_2033_01")
                for statement in statements:
                    asked = role, user, statement
                    assert (asked, answer(connection, *asked)) == (asked, expected[asked])

    check()
