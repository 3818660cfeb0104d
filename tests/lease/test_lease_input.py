"""What cache_fetch() and the functions of leases refuse, word by word, and what they take for another value."""

import time

import pytest

from harness.entries import ALICE, KEY
from harness.errors import sqlstate_of
from harness.leases import fetch, leases, release

UNKNOWN = "b0b00000-0000-8000-8000-000000000002"
FETCH = {"user_id": f"'{ALICE}'", "content_type": "'t'", "cache_key": "'k'"}


def call(function, **arguments):
    return f"SELECT {function}({', '.join(f'{name} => {value}' for name, value in arguments.items())})"


NOT_NULL = "22004"
INVALID = "22023"
REFUSED = {
    call("cache_fetch", **{**FETCH, "user_id": "NULL"}):
        (NOT_NULL, "user_id must not be NULL", "The argument user_id is NULL.", "Every entry belongs to a user; pass the user's uuid."),
    call("cache_fetch", **{**FETCH, "content_type": "NULL"}):
        (NOT_NULL, "content_type must not be NULL", "The argument content_type is NULL.", "Use a short name such as story_foundation."),
    call("cache_fetch", **{**FETCH, "content_type": "''"}):
        (INVALID, "content_type must not be empty", "The value is ''.", "Use a short name such as story_foundation."),
    call("cache_fetch", **{**FETCH, "content_type": "repeat('x', 256)"}):
        (INVALID, "content_type is too long", f'The limit is 255 bytes; the value is "{"x" * 64}…" (256 bytes).',
         "Use a short name such as story_foundation."),
    call("cache_fetch", **{**FETCH, "content_type": "'*'"}):
        (INVALID, "content_type must not be *", 'The value is "*".',
         "* is the content policy of all types that have none of their own; name the type itself."),
    call("cache_fetch", **{**FETCH, "cache_key": "NULL"}):
        (NOT_NULL, "cache_key must not be NULL", "The argument cache_key is NULL.", "Make a key of the request with cache_key(request jsonb)."),
    call("cache_fetch", **{**FETCH, "cache_key": "''"}):
        (INVALID, "cache_key must not be empty", "The value is ''.", "Make a key of the request with cache_key(request jsonb)."),
    call("cache_fetch", **{**FETCH, "cache_key": "repeat('x', 1025)"}):
        (INVALID, "cache_key is too long", f'The limit is 1024 bytes; the value is "{"x" * 64}…" (1025 bytes).',
         "Make a key of the request with cache_key(request jsonb)."),
    call("cache_fetch", **FETCH, wait="'-1 second'"): (INVALID, "wait must not be negative", "It is -00:00:01.", "Leave it out not to wait."),
    call("cache_fetch", **FETCH, wait="'1 day -25 hours'"):
        (INVALID, "wait must not be negative", "It is 1 day -25:00:00.", "Leave it out not to wait."),
    call("cache_fetch", **FETCH, wait="'-178000000 years'"):
        (INVALID, "wait must not be negative", "It is -178000000 years.", "Leave it out not to wait."),
    call("cache_release", lease="NULL"):
        (NOT_NULL, "lease must not be NULL", "The argument lease is NULL.", "Pass the lease that cache_fetch() returned."),
    call("cache_release", lease=f"'{UNKNOWN}'", failed="true", retry_after="'-1 second'"):
        (INVALID, "retry_after must not be negative", "It is -00:00:01.", "Leave it out for 5 seconds."),
    call("cache_release", lease=f"'{UNKNOWN}'", failed="true", retry_after="'1 day 1 microsecond'"):
        (INVALID, "retry_after must be a day at most", "It is 1 day 00:00:00.000001.", "Leave it out for 5 seconds."),
    call("cache_extend_lease", lease="NULL"):
        (NOT_NULL, "lease must not be NULL", "The argument lease is NULL.", "Pass the lease that cache_fetch() returned."),
    **{call("cache_extend_lease", lease=f"'{UNKNOWN}'", ttl=f"'{ttl}'"):
       (INVALID, "ttl must lie between 1 second and 1 day", f"It is {ttl}.", "Leave it out for the lease_ttl of the content policy.")
       for ttl in ("00:00:00", "-00:00:01", "00:00:00.999999", "1 day 00:00:00.000001", "10 years")},
    call("cache_end_leases", user_id="NULL"):
        (NOT_NULL, "user_id must not be NULL", "The argument user_id is NULL.", "Every entry belongs to a user; pass the user's uuid."),
    call("cache_end_leases", user_id=f"'{ALICE}'", content_type="''"):
        (INVALID, "content_type must not be empty", "The value is ''.", "Use a short name such as story_foundation."),
}


@pytest.fixture
def held(database):
    """A database with a lease of Alice's."""
    with database.connect() as connection:
        database.lease = fetch(connection).lease
    return database


@pytest.mark.parametrize("statement", REFUSED, ids=lambda statement: statement.removeprefix("SELECT ")[:70])
def test_what_is_refused_is_told_why_and_changes_nothing(held, statement):
    with held.connect() as connection:
        error = sqlstate_of(lambda: connection.execute(statement))
        assert (error.sqlstate, error.message_primary, error.message_detail, error.message_hint) == REFUSED[statement]
        assert leases(connection) == [(ALICE, KEY[1], "held")]


