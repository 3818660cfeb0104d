"""Keys, batches and policies by generated cases: keys are those of an independent implementation of RFC 8785, a batch is stored as a whole or
refused with an error of the user's, and what a policy says an entry gets."""

import hashlib
import json
import os
import random
from decimal import Context, Decimal

import psycopg
import pytest
import rfc8785
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.claims import notations, text
from harness.database import Database
from harness.entries import ALICE, BOB, CACHE

# `make fuzz` takes more of them.
CASES = settings(max_examples=int(os.environ.get("GENERATED_CASES", "50")), deadline=None, database=None, suppress_health_check=list(HealthCheck))

# What RFC 8785 can say: integers beyond 2^53 are no integers in JavaScript, and there stand as doubles.
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(1 - 2 ** 53, 2 ** 53 - 1) | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(text, inner, max_size=5), max_leaves=20)


@pytest.fixture(scope="module")
def connection(cluster):
    database = Database(cluster)
    with database.connect() as connection:
        yield connection
    database.drop()


def written(value, dice):
    """One of the notations of a value: names in any order, letters escaped or not, any white space."""
    if isinstance(value, dict):
        pairs = dice.sample(list(value.items()), len(value))
        return "{" + ", ".join(f"{written(name, dice)}:{' ' * dice.randrange(2)}{written(inner, dice)}" for name, inner in pairs) + "}\n"
    if isinstance(value, list):
        return "[" + " ,\t".join(written(inner, dice) for inner in value) + " ]"
    return json.dumps(value, ensure_ascii=dice.random() < 0.5)


# Enough digits that nothing is rounded.
LONG = Context(prec=5000, Emax=10 ** 6, Emin=-10 ** 6)


def key_of(canonical):
    return hashlib.sha256(canonical).hexdigest()


@CASES
@given(json_values, st.integers(0, 2 ** 32))
def test_a_key_is_that_of_another_implementation(connection, value, seed):
    dice = random.Random(seed)
    for notation in (written(value, dice), written(value, dice)):
        assert connection.execute("SELECT cache_key(%s::text::jsonb)", (notation,)).fetchone()[0] == key_of(rfc8785.dumps(value))


numbers = st.from_regex(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)


def canonical_number(number):
    """What the key of a number is made of: the form of RFC 8785 if its double prints back the number, else its own digits in the layout of
    ECMAScript's Number::toString."""
    sign, digits, exponent = number.normalize(LONG).as_tuple()
    if not number:
        return "0"
    nearest = float(number)
    if abs(nearest) != float("inf") and Decimal(repr(nearest)) == number:
        return rfc8785.dumps(nearest).decode()
    digits = "".join(map(str, digits))
    point = len(digits) + exponent
    if -6 < point <= 21:
        written = f"{abs(number):f}"
        written = written.rstrip("0").rstrip(".") if "." in written else written
    else:
        written = digits[0] + ("." + digits[1:] if digits[1:] else "") + f"e{point - 1:+d}"
    return "-" * sign + written


@st.composite
def notations_of_a_number(draw):
    """A number, and another notation of it: the point elsewhere, or more zeros."""
    number = draw(numbers)
    if draw(st.booleans()):
        number = draw(st.floats(allow_nan=False, allow_infinity=False).map(repr))
    sign, digits, exponent = Decimal(number).as_tuple()
    zeros = draw(st.integers(0, 5))
    shift = draw(st.integers(-5, 5))
    return number, f"{'-' * sign}{(''.join(map(str, digits)) + '0' * zeros).lstrip('0') or '0'}e{exponent - zeros}", \
        f"{Decimal(number).scaleb(-shift, LONG):f}e{shift}"


@CASES
@given(notations_of_a_number())
def test_a_number_has_its_own_key_in_every_notation(connection, notations):
    expected = key_of(f"[{canonical_number(Decimal(notations[0]))}]".encode())
    for number in notations:
        assert Decimal(number) == Decimal(notations[0])
        assert connection.execute("SELECT cache_key(%s::text::jsonb)", (f"[{number}]",)).fetchone()[0] == expected


