"""Forged and malformed claims, by generated cases: whatever stands in request.jwt.claims, a session sees the entries of the user that
PostgreSQL itself reads as its `sub`, or nobody's; and it is never an error."""

import json
import uuid

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.claims import CASES, notations, text, users
from harness.entries import ALICE, BOB, CACHE
from harness.roles import acting

FEWER = settings(CASES, max_examples=60)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text | users,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text | st.sampled_from(["sub", "SUB", "role", "aud"]), inner, max_size=4),
    max_leaves=12)


@st.composite
def claims(draw):
    """JSON that says who it is, or almost does."""
    fields = draw(st.lists(st.tuples(st.sampled_from(["sub", "sub", "sub", "SUB", "Sub", "sub ", "user_id", "role", "sub\u200b"]),
                                     notations() | json_values),
                           min_size=1, max_size=4))
    # Written by hand, since a name may stand twice.
    parts = [f"{json.dumps(name, ensure_ascii=draw(st.booleans()))}: {json.dumps(value, ensure_ascii=draw(st.booleans()))}" for name, value in fields]
    whole = "{" + ", ".join(parts) + "}"
    # Nested, in a list, or as a string, it is not this session's.
    return draw(st.sampled_from([whole, whole, whole, whole, f"[{whole}]", f'{{"app_metadata": {whole}}}', json.dumps(whole), f"  {whole}\t\n"]))


@st.composite
def damaged(draw):
    """Claims with a character taken out, put in, or changed."""
    whole = draw(claims())
    at = draw(st.integers(0, len(whole)))
    return whole[:at] + draw(text) + whole[at + draw(st.integers(0, 3)):]


good = st.builds(lambda user, others: json.dumps({**others, "sub": user}), users, st.dictionaries(text, json_values, max_size=3))
any_claims = st.booleans().flatmap(lambda well: good if well else claims() | damaged() | text | json_values.map(json.dumps))


@pytest.fixture
def two(supabase):
    """An entry of Alice's beside that of Bob's, each with the user's id in it."""
    supabase.execute(f"DELETE FROM {CACHE}")
    with supabase.connect() as connection:
        for user in (ALICE, BOB):
            connection.execute("SELECT cache_upsert(%s, 't', 'k', to_jsonb(%s::text), metadata => '{\"m\": 1}')", (user, user))
        # An entry that is found by each way to it.
        connection.execute("SET plan_cache_mode = force_generic_plan")
    yield supabase


def subject(connection, value):
    """The user of claims as PostgreSQL's own JSON and UUIDs have it: an object's `sub`, a string. None where either refuses."""
    try:
        with connection.transaction(force_rollback=True):
            return connection.execute(
                "SELECT CASE WHEN jsonb_typeof(c) = 'object' AND jsonb_typeof(c->'sub') = 'string' THEN (c->>'sub')::uuid END::text "
                "FROM (SELECT %s::jsonb AS c) claims", (value,)).fetchone()[0]
    except (psycopg.errors.DataError, psycopg.errors.ProgramLimitExceeded, psycopg.errors.StatementTooComplex):
        return None


EVERY_WAY = """
    SELECT cache_current_user_id()::text, ARRAY(SELECT user_id::text FROM infinite_pages_cache_partitioned ORDER BY 1),
           ARRAY(SELECT u FROM unnest(%(users)s::text[]) u WHERE cache_lookup(u::uuid, 't', 'k') IS NOT NULL ORDER BY 1),
           ARRAY(SELECT u FROM unnest(%(users)s::text[]) u, cache_get(u::uuid, 't', 'k') ORDER BY 1),
           ARRAY(SELECT u FROM unnest(%(users)s::text[]) u, cache_lookup_many(u::uuid, 't', '{k}') m WHERE m.content IS NOT NULL ORDER BY 1),
           ARRAY(SELECT u FROM unnest(%(users)s::text[]) u, cache_search(u::uuid, 't', '{"m": 1}') ORDER BY 1),
           ARRAY(SELECT user_id::text FROM user_cache_analytics ORDER BY 1),
           ARRAY(SELECT u FROM unnest(%(users)s::text[]) u
                 WHERE (get_infinite_pages_analytics(u::uuid)->>'total_cache_entries')::integer > 0 ORDER BY 1),
           ARRAY(SELECT u FROM unnest(%(users)s::text[]) u WHERE cache_touch(u::uuid, 't', 'k', '1 day') IS NOT NULL ORDER BY 1),
           ARRAY(SELECT u FROM unnest(%(users)s::text[]) u WHERE cache_invalidate(u::uuid, 't', 'k') > 0 ORDER BY 1)"""


