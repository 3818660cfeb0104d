"""What a key's state becomes when its lease is filled, given back, failed, extended or over, and when its answer ages."""

import threading
import time

import pytest

from harness.entries import ALICE, BOB, CACHE, KEY, upsert
from harness.leases import counted, expire, fetch, leases, release, set_policy
from harness.roles import acting
from harness.waiting import together, wait_until


@pytest.fixture
def two(database):
    with database.connect() as one, database.connect() as other:
        yield one, other


def test_generate_becomes_hit_when_the_answer_is_stored(two):
    one, other = two
    lease = fetch(one).lease
    assert upsert(one, '"text"', lease=lease) is not None
    for connection in two:
        found = fetch(connection)
        assert (found.state, found.content, found.lease) == ("hit", "text", None)
    assert leases(other) == []
    # Used once, it has ended.
    assert release(one, lease) is False


def test_generate_becomes_hit_at_the_commit_and_not_before(two):
    one, other = two
    lease = fetch(one).lease
    with one.transaction():
        upsert(one, '"text"', lease=lease)
        assert fetch(one).state == "hit"
        assert fetch(other).state == "wait"
        assert leases(other) == [(ALICE, KEY[1], "storing")]
        assert other.execute("SELECT storing_pid FROM cache_leases").fetchone() == (one.info.backend_pid,)
    assert fetch(other).state == "hit"


def test_an_answer_that_is_rolled_back_gives_the_lease_back_to_its_holder(two):
    one, other = two
    lease = fetch(one).lease
    with one.transaction(force_rollback=True):
        upsert(one, '"text"', lease=lease)
    assert fetch(other).state == "wait"
    assert upsert(one, '"again"', lease=lease) is not None
    assert fetch(other).content == "again"


def test_generate_becomes_generate_for_the_next_when_it_is_given_back(two):
    one, other = two
    lease = fetch(one).lease
    assert release(one, lease) is True
    assert release(one, lease) is False
    found = fetch(other)
    assert found.state == "generate" and found.lease not in (None, lease)


def test_a_lease_is_given_back_at_once_whatever_becomes_of_the_transaction(two):
    one, other = two
    lease = fetch(one).lease
    with one.transaction(force_rollback=True):
        assert release(one, lease)
        assert fetch(other).state == "generate"


def test_failed_becomes_generate_when_its_time_is_over(two):
    one, other = two
    release(one, fetch(one).lease, failed=True, retry_after="1 second")
    found = fetch(other)
    assert found.state == "failed" and 0 < found.retry_after.total_seconds() <= 1
    time.sleep(found.retry_after.total_seconds())
    assert fetch(other).lease is not None


def test_failed_for_no_time_is_generate(two):
    one, other = two
    assert release(one, fetch(one).lease, failed=True, retry_after="0")
    assert fetch(other).state == "generate"


def test_failed_becomes_hit_when_an_answer_is_stored_without_a_lease(two):
    one, other = two
    release(one, fetch(one).lease, failed=True, retry_after="1 hour")
    upsert(one, '"text"')
    assert fetch(other).state == "hit"


def test_failures_are_counted(database, two):
    one, _ = two
    for _ in range(3):
        release(one, fetch(one).lease, failed=True, retry_after="0")
    release(one, fetch(one).lease)
    assert counted(database) == {"misses": 4, "leases_granted": 4, "failures": 3}


def test_a_lease_whose_time_is_over_is_granted_to_the_next(database):
    set_policy(database, lease_ttl="1 second")
    with database.connect() as one, database.connect() as other:
        lease = fetch(one).lease
        assert fetch(other).state == "wait"
        time.sleep(1.05)
        assert leases(other) == [(ALICE, KEY[1], "over")]
        found = fetch(other)
        assert found.state == "generate" and found.lease not in (None, lease)
        # Who is late may still store: nothing has been invalidated.
        assert upsert(one, '"late"', lease=lease) is not None
        assert fetch(one).content == "late"


def test_an_extended_lease_lasts_from_now(database):
    set_policy(database, lease_ttl="1 second")
    with database.connect() as one, database.connect() as other:
        lease = fetch(one).lease
        assert one.execute("SELECT cache_extend_lease(%s, '10 seconds')::text", (lease,)).fetchone() == ("00:00:10",)
        time.sleep(1.05)
        assert fetch(other).state == "wait"
        assert 8 < other.execute("SELECT extract(epoch FROM ends_in)::float FROM cache_leases").fetchone()[0] < 10