@CASES
@given(numbers, st.integers(-10, 10), st.integers(-60, 10))
def test_two_numbers_have_one_key_if_they_are_equal(connection, number, difference, place):
    """Also where they differ in a digit that no double has."""
    one = Decimal(number)
    other = LONG.add(one, Decimal(difference).scaleb(place, LONG))
    keys = [connection.execute("SELECT cache_key(%s::text::jsonb)", (f'{{"n": {n}}}',)).fetchone()[0] for n in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)


# ── batches ──────────────────────────────────────────────────────────────────────────────────────

addresses = {"user_id": st.sampled_from([ALICE, BOB, ALICE.upper()]), "content_type": st.sampled_from(["tone", "t", "ü"]),
             "cache_key": st.sampled_from(["k", "k1", "ключ", " "]), "content": json_values}
optional = {
    "ttl": st.sampled_from(["1 day", "infinity", "P1M", "00:00:01.5", None]), "metadata": st.dictionaries(text, json_values, max_size=3) | st.none(),
    "token_cost": st.sampled_from([0, 1.5, 10 ** 9, "7", 1e-6, None]), "prompt_template": text | st.none(), "prompt_variables": json_values,
    "story_id": st.sampled_from([BOB, None]), "foundation_dependency": text | st.none(), "priority_tier": st.sampled_from([1, 2, 3, "2", None]),
    "semantic_similarity_hash": text | st.none(), "reuse_score": st.sampled_from([0, 10, 9.5, "5", None])}
good_entries = st.fixed_dictionaries(addresses, optional=optional)


@st.composite
def spoiled_entries(draw):
    """Almost good: some fields hold anything, are missing or have a name of their own."""
    entry = draw(good_entries)
    for field in draw(st.lists(st.sampled_from([*addresses, *optional, "expires_at", "id", ""]), min_size=1, max_size=3)):
        anything = json_values | st.sampled_from(["infinity", "-infinity", "NaN", "1e999999", 10 ** 400, "294276-12-31", "294277-01-01", "2999-01-01", "epoch",
                                                  "178000000 years", "-1 day", "1 month -30 days", "x" * 2000, 1e308])
        entry[field] = draw(notations() if field.endswith("_id") else anything)
        if draw(st.integers(0, 5)) == 0:
            del entry[field]
    return entry


def snapshot(connection):
    return connection.execute(f"SELECT count(*), md5(string_agg(e::text, ',' ORDER BY id)), (SELECT count(*) FROM cache_audit_log) FROM {CACHE} e").fetchone()


# Of each address the last entry, as PostgreSQL's own operators read the batch, against what is stored; both ways.
DIFFERENCE = f"""
    WITH wanted AS (
        SELECT DISTINCT ON (1, 2, 3) (e ->> 'user_id')::uuid AS u, e ->> 'content_type' AS t, e ->> 'cache_key' AS k, e -> 'content' AS content,
               coalesce(nullif(e -> 'metadata', 'null'), '{{}}') AS metadata, (e ->> 'token_cost')::numeric AS cost, e ->> 'prompt_template' AS template
        FROM jsonb_array_elements(%s::text::jsonb) WITH ORDINALITY a (e, n) ORDER BY 1, 2, 3, n DESC),
    stored AS (SELECT user_id, content_type::text, cache_key::text, content, metadata, token_cost, prompt_template FROM {CACHE})
    SELECT (SELECT count(*) FROM wanted w FULL JOIN stored s ON (u, t, k) = (user_id, content_type, cache_key)
            WHERE w.u IS NULL OR s.user_id IS NULL OR w.content <> s.content OR w.metadata <> s.metadata OR w.cost <> s.token_cost
               OR w.template IS DISTINCT FROM s.prompt_template), (SELECT count(*) FROM wanted)"""


def store(connection, batch):
    """Stores a batch; returns the SQLSTATE of an error, after which all is as before."""
    written = json.dumps(batch)
    before = snapshot(connection)
    try:
        [(ids,)] = connection.execute("SELECT cache_upsert_many(%s::text::jsonb)", (written,))
    except psycopg.Error as error:
        assert snapshot(connection) == before
        return error.sqlstate
    # The rows of the batch before are not this one's.
    different, number = connection.execute(DIFFERENCE, (written,)).fetchone()
    assert (different, len(ids), len(set(ids))) == (0, len(batch), number)
    connection.execute(f"DELETE FROM {CACHE}")
    return None


