"""Bad input gets its own SQLSTATE, the rule, the value and the way out, and changes nothing."""

import datetime
import json
from decimal import Decimal

import psycopg
import pytest

from harness.calls import entry, upsert, upsert_many
from harness.cluster import Cluster
from harness.database import Database
from harness.entries import ALICE, BOB
from harness.errors import refused, sqlstate_of
from harness.roles import temporary_roles

DEEP = "(repeat('[', 10000) || repeat(']', 10000))::jsonb"


@pytest.fixture(scope="module")
def cache(cluster):
    """One database for all: what is refused changes nothing."""
    database = Database(cluster)
    for user, key in ((ALICE, "k"), (ALICE, "t"), (BOB, "k")):
        database.execute("SELECT cache_upsert(%s, 't', %s, '1', metadata => '{\"tag\": \"a\"}', foundation_dependency => 't')", (user, key))
    yield database
    database.drop()


ADDRESSES = [  # argument, value, SQLSTATE
    ("user_id", "NULL", "22004"),
    ("content_type", "NULL", "22004"), ("content_type", "''", "22023"), ("content_type", "repeat('x', 256)", "22023"),
    ("content_type", "repeat('é', 128)", "22023"),
    ("cache_key", "NULL", "22004"), ("cache_key", "''", "22023"), ("cache_key", "repeat('x', 1025)", "22023"),
    ("cache_key", "repeat('é', 513)", "22023"),
]


@pytest.mark.parametrize("argument, value, sqlstate", ADDRESSES)
@pytest.mark.parametrize("function", ["cache_upsert", "cache_lookup", "cache_get", "cache_touch", "cache_invalidate"])
def test_an_address_that_is_none(cache, function, argument, value, sqlstate):
    sql = upsert(**{argument: value}).replace("cache_upsert", function)
    if function != "cache_upsert":
        sql = sql.replace(", content => '2'", "")
    error = refused(cache, sql, sqlstate)
    assert argument in error.message_primary
    assert len(error.message_detail) < 300


@pytest.mark.parametrize("cache_key, content_type", [("repeat('x', 1024)", "'t'"), ("repeat('é', 512)", "'t'"), ("'x'", "repeat('x', 255)")])
def test_the_longest_address(database, cache_key, content_type):
    database.execute(upsert(cache_key=cache_key, content_type=content_type))
    assert database.value(f"SELECT cache_lookup('{ALICE}', {content_type}, {cache_key})") == 2


VALUES = [  # argument of cache_upsert, value, SQLSTATE
    ("content", "NULL", "22004"),
    ("ttl", "'0'", "22023"), ("ttl", "'-1 day'", "22023"), ("ttl", "'1 month -31 days'", "22023"),
    ("ttl", "interval '0'", "22023"), ("ttl", "interval '-1 microsecond'", "22023"),
    ("ttl", "''", "22007"), ("ttl", "'a while'", "22007"), ("ttl", "'9999999999999999 days'", "22015"),
    ("expires_at", "now() - interval '1 second'", "22023"), ("expires_at", "'-infinity'", "22023"), ("expires_at", "'2001-01-01'", "22023"),
    ("expires_at", "'infinity', ttl => '1 day'", "22023"), ("expires_at", "now() + interval '1 day', ttl => interval '1 day'", "22023"),
    ("priority_tier", "0", "22023"), ("priority_tier", "4", "22023"), ("priority_tier", "-2147483648", "22023"),
    ("token_cost", "-0.01", "22023"), ("token_cost", "'NaN'", "22023"), ("token_cost", "'-Infinity'", "22023"),
    ("token_cost", "1000000000.000001", "22023"), ("token_cost", "1e15", "22023"), ("token_cost", "'Infinity'", "22023"),
    ("reuse_score", "-1", "22023"), ("reuse_score", "-0.1", "22023"), ("reuse_score", "11", "22023"), ("reuse_score", "10.1", "22023"),
    ("reuse_score", "'NaN'", "22023"), ("reuse_score", "'Infinity'", "22023"),
]


@pytest.mark.parametrize("argument, value, sqlstate", VALUES)
def test_a_value_that_breaks_a_rule(cache, argument, value, sqlstate):
    refused(cache, upsert(**{argument: value}), sqlstate)
    if argument == "ttl":
        refused(cache, f"SELECT cache_touch('{ALICE}', 't', 'k', {value})", sqlstate)