def sight(connection, value, role="authenticated"):
    """Whom the session stands for, and what it reaches by each way there is. Undone afterwards."""
    with acting(connection, None, role, claims=value, keep=False):
        # None of what is sorted depends on the session: PostgreSQL does not promise an order of evaluation, but a read comes before the removal.
        found, *ways = connection.execute(EVERY_WAY, {"users": [ALICE, BOB]}).fetchone()
        return found, {tuple(way) for way in ways}


def test_claims_are_read_as_postgresql_reads_them_or_are_nobody(two):
    seen = {"nobody": 0, ALICE: 0, BOB: 0}
    with two.connect() as connection:
        connection.execute("SELECT cache_current_user_id()")

        @CASES
        @given(any_claims)
        def check(value):
            expected = subject(connection, value)
            if value == "":
                expected = None
            with acting(connection, None, claims=value, keep=False):
                [(found,)] = connection.execute("SELECT cache_current_user_id()::text").fetchall()
                rows = [user for (user,) in connection.execute(f"SELECT user_id::text FROM {CACHE}")]
            # PostgreSQL also takes a number that no double holds, and other groups of digits: those are nobody here.
            assert found in (expected, None)
            assert rows == ([found] if found in (ALICE, BOB) else [])
            seen[found if found in (ALICE, BOB) else "nobody"] += 1

        check()
    # The cases are of both kinds.
    assert min(seen.values()) >= 10, seen


def test_a_well_formed_subject_is_the_user(two):
    """So that the test above does not pass by everybody being nobody."""
    with two.connect() as connection:

        @CASES
        @given(st.uuids() | users.map(uuid.UUID), st.dictionaries(text.filter(lambda name: name != "sub"), json_values, max_size=5),
               st.integers(0, 3),
               st.booleans(), st.integers(0, 5))
        def check(user, others, notation, ascii_only, place):
            written = [str(user), str(user).upper(), user.hex, "{%s}" % user][notation]
            fields = list(others.items())
            fields.insert(min(place, len(fields)), ("sub", written))
            value = json.dumps(dict(fields), ensure_ascii=ascii_only)
            with acting(connection, None, claims=value, keep=False):
                assert connection.execute("SELECT cache_current_user_id()::text").fetchone() == (str(user),)

        check()


def test_every_way_to_an_entry_obeys_the_same_claims(two):
    with two.connect() as connection:

        @FEWER
        @given(any_claims, st.sampled_from(["on", "off"]))
        def check(value, way):
            connection.execute(f"SET enable_indexscan = {way}")
            user, ways = sight(connection, value)
            assert ways == {(user,) if user in (ALICE, BOB) else ()}

        check()


def test_claims_decide_over_the_setting(two):
    """A user id that is left over in the session does not stand in for claims that are there, however bad; where there are none it counts."""
    with two.connect() as connection:

        @FEWER
        @given(any_claims.filter(bool), notations() | text)
        def check(value, left):
            with acting(connection, None, claims=value, keep=False):
                [before] = connection.execute("SELECT cache_current_user_id()").fetchall()
                connection.execute("SELECT set_config('infinite_pages_cache.user_id', %s, true)", (left,))
                assert connection.execute("SELECT cache_current_user_id()").fetchall() == [before]
            with acting(connection, None, claims="", keep=False):
                connection.execute("SELECT set_config('infinite_pages_cache.user_id', %s, true)", (left,))
                # The same notations as in claims, and no error.
                [(found,)] = connection.execute("SELECT cache_current_user_id()::text").fetchall()
                assert found in (subject(connection_of_oracle, json.dumps({"sub": left})), None)
                assert (found is not None) or left not in (ALICE, BOB)

        with two.connect() as connection_of_oracle:
            check()


