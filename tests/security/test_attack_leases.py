"""A tenant learns nothing of another's leases, ends none, and is in nobody's way with its own."""

import threading
import time
import uuid

import psycopg
import pytest

from harness.entries import ALICE, BOB, CACHE, upsert
from harness.leases import fetch, leases, release
from harness.roles import acting, outcome, temporary_roles
from harness.waiting import together, wait_until

KEY = (ALICE, "t", "alices")


@pytest.fixture
def attacked(roles, database):
    """A lease of Alice's, and sessions of a service, of Alice and of Bob."""
    with database.connect() as service, database.connect() as alice, database.connect() as bob:
        database.service, database.alice, database.bob = service, alice, bob
        with acting(alice, ALICE):
            database.lease = fetch(alice, KEY).lease
        yield database


def test_a_tenant_sees_the_leases_of_its_user(attacked):
    for role, user, expected in (("authenticated", ALICE, 1), ("authenticated", BOB, 0), ("authenticated", "nobody", 0), ("anon", ALICE, 0),
                                 ("service_role", BOB, 1)):
        with acting(attacked.bob, user, role) as connection:
            # anon may read no table, so its claims prove nothing.
            found = connection.execute("SELECT count(*) FROM cache_leases()").fetchone()
            assert (role, user, found) == (role, user, (expected,))


def test_a_monitor_sees_no_lease(attacked):
    with temporary_roles(attacked.cluster, "monitor"):
        attacked.execute("SELECT cache_grant_monitor('monitor')")
        for user in (ALICE, None):
            assert outcome(attacked.service, "SELECT * FROM cache_leases", user, "monitor") == []


def test_a_monitor_sees_pending_invalidations_without_their_users(attacked):
    with temporary_roles(attacked.cluster, "monitor"):
        attacked.execute("SELECT cache_grant_monitor('monitor')")
        with acting(attacked.alice, ALICE):
            attacked.alice.execute("SELECT cache_invalidate_content_type(%s, 't')", (ALICE,))
            seen = {role: outcome(attacked.service, "SELECT pid, user_id::text FROM cache_pending_invalidations()", BOB, role)
                    for role in ("monitor", "service_role", "authenticated", "anon")}
    pid = attacked.alice.info.backend_pid
    assert seen["monitor"] == [(pid, None)] and seen["service_role"] == [(pid, ALICE)]
    for role in ("authenticated", "anon"):
        assert seen[role][:2] == ("42501", "permission denied for function cache_pending_invalidations")


def test_anothers_lease_is_like_one_that_does_not_exist(attacked):
    """With the lease itself, which a tenant cannot guess."""
    unknown = str(uuid.uuid4())
    statements = ["SELECT cache_release('{}')", "SELECT cache_release('{}', failed => true, retry_after => '1 day')",
                  "SELECT cache_extend_lease('{}', '1 day')", "SELECT cache_upsert('" + BOB + "', 't', 'alices', '1', lease => '{}')"]
    for statement in statements:
        told = [outcome(attacked.bob, statement.format(lease), BOB) for lease in (attacked.lease, unknown)]
        assert told[0] == told[1], statement
    assert outcome(attacked.bob, f"SELECT cache_end_leases('{ALICE}')", BOB) == [(0,)]
    assert outcome(attacked.bob, f"SELECT cache_end_leases('{ALICE}', 't')", BOB, "anon") == [(0,)]
    assert leases(attacked.service) == [(ALICE, "t", "held")]
    with acting(attacked.alice, ALICE):
        assert upsert(attacked.alice, '"text"', KEY, lease=attacked.lease) is not None


def test_a_fetch_for_another_user_is_refused_before_any_lock(attacked):
    """While the tables are locked against everybody, whether the key is held, stored, or neither."""
    upsert(attacked.service, '"text"', (ALICE, "t", "stored"))
    # So that the session knows the catalog.
    outcome(attacked.bob, f"SELECT cache_fetch('{BOB}', 't', 'k')", BOB)
    with attacked.service.transaction():
        attacked.service.execute(f"LOCK {CACHE}, cache_content_policies IN ACCESS EXCLUSIVE MODE")
        attacked.bob.execute("SET statement_timeout = '5s'")
        told = {outcome(attacked.bob, f"SELECT cache_fetch('{ALICE}', 't', '{key}', '10 seconds')", BOB) for key in ("alices", "stored", "missing")}
    [(sqlstate, message, *_)] = told
    assert (sqlstate, message) == ("42501", "an entry of another user cannot be written")