@pytest.mark.parametrize("fields, sqlstate, named", [
    ({"user_id": None}, "22004", "user_id"), ({"user_id": "alice"}, "22P02", "user_id"), ({"user_id": 7}, "22P02", "user_id"),
    ({"story_id": "x"}, "22P02", "story_id"),
    ({"content_type": None}, "22004", "content_type"), ({"content_type": ""}, "22023", "content_type"),
    ({"content_type": "x" * 256}, "22023", "content_type"),
    ({"cache_key": None}, "22004", "cache_key"), ({"cache_key": ""}, "22023", "cache_key"), ({"cache_key": "x" * 1025}, "22023", "cache_key"),
    ({"ttl": "0"}, "22023", "ttl"), ({"ttl": "-1 day"}, "22023", "ttl"), ({"ttl": "soon"}, "22007", "ttl"), ({"ttl": {}}, "22007", "ttl"),
    ({"ttl": "99999999999 years"}, "22015", "ttl"), ({"ttl": "1 day", "expires_at": "infinity"}, "22023", "ttl"),
    ({"expires_at": "soon"}, "22007", "expires_at"), ({"expires_at": "2001-01-01"}, "22023", "expires_at"),
    ({"expires_at": "-infinity"}, "22023", "expires_at"), ({"expires_at": "999999-01-01"}, "22008", "expires_at"),
    ({"priority_tier": 0}, "22023", "priority_tier"), ({"priority_tier": 4}, "22023", "priority_tier"),
    ({"priority_tier": 1.5}, "22023", "priority_tier"), ({"priority_tier": 10 ** 30}, "22023", "priority_tier"),
    ({"priority_tier": "high"}, "22023", "priority_tier"),
    ({"token_cost": -1}, "22023", "token_cost"), ({"token_cost": 1e10}, "22023", "token_cost"), ({"token_cost": "NaN"}, "22023", "token_cost"), ({"token_cost": "much"}, "22P02", "token_cost"),
    ({"token_cost": True}, "22P02", "token_cost"), ({"token_cost": [1]}, "22P02", "token_cost"),
    ({"reuse_score": -1}, "22023", "reuse_score"), ({"reuse_score": 11}, "22023", "reuse_score"), ({"reuse_score": "NaN"}, "22023", "reuse_score"),
    ({"reuse_score": {}}, "22P02", "reuse_score"),
    ({"ttl_seconds": 5}, "22023", "unknown field"), ({"": 5}, "22023", "unknown field"), ({"User_ID": ALICE}, "22023", "unknown field"),
])
@pytest.mark.parametrize("position", [1, 3])
def test_an_entry_of_a_batch_that_breaks_a_rule(cache, position, fields, sqlstate, named):
    entries = [entry(cache_key=f"new {number}") for number in (1, 2, 3)]
    entries[position - 1] |= fields
    error = refused(cache, upsert_many(*entries), sqlstate)
    assert named in error.message_primary
    assert error.message_detail.startswith(f"Entry {position} of the batch")


@pytest.mark.parametrize("bad", [1, "x", None, [], [entry()], True])
def test_an_entry_of_a_batch_that_is_no_object(cache, bad):
    error = refused(cache, upsert_many(entry(), bad), "22023")
    assert "Entry 2 " in error.message_detail


def test_an_entry_without_content(cache):
    entries = [entry(), entry()]
    del entries[1]["content"]
    assert "Entry 2 " in refused(cache, upsert_many(*entries), "22004").message_detail


@pytest.mark.parametrize("batch, sqlstate", [
    ("NULL", "22004"), ("'{}'", "22023"), ("'null'", "22023"), ("'1'", "22023"), ("'\"x\"'", "22023"),
    (f"(SELECT jsonb_agg(jsonb_build_object('user_id', '{ALICE}', 'content_type', 't', 'cache_key', n::text, 'content', 1)) "
     "FROM generate_series(1, 10001) n)", "54000"),
])
def test_a_batch_that_is_none_or_too_long(cache, batch, sqlstate):
    refused(cache, f"SELECT cache_upsert_many({batch})", sqlstate)