def test_refresh_of_a_stale_answer_becomes_hit(database):
    set_policy(database, stale_ttl="1 hour")
    with database.connect() as one, database.connect() as other:
        upsert(one, '"old"')
        expire(database, "1 minute")
        lease = fetch(one).lease
        assert fetch(other)[:3] == ("stale", "old", None)
        assert upsert(one, '"new"', lease=lease) is not None
        assert fetch(other)[:3] == ("hit", "new", None)


def test_stale_becomes_refresh_when_the_lease_is_given_back(database):
    set_policy(database, stale_ttl="1 hour")
    with database.connect() as one, database.connect() as other:
        upsert(one, '"old"')
        expire(database, "1 minute")
        lease = fetch(one).lease
        assert fetch(other).state == "stale"
        release(one, lease)
        assert fetch(other).state == "refresh"


def test_hit_becomes_stale_and_then_missing(database):
    set_policy(database, stale_ttl="1 second")
    with database.connect() as connection:
        upsert(connection, '"text"', ttl="1 second")
        states = [fetch(connection).state]
        for _ in range(2):
            time.sleep(1.05)
            states.append(fetch(connection).state)
        # The second one holds the lease still.
        assert states == ["hit", "refresh", "wait"]


def test_an_invalidation_makes_a_hit_missing_and_outdates_the_lease(two):
    one, other = two
    lease = fetch(one).lease
    other.execute("SELECT cache_invalidate(%s, %s, %s)", KEY)
    assert upsert(one, '"outdated"', lease=lease) is None
    # The lease is in nobody's way any more.
    assert fetch(other).state == "generate"


def test_while_an_invalidation_is_pending_one_generates_without_a_lease(two):
    """What it would store would be refused, so nobody shall be kept waiting for it."""
    one, other = two
    upsert(one, '"text"')
    with one.transaction():
        one.execute("SELECT cache_invalidate(%s, %s, %s)", KEY)
        assert fetch(other).state == "hit"
        assert fetch(other, (ALICE, KEY[1], "other")).lease is not None
        # In the transaction itself the entry is gone, and its own invalidation is in nobody's way.
        assert fetch(one).lease is not None
    assert fetch(other).state == "wait"


def test_a_pending_invalidation_is_shown_with_who_makes_it(two):
    one, other = two
    with one.transaction():
        one.execute("SELECT cache_invalidate_content_type(%s, %s)", KEY[:2])
        found = fetch(other)
        assert (found.state, found.lease) == ("generate", None)
        assert other.execute("SELECT pid, user_id::text, pending_for >= '0' FROM cache_pending_invalidations()").fetchall() == [
            (one.info.backend_pid, ALICE, True)]
    assert other.execute("SELECT * FROM cache_pending_invalidations()").fetchall() == []


def test_ending_the_leases_of_a_user_keeps_their_answers_out(two):
    one, other = two
    keys = [(ALICE, "a", "k"), (ALICE, "b", "k"), (BOB, "a", "k")]
    held = [fetch(one, key).lease for key in keys]
    assert other.execute("SELECT cache_end_leases(%s, 'a')", (ALICE,)).fetchone() == (1,)
    assert upsert(one, '"x"', keys[0], lease=held[0]) is None
    assert other.execute("SELECT cache_end_leases(%s)", (ALICE,)).fetchone() == (1,)
    assert upsert(one, '"x"', keys[1], lease=held[1]) is None
    assert other.execute("SELECT cache_end_leases(%s)", (ALICE,)).fetchone() == (0,)
    assert upsert(one, '"x"', keys[2], lease=held[2]) is not None


# ── early refresh ────────────────────────────────────────────────────────────────────────────────

@pytest.fixture
def eager(database):
    """A database in which one generation of the type has taken a second, and refreshes are ten generations early."""
    database.cluster.execute(f"ALTER DATABASE {database.name} SET infinite_pages_cache.early_refresh = 10")
    with database.connect() as connection:
        lease = fetch(connection, (ALICE, KEY[1], "first")).lease
        time.sleep(1)
        assert upsert(connection, '"first"', (ALICE, KEY[1], "first"), lease=lease) is not None
    return database