def test_a_fetch_for_another_user_takes_as_long_whatever_there_is(attacked):
    """Medians of calls in turn; what is held or stored would take an index scan and a visit to shared memory more."""
    upsert(attacked.service, '"text"', (ALICE, "t", "stored"))
    took = {"alices": [], "stored": [], "missing": []}
    with attacked.bob.transaction():
        attacked.bob.execute("SELECT set_config('request.jwt.claims', %s, true)", ('{"sub": "%s"}' % BOB,))
        attacked.bob.execute("SET LOCAL ROLE authenticated")
        attacked.bob.execute("CREATE FUNCTION pg_temp.told(k text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM cache_fetch('" + ALICE + "', 't', k); "
                             "EXCEPTION WHEN insufficient_privilege THEN RETURN sqlerrm; END $$")
        for _ in range(300):
            for key, times in took.items():
                begun = time.perf_counter()
                attacked.bob.execute("SELECT pg_temp.told(%s)", (key,))
                times.append(time.perf_counter() - begun)
    medians = [sorted(times)[len(times) // 2] for times in took.values()]
    assert max(medians) < 1.5 * min(medians)


def test_what_a_tenant_invalidates_keeps_no_answer_of_another_out(attacked):
    """A flood of all that a tenant may call, while another generates and stores."""
    stop = threading.Event()

    def flood():
        number = 0
        while not stop.is_set():
            number += 1
            with acting(attacked.bob, BOB):
                for call in (f"cache_invalidate('{BOB}', 't', 'k{number}')", f"cache_invalidate('{BOB}', 't', 'alices')",
                             f"cache_invalidate_content_type('{BOB}', 't')", f"cache_invalidate_dependents('{BOB}', 'f')",
                             f"""cache_invalidate_where('{BOB}', '{{"a": 1}}')""", f"cache_end_leases('{BOB}')",
                             # Those of Alice's do nothing.
                             f"cache_invalidate('{ALICE}', 't', 'alices')", f"cache_invalidate_content_type('{ALICE}', 't')",
                             f"cache_invalidate_dependents('{ALICE}', 'f')", f"""cache_invalidate_where('{ALICE}', '{{"a": 1}}')""",
                             f"cache_end_leases('{ALICE}')"):
                    attacked.bob.execute(f"SELECT {call}")
        return number

    def store():
        try:
            for number in range(60):
                key = (ALICE, "t", str(number))
                with acting(attacked.alice, ALICE):
                    found = fetch(attacked.alice, key, foundation_dependency="f")
                assert found.lease is not None
                time.sleep(0.01)
                with acting(attacked.alice, ALICE):
                    assert upsert(attacked.alice, '"text"', key, lease=found.lease, foundation_dependency="f", metadata='{"a": 1}') is not None
        finally:
            stop.set()

    rounds, _ = together(flood, store)
    assert rounds > 20


def test_what_a_tenant_leaves_pending_keeps_no_answer_of_another_out(attacked):
    """Idle in its transaction, with more invalidations than its list has places."""
    with acting(attacked.bob, BOB):
        for number in range(40):
            attacked.bob.execute("SELECT cache_invalidate(%s, 't', %s)", (BOB, f"k{number}"))
            attacked.bob.execute("SELECT cache_invalidate_dependents(%s, %s)", (BOB, f"f{number}"))
        with acting(attacked.alice, ALICE):
            assert fetch(attacked.alice, (ALICE, "t", "k1")).lease is not None
        with acting(attacked.alice, ALICE):
            assert upsert(attacked.alice, '"text"', KEY, lease=attacked.lease) is not None


@pytest.mark.parametrize("call", ["cache_invalidate('{}', 't', 'k')", "cache_end_leases('{}')"])
def test_a_tenant_that_sets_its_own_claims_reaches_no_more_users_than_it_names(attacked, call):
    """With the claims of more users than its list has places."""
    bob = attacked.bob
    users = [f"00000000-0000-4000-8000-{number:012}" for number in range(17)]
    bob.execute("BEGIN; SET LOCAL ROLE authenticated; SELECT set_config('request.jwt.claims', '', true)")
    for user in users[:16]:
        bob.execute(f"SET LOCAL infinite_pages_cache.user_id = '{user}'; SELECT {call.format(user)}")
    bob.execute("SAVEPOINT filled")
    with pytest.raises(psycopg.errors.ProgramLimitExceeded) as raised:
        bob.execute(f"SET LOCAL infinite_pages_cache.user_id = '{users[16]}'; SELECT {call.format(users[16])}")
    told = raised.value.diag
    assert (told.message_primary, told.message_detail, told.message_hint) == (
        "too many users in one transaction",
        "A role that may not delete every user's entries can invalidate those of 16 users in one transaction.",
        "Use a transaction for each user.")
    bob.execute("ROLLBACK TO filled")
    # More of the same user has a place.
    bob.execute(f"SET LOCAL infinite_pages_cache.user_id = '{users[0]}'; SELECT cache_invalidate('{users[0]}', 't', 'another')")
    with acting(attacked.alice, ALICE):
        assert fetch(attacked.alice, (ALICE, "t", "k1")).lease is not None
    bob.execute("COMMIT")
    with acting(attacked.alice, ALICE):
        assert upsert(attacked.alice, '"text"', KEY, lease=attacked.lease) is not None


def test_a_tenants_leases_are_in_nobodys_way(attacked):
    """One that takes all that it can get leaves others room."""
    granted = attacked.service.execute("SHOW infinite_pages_cache.max_leases").fetchone()[0]
    with acting(attacked.bob, BOB):
        [(taken,)] = attacked.bob.execute("SELECT count(f.lease) FROM generate_series(1, %s::int) n, cache_fetch(%s, 't', n::text) f",
                                          (granted, BOB)).fetchall()
        assert 0 < taken < int(granted)
    with acting(attacked.alice, ALICE):
        assert fetch(attacked.alice, (ALICE, "t", "one more")).lease is not None
    with acting(attacked.bob, BOB):
        attacked.bob.execute("SELECT cache_end_leases(%s)", (BOB,))


def test_what_a_tenants_fetch_tells_of_a_key_does_not_depend_on_anothers_same_key(attacked):
    """Not on a lease, an answer, a failure or a pending invalidation."""
    def told():
        with acting(attacked.bob, BOB, keep=False):
            found = fetch(attacked.bob, (BOB, "t", "alices"))
        return found._replace(lease=found.lease is not None)

    expected = told()
    assert expected.state == "generate" and expected.lease
    release(attacked.service, attacked.lease, failed=True, retry_after="1 hour")
    assert told() == expected
    upsert(attacked.service, '"text"', KEY)
    assert told() == expected
    with acting(attacked.alice, ALICE):
        attacked.alice.execute("SELECT cache_invalidate(%s, %s, %s)", KEY)
        assert told() == expected


def test_leases_cannot_be_guessed(attacked):
    """Their random bits differ from lease to lease, and no bit is always the same but those of the uuid's form."""
    keys = [(ALICE, "t", f"k{number}") for number in range(400)]
    drawn = [int.from_bytes(fetch(attacked.service, key).lease.bytes[4:], "big") for key in keys]
    assert len(set(drawn)) == len(drawn)
    always, never = (1 << 96) - 1, 0
    for bits in drawn:
        always, never = always & bits, never | bits
    fixed = bin(always | ~never & ((1 << 96) - 1)).count("1")
    # Four of the version and two of the variant.
    assert fixed == 6
    attacked.service.execute("SELECT cache_end_leases(%s)", (ALICE,))


def test_a_lease_does_not_tell_how_many_others_have(attacked):
    """Slots are given out in turn, so a lease that named its slot as it is would tell."""
    drawn = [int.from_bytes(fetch(attacked.service, (BOB, "t", f"k{number}")).lease.bytes[:4], "big") for number in range(20)]
    # Twenty random numbers of 32 bits; one in 10^50 draws fails.
    assert max(drawn) > 1 << 24
    attacked.service.execute("SELECT cache_end_leases(%s)", (BOB,))


def test_a_tenants_function_gets_no_lease_of_another_by_waiting(attacked):
    """A wait is for the own key only; what ends meanwhile is not told."""
    with acting(attacked.bob, BOB):
        assert fetch(attacked.bob, (BOB, "t", "alices")).state == "generate"
    begun = time.monotonic()

    def wait():
        with acting(attacked.bob, BOB):
            return fetch(attacked.bob, (BOB, "t", "alices"), wait="1 second")

    found, _ = together(wait, lambda: [wait_until(lambda: attacked.service.execute("SELECT sum(waiters) FROM cache_leases").fetchone() == (1,)),
                                       release(attacked.service, attacked.lease)])
    assert found.state == "wait" and time.monotonic() - begun >= 1