def test_content_above_the_limit(cache):
    # A jsonb value's header takes 4 bytes, which the limit does not count.
    size = cache.value("SELECT pg_column_size(to_jsonb(repeat('x', 2000))) - 4")
    content = "x" * 2000
    for limit, accepted in ((size, True), (size - 1, False), (1, False)):
        setting = f"SET infinite_pages_cache.max_content_bytes = {limit}"
        calls = [upsert(content=f"'\"{content}\"'"), upsert_many(entry(content=1 if accepted or limit > 1 else content), entry(content=content))]
        for call in calls:
            if accepted:
                with cache.connect() as connection, connection.transaction(force_rollback=True):
                    connection.execute(setting)
                    connection.execute(call)
            else:
                assert str(limit) in refused(cache, call, "54000", setting).message_detail


@pytest.mark.parametrize("call, sqlstate", [
    *[(f"create_monthly_cache_partition('{date}')", "22008")
      for date in ("infinity", "-infinity", "0044-03-15 BC", "10000-01-01", "294276-12-31")],
    ("create_monthly_cache_partition(NULL)", "22004"),
    ("drop_old_cache_partitions(0)", "22023"), ("drop_old_cache_partitions(-1)", "22023"), ("drop_old_cache_partitions(-2147483648)", "22023"),
    ("archive_audit_logs('-1 day')", "22023"), ("archive_audit_logs('0')", "22023"), ("archive_audit_logs('1 month -31 days')", "22023"),
    ("archive_audit_logs(NULL)", "22004"),
    *[(f"cache_invalidate_where('{ALICE}', '{metadata}')", "22023") for metadata in ("{}", "[]", "null", "1", '"tag"', '[{"tag": "a"}]')],
    (f"cache_invalidate_where('{ALICE}', NULL)", "22004"), ("cache_invalidate_where(NULL, '{\"tag\": \"a\"}')", "22004"),
    (f"cache_invalidate_dependents('{ALICE}', NULL)", "22004"), ("cache_invalidate_dependents(NULL, 'f')", "22004"),
    (f"cache_invalidate_content_type('{ALICE}', NULL)", "22004"), (f"cache_invalidate_content_type('{ALICE}', '')", "22023"),
    ("cache_invalidate_content_type(NULL, 't')", "22004"),
    ("cache_forget_user(NULL)", "22004"), ("get_infinite_pages_analytics(NULL)", "22004"),
    (f"cache_lookup_many('{ALICE}', 't', NULL)", "22004"), (f"cache_lookup_many('{ALICE}', 't', '{{k,NULL}}')", "22004"),
    (f"cache_lookup_many('{ALICE}', 't', '{{k,\"\"}}')", "22023"), (f"cache_lookup_many('{ALICE}', NULL, '{{k}}')", "22004"),
    ("cache_lookup_many(NULL, 't', '{k}')", "22004"),
    (f"cache_lookup_many('{ALICE}', 't', (SELECT array_agg(n::text) FROM generate_series(1, 10001) n))", "54000"),
    ("cache_search(NULL, 't', '{}')", "22004"), (f"cache_search('{ALICE}', NULL, '{{}}')", "22004"),
    (f"cache_search('{ALICE}', 't', NULL)", "22004"), (f"cache_search('{ALICE}', 't', '{{}}', NULL)", "22004"),
    (f"cache_search('{ALICE}', '', '{{}}')", "22023"), (f"cache_search('{ALICE}', repeat('x', 256), '{{}}')", "22023"),
    *[(f"cache_search('{ALICE}', 't', '{metadata}')", "22023") for metadata in ("[]", "null", "1", '"tag"', '[{"tag": "a"}]')],
    *[(f"cache_search('{ALICE}', 't', '{{}}', {results})", "22023") for results in (0, -1, 1001, 2147483647, -2147483648)],
    ("cache_grant_tenant('')", "42704"), ("cache_grant_service('public')", "42704"),
    (f"cache_key({DEEP})", "54001"), ("cache_key((repeat('{\"a\":', 200) || '1' || repeat('}', 200))::jsonb)", "54001"),
])
def test_a_call_that_breaks_a_rule(cache, call, sqlstate):
    refused(cache, f"SELECT * FROM {call}", sqlstate)