# What a user can do wrong: values, among them those of PostgreSQL's own types, and limits.
def is_users(sqlstate):
    return sqlstate[:2] == "22" or sqlstate in ("23502", "23514", "54000", "54001")


@CASES
@given(st.lists(good_entries, max_size=6))
def test_a_good_batch_is_stored(connection, batch):
    assert store(connection, batch) is None


@CASES
@given(st.lists(spoiled_entries() | good_entries | json_values, max_size=4))
def test_any_other_batch_is_stored_or_refused_as_a_whole(connection, batch):
    sqlstate = store(connection, batch)
    assert sqlstate is None or is_users(sqlstate)


@CASES
@given(json_values)
def test_what_is_no_batch_is_refused(connection, value):
    before = snapshot(connection)
    if value == []:
        return
    with pytest.raises(psycopg.Error) as caught:
        connection.execute("SELECT cache_upsert_many(%s::text::jsonb)", (json.dumps(value),))
    assert is_users(caught.value.sqlstate) and snapshot(connection) == before


# ── policies ─────────────────────────────────────────────────────────────────────────────────────

DAY = 86_400_000_000
# From 2000 on to the first moment that no timestamp can hold, PostgreSQL's END_TIMESTAMP.
ALL_OF_TIME = 9_223_371_331_200_000_000

edges = st.sampled_from([0, 1, -1, 30, -30, 29, 31, 2 ** 31 - 1, -2 ** 31])
numbers = edges | st.integers(-100, 100) | st.integers(-2 ** 31, 2 ** 31 - 1)
microseconds = edges | st.integers(-10 ** 7, 10 ** 7) | st.sampled_from([DAY, -DAY, 30 * DAY, 2 ** 62, -2 ** 62]) | st.integers(-2 ** 62, 2 ** 62)


@CASES
@given(numbers, numbers, microseconds, st.decimals("-0.5", "1000000000.5", places=6) | st.sampled_from(["NaN", "0", "1000000000", "0.000001"]),
       st.integers(-1, 5))
def test_an_entry_gets_what_its_policy_says(connection, months, days, rest, cost, tier):
    """A month counts 30 days and a day 24 hours; what is longer than all of time is for ever."""
    # PostgreSQL multiplies an interval in floating point.
    lifetime = (months * 30 + days) * DAY + int(float(rest))
    is_policy = lifetime > 0 and str(cost) != "NaN" and 0 <= float(cost) <= 1e9 and 1 <= tier <= 3
    connection.execute("DELETE FROM cache_content_policies WHERE content_type = 'generated'")
    try:
        connection.execute("INSERT INTO cache_content_policies (content_type, ttl, token_cost, priority_tier) "
                           "VALUES ('generated', make_interval(months => %s, days => %s) + %s * interval '1 microsecond', %s, %s)",
                           (months, days, rest, str(cost), tier))
    except psycopg.errors.CheckViolation:
        assert not is_policy
        return
    assert is_policy
    try:
        connection.execute("SELECT cache_upsert(%s, 'generated', 'k', '1')", (ALICE,))
    except psycopg.errors.DatetimeFieldOverflow:
        # All of time is longer than what is left of it.
        assert ALL_OF_TIME - 30 * 366 * DAY < lifetime < ALL_OF_TIME
        return
    [(created, expires, found_cost, found_tier)] = connection.execute(
        f"SELECT (extract(epoch FROM created_at) * 1000000)::bigint, CASE WHEN isfinite(expires_at) THEN (extract(epoch FROM expires_at) * 1000000)::numeric END, "
        f"token_cost::text, priority_tier FROM {CACHE} WHERE content_type = 'generated'").fetchall()
    assert expires == (None if lifetime >= ALL_OF_TIME else created + lifetime)
    assert (float(found_cost), found_tier) == (float(cost), tier)
