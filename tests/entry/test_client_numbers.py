"""Numbers as clients send them: a cost, a score, a time to live in seconds, of whatever numeric type a driver makes of them."""

import json
import math
import random
from datetime import timedelta
from decimal import ROUND_HALF_UP, Decimal

import pytest
from psycopg.types.numeric import Float4, Float8, Int2, Int4, Int8, IntNumeric

from harness.calls import entry, upsert, upsert_many
from harness.database import Database
from harness.entries import ALICE, CACHE
from harness.errors import refused, sqlstate_of

MILLIONTH = Decimal("0.000001")
NUMBERS = [Int2, Int4, Int8, IntNumeric, Float4, Float8, int, float, Decimal, str]


@pytest.fixture(scope="module")
def cache(cluster):
    database = Database(cluster)
    database.execute("SELECT cache_upsert(%s, 't', 'k', '1')", (ALICE,))
    yield database
    database.drop()


def stored(connection, key="k"):
    return connection.execute(
        f"SELECT token_cost, reuse_score, CASE WHEN isfinite(expires_at) THEN extract(epoch FROM expires_at) - extract(epoch FROM created_at) END, priority_tier "
        f"FROM {CACHE} WHERE cache_key = %s", (key,)).fetchone()


# ── costs and scores ─────────────────────────────────────────────────────────────────────────────

@pytest.mark.parametrize("number", NUMBERS)
def test_a_cost_and_a_score_take_every_type_of_number(cache, number):
    with cache.connect() as connection:
        for value in (0, 7) if number in (Int2, Int4, Int8, IntNumeric, int) else (0, 7, Decimal("0.0123")):
            connection.execute("SELECT cache_upsert(%s, 't', 'k', '1', token_cost => %s, reuse_score => %s)", (ALICE, number(value), number(value)))
            cost, score, *_ = stored(connection)
            assert (cost, score) == (value, Decimal(value).quantize(Decimal("0.1"), ROUND_HALF_UP))


def test_a_cost_and_a_score_as_sql_writes_them(cache):
    with cache.connect() as connection:
        for written in ("0.0123", "'0.0123'", "0.0123::float8", "0.0123::numeric(9,4)", "1.23e-2"):
            connection.execute(upsert(token_cost=written, reuse_score=written))
            assert stored(connection)[:2] == (Decimal("0.0123"), 0)
        # The policy's cost and the column's score.
        for written in ("NULL", "NULL::numeric"):
            connection.execute(upsert(token_cost=written, reuse_score=written))
            assert stored(connection)[:2] == (1, 5)


def nearest_millionth(value):
    return value.quantize(MILLIONTH, ROUND_HALF_UP)