@pytest.mark.parametrize("sql, sqlstate", [
    (upsert(content="'\"\\u0000\"'"), "22P05"), (upsert(metadata="'{\"\\u0000\": 1}'"), "22P05"),
    ("SELECT cache_upsert_many('[{\"cache_key\": \"\\u0000\"}]')", "22P05"), ("SELECT cache_key('\"\\u0000\"')", "22P05"),
    ("SELECT cache_key('[1e200000]')", "22003"), ("SELECT cache_key('{\"a\": -1e131072}')", "22003"),
    (upsert(content="'\"\\ud800\"'"), "22P02"), (upsert(content="'{'"), "22P02"), (upsert(user_id="'x'"), "22P02"),
    ("SELECT create_monthly_cache_partition('soon')", "22007"), ("SELECT drop_old_cache_partitions('x')", "22P02"),
    (upsert(content="(repeat('[', 1000000) || repeat(']', 1000000))::jsonb"), "54001"),
])
def test_what_postgresql_itself_refuses_changes_nothing(cache, sql, sqlstate):
    before = cache.contents()
    assert sqlstate_of(lambda: cache.execute(sql)).sqlstate == sqlstate
    assert cache.contents() == before


def test_deeply_nested_values_are_stored(database):
    with database.connect() as connection:
        connection.execute(upsert(content=DEEP, metadata=f"jsonb_build_object('deep', {DEEP})", prompt_variables=DEEP))
        connection.execute(f"SELECT cache_upsert_many(jsonb_build_array(jsonb_build_object('user_id', '{ALICE}', 'content_type', 't', "
                           f"'cache_key', 'deep', 'content', {DEEP}, 'metadata', {DEEP})))")
        for key in ("k", "deep"):
            assert connection.execute(f"SELECT cache_lookup('{ALICE}', 't', '{key}') = {DEEP}").fetchone() == (True,)
        assert connection.execute(f"SELECT cache_invalidate_where('{ALICE}', '{{\"deep\": []}}')").fetchone() == (1,)


def test_an_unknown_content_type_has_the_policy_for_all_others(database):
    # The row * of content-policies.csv.
    with database.connect() as connection:
        connection.execute(upsert(content_type="'never heard of'"))
        connection.execute(upsert_many(entry(content_type="nor of this")))
        assert connection.execute("SELECT expires_at - created_at, token_cost, priority_tier FROM infinite_pages_cache_partitioned"
                                  ).fetchall() == [(datetime.timedelta(days=7), 1, 3)] * 2
        # Without that row the same values hold.
        connection.execute("DELETE FROM cache_content_policies")
        connection.execute(upsert(content_type="'alone'"))
        assert connection.execute("SELECT expires_at - created_at, token_cost, priority_tier FROM infinite_pages_cache_partitioned "
                                  "WHERE content_type = 'alone'").fetchall() == [(datetime.timedelta(days=7), 1, 3)]


DAY = 24 * 3600


@pytest.mark.parametrize("ttl, seconds", [
    ("'infinity'", None), ("' Infinity '", None), ("'1 month'", 30 * DAY), ("interval '1 month'", 30 * DAY), ("'1 year'", 360 * DAY),
    ("'1 microsecond'", Decimal("0.000001")), ("'36:00'", 36 * 3600), ("'PT1H'", 3600), ("'1 day -1 hour'", 23 * 3600),
    ("'1000 years'", 360_000 * DAY), ("interval '290000 years'", 104_400_000 * DAY),
])
def test_a_ttl_and_its_expiry(database, ttl, seconds):
    """A month counts 30 days and a day 24 hours, in every time zone."""
    with database.connect() as connection:
        connection.execute("SET TimeZone = 'Europe/Berlin'")
        connection.execute(upsert(ttl=ttl))
        connection.execute(upsert(ttl="'1 second'", cache_key="'touched'"))
        connection.execute(f"SELECT cache_touch('{ALICE}', 't', 'touched', {ttl})::text")
        if not ttl.startswith("interval"):
            connection.execute(upsert_many(entry(ttl=ttl.strip("'"))))
        rows = connection.execute("SELECT CASE WHEN expires_at < 'infinity' THEN extract(epoch FROM expires_at) - extract(epoch FROM created_at) END "
                                  "FROM infinite_pages_cache_partitioned WHERE cache_key <> 'touched'").fetchall()
        assert set(rows) == {(seconds,)}
        touched = connection.execute("SELECT CASE WHEN expires_at < 'infinity' THEN extract(epoch FROM expires_at) - extract(epoch FROM now()) END "
                                     "FROM infinite_pages_cache_partitioned WHERE cache_key = 'touched'").fetchone()[0]
        assert touched is None if seconds is None else seconds - 60 < touched <= seconds