def test_near_its_expiry_an_answer_is_generated_anew_while_it_is_served(eager):
    """10 s of −ln u against 50 ms: of 200 independent callers one in e^0.005 is not chosen."""
    with eager.connect() as one, eager.connect() as other:
        chosen = 0
        for number in range(20):
            key = (ALICE, KEY[1], f"k{number}")
            upsert(one, '"text"', key)
            # Not the time to live of upsert, which might end meanwhile.
            eager.execute(f"UPDATE {CACHE} SET expires_at = clock_timestamp() + interval '500 milliseconds' WHERE cache_key = %s", key[2:])
            found = fetch(one, key)
            assert found.state in ("hit", "refresh") and found.content == "text" and (found.lease is not None) == (found.state == "refresh")
            if found.state == "refresh":
                chosen += 1
                # One is enough.
                assert fetch(other, key).state == "hit"
        # Each is chosen with probability e^-0.05 = 0.95.
        assert chosen >= 14
    hits = counted(eager)
    assert hits["hits"] == 20 + chosen and hits["leases_granted"] == chosen + 1 and "stale_served" not in hits


def test_far_from_its_expiry_an_answer_is_not_generated_anew(eager):
    """More than 37 times as far as ten generations."""
    with eager.connect() as connection:
        upsert(connection, '"text"', ttl="1 hour")
        assert {fetch(connection).state for _ in range(200)} == {"hit"}


def test_an_answer_that_never_expires_is_not_generated_anew(eager):
    with eager.connect() as connection:
        upsert(connection, '"text"', ttl="infinity")
        states = connection.execute("SELECT f.state, count(*) FROM generate_series(1, 200), cache_fetch(%s, %s, %s) f GROUP BY 1", KEY).fetchall()
        assert states == [("hit", 200)]


def test_early_refresh_can_be_switched_off(eager):
    eager.cluster.execute(f"ALTER DATABASE {eager.name} SET infinite_pages_cache.early_refresh = 0")
    with eager.connect() as connection:
        upsert(connection, '"text"', ttl="2 seconds")
        assert {fetch(connection).state for _ in range(50)} == {"hit"}


def test_before_the_first_generation_nothing_is_known_to_be_early(database):
    database.cluster.execute(f"ALTER DATABASE {database.name} SET infinite_pages_cache.early_refresh = 10")
    with database.connect() as connection:
        upsert(connection, '"text"', ttl="2 seconds")
        assert {fetch(connection).state for _ in range(50)} == {"hit"}


def test_who_is_chosen_early_and_gives_up_leaves_a_hit(eager):
    with eager.connect() as connection:
        upsert(connection, '"text"', ttl="5 seconds")
        for _ in range(200):
            found = fetch(connection)
            if found.state == "refresh":
                break
        assert release(connection, found.lease, failed=True)
        assert {fetch(connection).state for _ in range(20)} == {"hit"}


# ── many at once ─────────────────────────────────────────────────────────────────────────────────

def test_of_many_that_miss_at_once_one_generates(database):
    """Again and again: the look after the grant finds what was stored between the first look and the grant."""
    callers, rounds = 8, 60
    generated, lock, barrier = [], threading.Lock(), threading.Barrier(callers, timeout=20)

    def call():
        with database.connect() as connection:
            for number in range(rounds):
                key = (ALICE, "raced", str(number))
                barrier.wait()
                while (found := fetch(connection, key)).state != "hit":
                    if found.state == "generate":
                        assert found.lease is not None
                        with lock:
                            generated.append(number)
                        # In a time that differs, so that the commit meets every step of the others' calls.
                        assert upsert(connection, '"text"', key, lease=found.lease) is not None
                    else:
                        assert found.state == "wait"

    together(*[call] * callers)
    assert sorted(generated) == list(range(rounds))
    assert counted(database, "raced")["generations"] == rounds


def test_a_tenants_leases_are_not_in_anothers_way(roles, database):
    with database.connect() as connection:
        for user in (ALICE, BOB):
            with acting(connection, user):
                assert fetch(connection, (user, "t", "same key")).state == "generate"
        wait_until(lambda: len(leases(connection)) == 2)