def test_each_millionth_up_to_the_greatest_cost_is_kept(cache):
    """By way of a double: the ends, the edges of powers of two and ten, where doubles are farthest apart, and at random."""
    dice = random.Random(18)
    most = 10 ** 15
    millionths = {0, 1, 2, 3, most, most - 1, most - 2, *(10 ** n + d for n in range(15) for d in (-1, 0, 1)),
                  *(min(most, 2 ** n * 10 ** 6 // s + d) for n in range(30) for s in (1, 3, 7) for d in (-1, 0, 1)),
                  *(dice.randrange(most) for _ in range(3000)), *(most - dice.randrange(10 ** 9) for _ in range(3000)),
                  *(dice.randrange(10 ** dice.randrange(1, 16)) for _ in range(3000))}
    costs = [Decimal(number) * MILLIONTH for number in sorted(millionths) if 0 <= number <= most]
    assert len(costs) > 8000 and costs[0] == 0 and costs[-1] == 10 ** 9
    # The double that a client has is not the number itself; it is nearer to it than to any other millionth.
    assert all(nearest_millionth(Decimal(float(cost))) == cost for cost in costs)
    with cache.connect() as connection, connection.transaction(force_rollback=True):
        connection.execute("SELECT cache_upsert(%s, 'cost', n::text, '1', token_cost => cost) FROM unnest(%s::float8[]) WITH ORDINALITY c (cost, n)",
                           (ALICE, [float(cost) for cost in costs]))
        found = connection.execute(f"SELECT token_cost FROM {CACHE} WHERE content_type = 'cost' ORDER BY cache_key::integer").fetchall()
    assert [cost for (cost,) in found] == costs


def test_what_is_finer_than_a_millionth_is_rounded_as_it_is_written(cache):
    """0.0000005 is half a millionth to whoever writes it, although its double is less than that."""
    dice = random.Random(19)
    written = ["0.0000005", "0.0000015", "0.1234565", "1e-7", "4.9999999999999e-7", "5e-324", "999999999.9999995", "123456.7890125", "-0.0"]
    written += [f"{dice.randrange(10 ** 6)}.{dice.randrange(10 ** 7):07d}" for _ in range(500)]
    with cache.connect() as connection:
        for number in written:
            connection.execute("SELECT cache_upsert(%s, 't', 'k', '1', token_cost => %s)", (ALICE, float(number)))
            assert stored(connection)[0] == abs(nearest_millionth(Decimal(number))), number


@pytest.mark.parametrize("value", [-0.01, math.nan, math.inf, -math.inf, 1000000000.000001, math.nextafter(1e9, math.inf), 1e300, -5e-324, Decimal("NaN"),
                                   Decimal("-0.01"), -1, 10 ** 9 + 1, 2 ** 62])
def test_a_cost_out_of_range_is_refused_with_the_rule(cache, value):
    with cache.connect() as connection:
        for argument in ("token_cost", "reuse_score"):
            error = sqlstate_of(lambda: connection.execute(f"SELECT cache_upsert(%s, 't', 'k', '1', {argument} => %s)", (ALICE, value)))
            assert error.sqlstate == "22023" and argument in error.message_primary and error.message_detail and error.message_hint


@pytest.mark.parametrize("value", ["1e400", "-1e400", "'1e400'", "1e-400"])
def test_a_number_that_is_no_double_is_refused_by_postgresql(cache, value):
    before = cache.contents()
    for argument in ("token_cost", "reuse_score", "ttl"):
        if argument != "ttl":
            assert sqlstate_of(lambda: cache.execute(upsert(**{argument: value}))).sqlstate == "22003"
    assert cache.contents() == before


# ── a time to live in seconds ────────────────────────────────────────────────────────────────────

@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_is_a_time_to_live_in_seconds(cache, number):
    whole = number in (Int2, Int4, Int8, IntNumeric, int)
    with cache.connect() as connection:
        for seconds in (1, 3600) if whole else (1, 3600, Decimal("3600.5")):
            connection.execute("SELECT cache_upsert(%s, 't', 'k', '1', ttl => %s)", (ALICE, number(seconds)))
            assert stored(connection)[2] == seconds
            [(left,)] = connection.execute("SELECT cache_touch(%s, 't', 'k', %s) - now()", (ALICE, number(seconds))).fetchall()
            assert abs(left.total_seconds() - float(seconds)) < 5


@pytest.mark.parametrize("seconds", [1, 3600, 3600.5, 86400, 1e-6, 0.25, 2 ** 31, 3_000_000_000, 8_000_000_000_000, "3600", "3600.5", "36e2", " +7 ", ".5"])
def test_seconds_in_a_batch(cache, seconds):
    """As a number and as text, which PostgreSQL's interval reads as seconds, too."""
    with cache.connect() as connection:
        connection.execute(upsert_many(entry(cache_key="k", ttl=seconds)))
        assert stored(connection)[2] == Decimal(str(seconds))
        connection.execute("SELECT cache_upsert(%s, 't', 'k', '1', ttl => %s)", (ALICE, str(seconds)))
        assert stored(connection)[2] == Decimal(str(seconds))


@pytest.mark.parametrize("seconds", ["0", "-1", "-3600", "0.0", "0::bigint", "(-1)::smallint", "0::float8", "'-1'", "'0'", "-1e-9::float8",
                                     "'NaN'::float8", "'-Infinity'::float8", "'NaN'::numeric", "'nan'", "'-infinity'", "0.0000001"])
def test_seconds_that_are_none_are_refused(cache, seconds):
    for sql in (upsert(ttl=seconds), f"SELECT cache_touch('{ALICE}', 't', 'k', {seconds})"):
        error = refused(cache, sql, "22023")
        assert error.message_primary == "a time to live must be positive"


@pytest.mark.parametrize("seconds", [0, -1, 0.0, -0.5, "0", "-5", "NaN", "-Infinity"])
def test_seconds_in_a_batch_that_are_none_are_refused(cache, seconds):
    error = refused(cache, upsert_many(entry(), entry(ttl=seconds)), "22023")
    assert "ttl" in error.message_primary and "Entry 2 " in error.message_detail


@pytest.mark.parametrize("seconds", ["9223372036854775807", "9223372036855", "1e30", "'1e400'", "1e300::float8", "'Infinity'::float8", "float8 'infinity'", "'inf'"])
def test_seconds_longer_than_time_are_for_ever(cache, seconds):
    with cache.connect() as connection:
        connection.execute(upsert(ttl=seconds))
        assert stored(connection)[2] is None
        assert connection.execute(f"SELECT cache_touch('{ALICE}', 't', 'k', {seconds}) = 'infinity'").fetchone() == (True,)


def test_seconds_that_end_after_the_end_of_time_are_refused(cache):
    error = refused(cache, upsert(ttl="9223000000000"), "22008")
    assert "infinity" in error.message_hint


def test_other_times_to_live_are_what_they_were(cache):
    """No cast makes a call ambiguous that was none."""
    calls = {"'3 days'": 3 * 86400, "interval '3 days'": 3 * 86400, "'infinity'": None, "'3 days'::cache_ttl": 3 * 86400, "NULL": 7 * 86400,
             "NULL::interval": 7 * 86400, "'1-2'": 14 * 30 * 86400, "'1:30'": 5400, "make_interval(hours => 2)": 7200, "now() + interval '1 hour' - now()": 3600}
    with cache.connect() as connection:
        for written, seconds in calls.items():
            connection.execute(upsert(ttl=written))
            assert stored(connection)[2] == seconds, written
            # In the order of the arguments, without their names.
            connection.execute(f"SELECT cache_upsert('{ALICE}', 't', 'k', '1', {written}, '{{}}', 1.5, NULL, NULL, NULL, NULL, 2, NULL, 7)")
            assert stored(connection) == (Decimal("1.5"), 7, seconds, 2), written
        connection.execute(f"SELECT cache_upsert(%s, 't', 'k', '1', ttl => %s)", (ALICE, timedelta(hours=5)))
        assert stored(connection)[2] == 5 * 3600


def test_parameters_without_a_type(cache):
    """As node-postgres and others send them: text, whose type the server finds."""
    with cache.connect() as connection:
        connection.execute("PREPARE typeless AS SELECT cache_upsert($1, $2, $3, $4, ttl => $5, token_cost => $6, reuse_score => $7, priority_tier => $8)")
        types = connection.execute("SELECT parameter_types::text FROM pg_prepared_statements WHERE name = 'typeless'").fetchone()[0]
        assert types == '{uuid,text,text,jsonb,cache_ttl,"double precision","double precision",integer}'
        for ttl, seconds in (("3 days", 3 * 86400), ("3600", 3600), ("infinity", None), ("3600.5", Decimal("3600.5"))):
            connection.execute(f"EXECUTE typeless ('{ALICE}', 't', 'k', '1', '{ttl}', '0.0123', '7.5', '2')")
            assert stored(connection) == (Decimal("0.0123"), Decimal("7.5"), seconds, 2)


def test_arguments_out_of_json_as_postgrest_passes_them(cache):
    """PostgREST makes a record of the types of the arguments from the request's body."""
    call = """WITH args AS (SELECT * FROM json_to_record(%s::json) AS _ (user_id uuid, content_type text, cache_key text, content jsonb,
                  ttl cache_ttl, token_cost double precision, reuse_score double precision, priority_tier integer))
              SELECT cache_upsert(user_id => user_id, content_type => content_type, cache_key => cache_key, content => content, ttl => ttl,
                                  token_cost => token_cost, reuse_score => reuse_score, priority_tier => priority_tier) FROM args"""
    with cache.connect() as connection:
        for ttl, seconds in ((3600, 3600), (3600.5, Decimal("3600.5")), ("3 days", 3 * 86400), ("infinity", None), (None, 7 * 86400)):
            body = {"user_id": ALICE, "content_type": "t", "cache_key": "k", "content": {"a": 1}, "ttl": ttl, "token_cost": 0.0123, "reuse_score": 7.5,
                    "priority_tier": 2}
            connection.execute(call, (json.dumps(body),))
            assert stored(connection) == (Decimal("0.0123"), Decimal("7.5"), seconds, 2)


# ── whole numbers in a batch ─────────────────────────────────────────────────────────────────────

@pytest.mark.parametrize("tier, stands", [("2", 2), ("2.0", 2), ("2e0", 2), ("20e-1", 2), ("0.1e1", 1), ("3.000", 3), ('"2"', 2), ("null", 3)])
def test_a_whole_number_is_a_priority_however_it_is_written(cache, tier, stands):
    with cache.connect() as connection:
        connection.execute(f"""SELECT cache_upsert_many('[{{"user_id": "{ALICE}", "content_type": "t", "cache_key": "k", "content": 1, "priority_tier": {tier}}}]')""")
        assert stored(connection)[3] == stands


@pytest.mark.parametrize("tier", ["2.5", "1.0000000000000000000001", "0.0", "4.0", "-1.0", "1e400", '"2.x"', '"."', '""'])
def test_any_other_priority_is_refused(cache, tier):
    sql = f"""SELECT cache_upsert_many('[{{"user_id": "{ALICE}", "content_type": "t", "cache_key": "k", "content": 1, "priority_tier": {tier}}}]')"""
    assert "priority_tier" in refused(cache, sql, "22023").message_primary


def test_a_number_means_the_same_whatever_the_session_is_set_to(cache):
    with cache.connect() as connection:
        connection.execute("SET IntervalStyle = sql_standard; SET DateStyle = 'SQL, DMY'; SET extra_float_digits = 0")
        for ttl in (3600, 3600.5, Decimal("3600.5"), "3600.5"):
            connection.execute("SELECT cache_upsert(%s, 't', 'k', '1', ttl => %s, token_cost => %s)", (ALICE, ttl, 999999999.123457))
            assert stored(connection)[::2] == (Decimal("999999999.123457"), Decimal(str(ttl)))