def test_a_ttl_given_as_a_python_timedelta(database):
    with database.connect() as connection:
        connection.execute("SELECT cache_upsert(%s, 't', 'k', '1', ttl => %s)", (ALICE, datetime.timedelta(hours=5)))
        assert connection.execute("SELECT expires_at - created_at FROM infinite_pages_cache_partitioned"
                                  ).fetchall() == [(datetime.timedelta(hours=5),)]


@pytest.mark.parametrize("ttl", ["297000 years", "300000 years", "400000 years", "600000 years", "1000000 years", "5000000 years",
                                 "6000000 years", "178000000 years"])
@pytest.mark.parametrize("form", ["'{}'", "interval '{}'"])
def test_a_ttl_longer_than_time_is_refused_or_for_ever(database, form, ttl):
    """Timestamps end with the year 294276."""
    for call in (upsert(ttl=form.format(ttl)), f"SELECT cache_touch('{ALICE}', 't', 'k', {form.format(ttl)})::text"):
        try:
            database.execute(call)
        except psycopg.Error as error:
            assert (error.diag.sqlstate, bool(error.diag.message_detail), bool(error.diag.message_hint)) == ("22008", True, True)
        else:
            assert database.execute("SELECT expires_at = 'infinity' FROM infinite_pages_cache_partitioned") == [(True,)]


def test_archiving_what_is_older_than_time_archives_nothing(database):
    for age in ("300000 years", "400000 years", "1000000 years", "178000000 years"):
        assert database.execute("SELECT * FROM archive_audit_logs(%s::interval)", (age,)) == []


def test_a_role_without_rights_is_refused(cache, cluster):
    before = cache.contents()
    with temporary_roles(cluster, "stranger"):
        with cache.connect() as connection:
            connection.execute("SET ROLE stranger")
            for call in (f"cache_lookup('{ALICE}', 't', 'k')", f"cache_get('{ALICE}', 't', 'k')", f"cache_lookup_many('{ALICE}', 't', '{{k}}')",
                         upsert()[7:], upsert_many(entry())[7:], f"cache_touch('{ALICE}', 't', 'k')", f"cache_invalidate('{ALICE}', 't', 'k')",
                         f"cache_invalidate_content_type('{ALICE}', 't')", f"cache_invalidate_where('{ALICE}', '{{\"tag\": \"a\"}}')",
                         f"cache_invalidate_dependents('{ALICE}', 'f')", f"cache_forget_user('{ALICE}')", f"cache_search('{ALICE}', 't', '{{}}')",
                         f"get_infinite_pages_analytics('{ALICE}')", "user_cache_analytics", "cache_create_current_partition()",
                         "create_monthly_cache_partition('2031-01-01')", "drop_old_cache_partitions()", "cache_setup()"):
                for claims in ("", json.dumps({"sub": ALICE})):
                    connection.execute("SELECT set_config('request.jwt.claims', %s, false)", (claims,))
                    assert (call, sqlstate_of(lambda: connection.execute(f"SELECT * FROM {call}")).sqlstate) == (call, "42501")
    assert cache.contents() == before


@pytest.mark.parametrize("share", ["-0.000001", "1.000001", "95", "'NaN'", "'Infinity'", "'-Infinity'"])
def test_a_share_that_is_none(cache, share):
    assert "share" in refused(cache, f"SELECT cache_latency_ms('{{1,2}}', {share})", "22023").message_primary


@pytest.mark.parametrize("buckets", ["array_fill(1, ARRAY[101])", "array_fill(NULL::float8, ARRAY[1000000])"])
def test_more_buckets_than_there_are(cache, buckets):
    assert "100" in refused(cache, f"SELECT cache_latency_ms({buckets}, 0.5)", "22023").message_detail