def test_nothing_else_says_who_somebody_is(two):
    """Settings of other names, roles and sessions that are named like users are nobody."""
    with two.connect(application_name=ALICE) as connection:

        @FEWER
        @given(st.sampled_from(["request.jwt.claim.sub", "request.jwt.claims.sub", "request.jwt", "request.header.sub", "request.jwt.user_id",
                                "infinite_pages.user_id", "app.user_id", "request.headers", "jwt.claims", "request.jwt.claim"]),
                                notations() | claims())
        def check(name, value):
            with acting(connection, None, claims="", keep=False):
                connection.execute("SELECT set_config(%s, %s, true)", (name, value))
                assert sight_of_nobody(connection)

        def sight_of_nobody(connection):
            found, rows = connection.execute(f"SELECT cache_current_user_id(), (SELECT count(*) FROM {CACHE})").fetchone()
            return (found, rows) == (None, 0)

        check()


def test_a_foreign_user_in_an_argument_changes_nothing(two):
    """Whoever is named, the session reaches its own user's entries; it writes for no other."""
    before = two.contents()
    with two.connect() as connection:

        @FEWER
        @given(st.uuids() | st.just(uuid.UUID(ALICE)), text.filter(bool), text, json_values)
        def check(user, content_type, key, content):
            if str(user) == BOB:
                return
            content = psycopg.types.json.Jsonb(content, dumps=lambda value: json.dumps(value).replace("\\u0000", ""))
            names = {"user": user, "type": content_type, "key": key, "content": content}
            with acting(connection, BOB, keep=False):
                for address in ((user, "t", "k"), (user, content_type, key)):
                    if not address[2]:
                        continue
                    assert connection.execute("SELECT cache_lookup(%s, %s, %s), cache_touch(%s, %s, %s, '1 day'), cache_invalidate(%s, %s, %s)",
                                              address * 3).fetchone() == (None, None, 0)
                assert connection.execute("SELECT cache_invalidate_content_type(%(user)s, 't'), cache_invalidate_where(%(user)s, '{\"m\": 1}'), "
                                          "cache_invalidate_dependents(%(user)s, %(key)s)", {**names, "key": key or "f"}).fetchone() == (0, 0, 0)
            with pytest.raises(psycopg.errors.InsufficientPrivilege), acting(connection, BOB, keep=False):
                connection.execute("SELECT cache_upsert(%(user)s, %(type)s, %(key)s, %(content)s)", {**names, "key": key or "k"})
            with pytest.raises(psycopg.errors.InsufficientPrivilege), acting(connection, BOB, keep=False):
                connection.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content) "
                                   "VALUES (%(user)s, %(type)s, %(key)s, %(content)s)", names)
            with pytest.raises(psycopg.errors.InsufficientPrivilege), acting(connection, BOB, keep=False):
                connection.execute(f"UPDATE {CACHE} SET user_id = %(user)s", names)

        check()
    assert two.contents() == before


def test_claims_of_any_size_and_depth(two):
    """A parser that recurses, or is slow on some input, would stop the server or the session: these are answered within a second."""
    deep = 200_000
    cases = {"[" * deep: None, "{\"sub\":" * deep: None, '{"a":' + "[" * deep + "]" * deep + f', "sub": "{ALICE}"}}': None,
             '{"a": "' + "x" * 1_000_000 + f'", "sub": "{ALICE}"}}': ALICE, '{"a": ' + "9" * 300 + f', "sub": "{ALICE}"}}': ALICE,
             "{" + ", ".join(f'"{number}": {number}' for number in range(20_000)) + f', "sub": "{ALICE}"}}': ALICE,
             "{" + f'"sub": "{ALICE}", ' * 10_000 + f'"sub": "{BOB}"}}': BOB, '{"sub": "' + ALICE * 10_000 + '"}': None, " " * 1_000_000: None,
             '{"sub": "' + "\\u0061" + ALICE[1:] + '"}': ALICE}
    with two.connect() as connection:
        connection.execute("SET statement_timeout = '1s'")
        for value, expected in cases.items():
            with acting(connection, None, claims=value, keep=False):
                found = connection.execute(f"SELECT cache_current_user_id()::text, (SELECT array_agg(user_id::text) FROM {CACHE})").fetchone()
            assert (value[:30], found) == (value[:30], (expected, expected and [expected]))
