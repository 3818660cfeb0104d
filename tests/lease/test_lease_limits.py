"""Leases have a fixed number of places. No user can take them all, no lease that is held gives way, and without one a caller generates."""

import pytest

from harness.cluster import Cluster
from harness.database import Database
from harness.entries import lookup, upsert
from harness.errors import sqlstate_of
from harness.leases import fetch, release, set_policy
from harness.maintenance import STEPS
from harness.waiting import wait_until

LEASES, TYPE, BRIEF = 64, "story_foundation", "brief"


def user(number):
    return f"00000000-0000-4000-8000-{number:012}"


@pytest.fixture
def small():
    """A cluster with the least room. Its worker looks often for databases that are gone, and does nothing else."""
    cluster = Cluster({"infinite_pages_cache.max_leases": LEASES, "infinite_pages_cache.naptime": "200ms",
                       "infinite_pages_cache.skip_steps": ", ".join(STEPS)})
    yield cluster
    cluster.remove()


@pytest.fixture
def connection(small):
    database = Database(small)
    set_policy(database, BRIEF, lease_ttl="1 second")
    with database.connect() as connection:
        connection.database = database
        yield connection


def take(connection, number, count, content_type=TYPE):
    """Fetch so many keys as a user; returns the leases that there were."""
    fetched = [fetch(connection, (user(number), content_type, f"k{key}")) for key in range(count)]
    assert {one.state for one in fetched} <= {"generate"}
    return [one.lease for one in fetched if one.lease is not None]


def held(connection, state="held"):
    return connection.execute("SELECT count(*) FROM cache_leases WHERE state = %s", (state,)).fetchone()[0]


def denied(connection):
    return connection.execute("SELECT coalesce(sum(leases_denied), 0)::int FROM cache_statistics()").fetchone()[0]


def test_one_user_takes_a_third_of_the_places_and_the_others_get_theirs(connection):
    # A user may have a place while it has fewer than half of those that are free: 20 < (64 - 20) / 2, and 21 = (64 - 21) / 2.
    assert len(take(connection, 1, LEASES)) == 21
    assert denied(connection) == LEASES - 21
    for number in range(2, 8):
        assert len(take(connection, number, 4)) == 4
    assert fetch(connection, (user(1), TYPE, "one more")).lease is None


def test_a_sixteenth_is_every_users_while_there_is_room(connection):
    free = LEASES
    for number in range(1, 30):
        taken = len(take(connection, number, LEASES))
        assert taken >= min(free, LEASES // 16)
        free -= taken
    assert free == 0 and held(connection) == LEASES


def fill_the_table(connection, content_type=TYPE):
    """Sixteen users have four leases each."""
    return [lease for number in range(1, 17) for lease in take(connection, number, 4, content_type)]


def test_in_a_full_table_a_caller_generates_without_a_lease_and_its_answer_is_stored(connection):
    assert len(set(fill_the_table(connection))) == LEASES
    key = (user(99), TYPE, "k")
    before = denied(connection)
    found = fetch(connection, key)
    assert (found.state, found.lease, denied(connection)) == ("generate", None, before + 1)
    upsert(connection, '"answer"', key)
    assert fetch(connection, key).state == "hit"


def test_a_lease_that_is_given_back_or_filled_makes_room(connection):
    first, second, *_ = fill_the_table(connection)
    assert release(connection, first)
    assert len(take(connection, 98, 2)) == 1
    assert upsert(connection, '"answer"', (user(1), TYPE, "k1"), lease=second)
    assert len(take(connection, 99, 2)) == 1


def test_failures_give_way_and_held_leases_do_not(connection):
    leases = fill_the_table(connection)
    assert all(release(connection, lease, failed=True, retry_after="1 day") for lease in leases[:8])
    assert held(connection, "failed") == 8 and held(connection) == LEASES - 8
    assert len(take(connection, 98, 4)) + len(take(connection, 99, 8)) == 8
    assert held(connection, "failed") == 0 and held(connection) == LEASES
    # The user of a failure that gave way may try again, once there is room.
    assert fetch(connection, (user(1), TYPE, "k0")).lease is None
    assert release(connection, leases[-1])
    assert fetch(connection, (user(1), TYPE, "k0")).lease is not None


def test_a_failure_is_remembered_while_there_is_room(connection):
    [lease] = take(connection, 1, 1)
    assert release(connection, lease, failed=True, retry_after="1 day")
    found = fetch(connection, (user(1), TYPE, "k0"))
    assert (found.state, found.lease) == ("failed", None)
    assert 86_390 < found.retry_after.total_seconds() <= 86_400


def test_leases_whose_time_is_over_give_way_and_are_counted(connection):
    brief = [lease for number in range(1, 9) for lease in take(connection, number, 4, BRIEF)]
    lasting = [lease for number in range(9, 17) for lease in take(connection, number, 4)]
    assert len(brief) == len(lasting) == 32
    wait_until(lambda: held(connection, "over") == 32)
    # What is over can still be used, as long as nobody needs its place.
    assert upsert(connection, '"late"', (user(1), BRIEF, "k0"), lease=brief[0])
    assert lookup(connection, (user(1), BRIEF, "k0")) == "late"
    assert len(take(connection, 98, 20)) + len(take(connection, 99, 20)) == 32 - held(connection, "over")
    assert set(lasting) == {row[0] for row in connection.execute(
        "SELECT lease FROM unnest(%s::uuid[]) lease WHERE cache_extend_lease(lease) IS NOT NULL", (lasting,)).fetchall()}
    connection.execute("SELECT cache_flush_statistics()")
    expired = connection.execute("SELECT leases_expired FROM cache_statistics() WHERE content_type = %s", (BRIEF,)).fetchone()[0]
    assert expired == 31


def test_a_user_whose_places_are_used_up_loses_its_own_leases_first(connection):
    own, others = take(connection, 1, 21, BRIEF), take(connection, 2, 4, BRIEF)
    wait_until(lambda: held(connection, "over") == 25)
    assert len(take(connection, 1, 10)) == 10
    assert all(upsert(connection, '"late"', (user(2), BRIEF, f"k{number}"), lease=lease) for number, lease in enumerate(others))
    stored = [upsert(connection, '"late"', (user(1), BRIEF, f"k{number}"), lease=lease) is not None for number, lease in enumerate(own)]
    assert stored == [False] * 10 + [True] * 11


def test_there_are_64_places_at_least_and_a_million_at_most(small):
    for number in (63, 1_000_001):
        error = sqlstate_of(lambda: small.execute(f"ALTER SYSTEM SET infinite_pages_cache.max_leases = {number}"))  # noqa: B023
        assert error.sqlstate == "22023"


def test_leases_of_a_database_that_is_gone_are_free(small):
    one, other = Database(small), Database(small)
    with one.connect() as connection:
        fill_the_table(connection)
    with other.connect() as connection:
        assert take(connection, 1, 1) == []
        one.drop()
        wait_until(lambda: take(connection, 1, 1) != [], 60, 0.2)