# Extreme values of each type that the functions take.
EXTREMES = {
    "uuid": ["NULL", "'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"],
    "text": ["NULL", "''", "' '", "repeat('x', 5000)", "'%s'", "'''; --'", "U&'\\+01F600'", "E'\\x01'", "'\"'", "'{'"],
    "text[]": ["NULL", "'{}'", "'{NULL}'", "'{{a,b},{c,NULL}}'", "'[5:6]={a,b}'", "array_fill('x'::text, ARRAY[9999])"],
    "jsonb": ["NULL", "'null'", "'{}'", "'[]'", "'1e300'", "'\"x\"'", "'[null]'", "'[{}]'", "'[[]]'", DEEP, f"jsonb_build_array({DEEP})",
              f"jsonb_build_array(jsonb_build_object('user_id', {DEEP}, 'ttl', {DEEP}))", "to_jsonb(repeat('x', 1000000))",
              "'[{\"user_id\": null, \"content\": null}]'", "'{\"a\": 1e-400}'"],
    "cache_ttl": ["NULL", "'infinity'", "'-infinity'", "'0'", "'-1 day'", "'1 microsecond'", "'290000 years'", "'300000 years'", "'178000000 years'"],
    "interval": ["NULL", "'0'", "'-1 day'", "'1 microsecond'", "'290000 years'", "'300000 years'", "'178000000 years'", "'-178000000 years'"],
    "numeric": ["NULL", "'NaN'", "'Infinity'", "'-Infinity'", "1e100000", "-1", "1e-1000"],
    "double precision": ["NULL", "0", "1", "-0.1", "1.1", "'NaN'", "'Infinity'", "'-Infinity'", "1e-308", "1e308"],
    "double precision[]": ["NULL", "'{}'", "'{NULL}'", "'{NaN,Infinity,-Infinity}'", "'{-1,1}'", "'{{1,2},{3,NULL}}'", "'[5:6]={1,2}'",
                           "'{1e308,1e308}'", "array_fill(1::float8, ARRAY[100])", "array_fill(1::float8, ARRAY[101])",
                           "array_fill(1::float8, ARRAY[100000])"],
    "integer": ["NULL", "0", "-1", "2147483647", "-2147483648"],
    "boolean": ["NULL", "true", "false"],
    "timestamp with time zone": ["NULL", "'infinity'", "'-infinity'", "'4713-01-01 BC'", "'294276-12-31'", "now()"],
    "timestamp without time zone": ["NULL", "'infinity'", "'-infinity'", "'4713-01-01 BC'", "'294276-12-31'", "'9999-12-31'", "'0001-01-01'"],
    "cstring": ["NULL", "''", "'x'", "'infinity'"],
}


def test_no_argument_makes_a_function_fail_internally(cache):
    functions = cache.execute(
        """SELECT p.oid::regproc::text, ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) WITH ORDINALITY a (t, n) ORDER BY n)
           FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
           JOIN pg_extension e ON e.oid = d.refobjid WHERE e.extname = 'infinite_pages_cache' ORDER BY 1""")
    ordinary = {"double precision": "0.95", "double precision[]": "'{1,2,3}'", "uuid": f"'{ALICE}'", "text": "'t'", "text[]": "'{k}'", "jsonb": "'{\"tag\": \"a\"}'", "integer": "2", "boolean": "true",
                "interval": "'90 days'", "timestamp without time zone": "'2031-01-01'", "cstring": "'1 day'"}
    before = cache.contents()
    internal = []
    with cache.connect() as connection:
        for function, types in functions:
            calls = [[ordinary.get(kind, "NULL") for kind in types]]
            for position, kind in enumerate(types):
                calls += [calls[0][:position] + [value] + calls[0][position + 1:] for value in EXTREMES[kind]]
            for call in calls:
                sql = f"SELECT {function}({', '.join(f'{value}::{kind}' for value, kind in zip(call, types))})::text"
                try:
                    with connection.transaction(force_rollback=True):
                        connection.execute(sql)
                except psycopg.Error as error:
                    if error.diag.sqlstate is None or error.diag.sqlstate.startswith("XX"):
                        internal.append((sql[:200], error.diag.message_primary))
    assert internal == []
    assert cache.contents() == before