def test_wrong_arguments_are_refused_while_the_cache_is_off(held):
    with held.connect() as connection:
        connection.execute("SET infinite_pages_cache.enabled = off")
        for statement, expected in REFUSED.items():
            assert sqlstate_of(lambda: connection.execute(statement)).sqlstate == expected[0]


@pytest.mark.parametrize("wait", ["NULL", "'0'", "'1 microsecond'"])
def test_no_time_to_wait_is_not_to_wait(held, wait):
    with held.connect() as connection:
        found, took = timed(connection, wait)
        assert found == "wait" and took < 1


def timed(connection, wait):
    started = time.monotonic()
    found = connection.execute(f"SELECT (cache_fetch(%s, %s, %s, {wait})).state", KEY).fetchone()[0]
    return found, time.monotonic() - started


@pytest.mark.parametrize("wait", ["'1 hour'", "'178000000 years'"])
def test_an_absurd_time_to_wait_is_the_longest_that_the_setting_allows(held, wait):
    held.cluster.execute(f"ALTER DATABASE {held.name} SET infinite_pages_cache.max_fetch_wait = '500ms'")
    with held.connect() as connection:
        found, took = timed(connection, wait)
        assert found == "wait" and 0.5 <= took < 3


def test_an_infinite_time_to_wait_is_the_longest_that_the_setting_allows(held):
    if held.value("SHOW server_version_num") < "170000":
        pytest.skip("intervals are finite before PostgreSQL 17")
    held.cluster.execute(f"ALTER DATABASE {held.name} SET infinite_pages_cache.max_fetch_wait = '500ms'")
    with held.connect() as connection:
        found, took = timed(connection, "'infinity'")
        assert found == "wait" and 0.5 <= took < 3


def test_only_a_superuser_says_how_long_one_may_wait(roles, database):
    with database.connect() as connection:
        connection.execute("SET ROLE authenticated")
        for setting in ("max_fetch_wait = 1", "early_refresh = 1", "max_fetch_waiters = 1", "max_leases = 64"):
            assert sqlstate_of(lambda: connection.execute(f"SET infinite_pages_cache.{setting}")).sqlstate in ("42501", "55P02")


def test_nulls_in_a_release_are_its_defaults(held):
    with held.connect() as connection:
        assert connection.execute("SELECT cache_release(%s, NULL, NULL)", (held.lease,)).fetchone() == (True,)
        assert leases(connection) == []
        lease = fetch(connection).lease
        assert connection.execute("SELECT cache_release(%s, true, NULL)", (lease,)).fetchone() == (True,)
        assert 4 < fetch(connection).retry_after.total_seconds() <= 5


def test_the_longest_and_shortest_times_are_accepted(held):
    with held.connect() as connection:
        assert connection.execute("SELECT cache_extend_lease(%s, '1 second')::text, cache_extend_lease(%s, '1 day')::text", (held.lease, held.lease)
                                  ).fetchone() == ("00:00:01", "1 day")
        assert release(connection, held.lease, failed=True, retry_after="1 day")
        found = fetch(connection)
        assert found.state == "failed" and 86_390 < found.retry_after.total_seconds() <= 86_400
        assert connection.execute("SELECT cache_end_leases(%s)", (ALICE,)).fetchone()


def test_without_a_time_the_policy_says_how_long_a_lease_lasts(held):
    with held.connect() as connection:
        assert connection.execute("SELECT cache_extend_lease(%s)::text", (held.lease,)).fetchone() == ("00:02:00",)
    held.execute("UPDATE cache_content_policies SET lease_ttl = '10 minutes' WHERE content_type = %s", (KEY[1],))
    with held.connect() as connection:
        assert connection.execute("SELECT cache_extend_lease(%s)::text", (held.lease,)).fetchone() == ("00:10:00",)


def test_a_lease_that_is_unknown_forged_or_ended_cannot_be_given_back_or_extended(held):
    with held.connect() as connection:
        ended = fetch(connection, (ALICE, "t", "ended")).lease
        assert release(connection, ended)
        number, nonce = str(held.lease)[:8], str(held.lease)[8:]
        for lease in (UNKNOWN, ended, "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff",
                      f"{number}{str(ended)[8:]}", f"{int(number, 16) + 1:08x}{nonce}"):
            assert release(connection, lease) is False
            assert release(connection, lease, failed=True) is False
            assert connection.execute("SELECT cache_extend_lease(%s)", (lease,)).fetchone() == (None,)
        assert leases(connection) == [(ALICE, KEY[1], "held")]


@pytest.mark.parametrize("ttl", ["0", "999 milliseconds", "1 day 1 second", "-1 second"])
def test_a_content_policy_has_a_lease_ttl_between_a_second_and_a_day(database, ttl):
    assert sqlstate_of(lambda: database.execute("UPDATE cache_content_policies SET lease_ttl = %s", (ttl,))).sqlstate == "23514"