def test_an_error_shows_no_stack_trace_whatever_the_server_was_started_with():
    cluster = Cluster(environment={"RUST_BACKTRACE": "1"})
    try:
        with cluster.connect() as connection:
            connection.execute("CREATE EXTENSION infinite_pages_cache")
            error = sqlstate_of(lambda: connection.execute("SELECT cache_lookup(%s, 't', NULL)", (ALICE,)))
            assert error.message_detail == "The argument cache_key is NULL."
            connection.execute("DROP TABLE cache_content_policies")
            error = sqlstate_of(lambda: connection.execute("SELECT cache_upsert(%s, 't', 'k', '1')", (ALICE,)))
            assert error.sqlstate == "42P01" and "cache_setup()" in error.message_hint and "src" not in error.message_detail
    finally:
        cluster.remove()


# ── statements on the tables ─────────────────────────────────────────────────────────────────────

@pytest.mark.parametrize("column, value", [
    *((column, "-1") for column in ("hit_count", "adaptation_count", "token_cost_saved", "access_frequency")),
    ("hit_count", "-9223372036854775808"), ("token_cost_saved", "-9223372036854775808"), ("access_frequency", "-2147483648"),
    ("token_cost", "-0.000001"), ("token_cost", "1000000000.000001"), ("token_cost", "'NaN'"), ("reuse_score", "-0.1"), ("reuse_score", "10.1"),
    ("reuse_score", "'NaN'"), ("priority_tier", "0"), ("priority_tier", "4"), ("content_type", "''"), ("content_type", "repeat('x', 256)"),
    ("content_type", "repeat('é', 128)"),
])
def test_a_row_that_no_function_would_write(cache, column, value):
    """A client that writes into the table itself gets no nonsense in; statistics and reports rest on that."""
    values = {"user_id": f"'{ALICE}'", "content_type": "'t'", "cache_key": "'direct'", "content": "'1'", column: value}
    before = cache.contents()
    for sql in (f"INSERT INTO infinite_pages_cache_partitioned ({', '.join(values)}) VALUES ({', '.join(values.values())})",
                f"UPDATE infinite_pages_cache_partitioned SET {column} = {value}"):
        error = sqlstate_of(lambda: cache.execute(sql))
        assert (error.sqlstate, column in error.constraint_name) == ("23514", True)
    assert cache.contents() == before


@pytest.mark.parametrize("column, value", [
    ("hit_count", "9223372036854775807"), ("token_cost_saved", "9223372036854775807"), ("access_frequency", "NULL"), ("adaptation_count", "0"),
    ("token_cost", "1e9"), ("token_cost", "0"), ("token_cost", "NULL"), ("content_type", "repeat('x', 255)"), ("last_accessed", "'infinity'"),
    ("last_accessed", "'-infinity'"), ("last_accessed", "NULL"), ("expires_at", "'infinity'"),
])
def test_a_row_at_the_edge_of_sense(database, column, value):
    """It is stored, and read, counted and reported like any other."""
    values = {"user_id": f"'{ALICE}'", "content_type": "'t'", "cache_key": "'direct'", "content": "'1'", column: value}
    with database.connect() as connection:
        connection.execute(f"INSERT INTO infinite_pages_cache_partitioned ({', '.join(values)}) VALUES ({', '.join(values.values())})")
        connection.execute(f"SELECT cache_lookup('{ALICE}', {values['content_type']}, 'direct')")
        assert connection.execute("SELECT entries_updated FROM cache_flush_statistics()").fetchone() == (1,)
        now = connection.execute("SELECT now()").fetchone()[0]
        assert connection.execute("SELECT hit_count > 0, token_cost_saved >= 0 FROM infinite_pages_cache_partitioned").fetchall() == [(True, True)]
        [(hits, activity)] = connection.execute("SELECT cache_hits, last_activity <= clock_timestamp() FROM cache_performance_metrics").fetchall()
        assert hits > 0 and activity
        assert connection.execute("SELECT total_cache_hits FROM user_cache_analytics").fetchall() == [(hits,)]
        assert {status for (status,) in connection.execute("SELECT status FROM cache_run_maintenance()")} == {"ok"}
