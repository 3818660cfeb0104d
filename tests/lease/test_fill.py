"""An answer is stored with the lease that it was generated with: what is in order is stored and ends the lease, what is not is refused,
says why, and changes nothing."""

import uuid

import psycopg
import pytest

from harness.calls import entry, upsert_many
from harness.cluster import Cluster
from harness.database import Database
from harness.entries import ALICE, BOB, CACHE, KEY, count, lookup, upsert
from harness.errors import notices_to, sqlstate_of
from harness.leases import fetch, leases, release, set_policy
from harness.roles import acting, temporary_roles

MESSAGE = "the answer was not stored"
ENDED = ("01000", MESSAGE, "The lease is unknown or has ended.", "Call cache_fetch() again.")
OUTDATED = ("01000", MESSAGE, "What it was made from has been invalidated since its lease was granted.", "Generate it anew: call cache_fetch().")
IN_USE = ("01000", MESSAGE, "Another transaction is storing with this lease.", "Call cache_fetch() again.")
NOT_ACCEPTED = ("01000", MESSAGE, 'The accept_if of content type "story_foundation" is not true of it: NULL.',
                "Generate it anew, or change accept_if in cache_content_policies.")
OTHER_ENTRY = ("22023", "the lease is of another entry", "It was granted for another content_type or cache_key.",
               "Pass the lease with the key that it was fetched for.")
OTHER_FOUNDATION = ("22023", "foundation_dependency is not that of the lease", "The lease was granted for another foundation.",
                    "Name the same foundation in cache_fetch() and cache_upsert().")


@pytest.fixture
def one(database):
    with database.connect() as connection:
        connection.notices = notices_to(connection)
        yield connection


@pytest.fixture
def other(database):
    with database.connect(autocommit=False) as connection:
        connection.notices = notices_to(connection)
        yield connection


def granted(connection, key=KEY, **arguments):
    found = fetch(connection, key, **arguments)
    assert found.lease is not None, found
    return found.lease


def invalidate(connection, key=KEY):
    return connection.execute("SELECT cache_invalidate(%s, %s, %s)", key).fetchone()[0]


def refusal(connection, **arguments):
    """The fields of the error of an upsert."""
    error = sqlstate_of(lambda: upsert(connection, "2", **arguments))
    return error.sqlstate, error.message_primary, error.message_detail, error.message_hint


def refused(database, connection, notice, key=KEY, **arguments):
    """Check that an answer is not stored, and why, and that nothing has changed."""
    before = database.contents()
    connection.notices.clear()
    assert upsert(connection, '"refused"', key, **arguments) is None
    assert connection.notices == [notice]
    if not connection.autocommit:
        connection.commit()
    assert database.contents() == before


def test_what_is_in_order_is_stored_and_ends_the_lease(database, one):
    lease = granted(one)
    assert upsert(one, "1", lease=lease) is not None
    assert (one.notices, leases(one), lookup(one)) == ([], [], 1)
    assert fetch(one).state == "hit"


@pytest.mark.parametrize("lease", ["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff", str(uuid.uuid4()),
                                   "00000001-0000-8000-8000-000000000000", ALICE])
def test_a_lease_that_nobody_was_granted_stores_nothing(database, one, lease):
    granted(one)
    refused(database, one, ENDED, lease=lease)
    assert [state for *_, state in leases(one)] == ["held"]


def test_a_guess_beside_a_lease_stores_nothing(database, one):
    """Each of its bits counts."""
    lease = granted(one).int
    before = database.contents()
    for bit in range(128):
        assert upsert(one, '"forged"', lease=str(uuid.UUID(int=lease ^ 1 << bit))) is None
    assert database.contents() == before
    assert upsert(one, "1", lease=str(uuid.UUID(int=lease))) is not None


def test_a_lease_that_was_used_stores_nothing(database, one):
    lease = granted(one)
    upsert(one, "1", lease=lease)
    refused(database, one, ENDED, lease=lease)


def test_a_lease_that_was_given_back_stores_nothing(database, one):
    for failed in (False, True):
        lease = granted(one, (ALICE, "t", str(failed)))
        assert release(one, lease, failed=failed)
        refused(database, one, ENDED, (ALICE, "t", str(failed)), lease=lease)


def test_a_lease_is_used_twice_in_a_transaction(database, one, other):
    """The last answer counts, as without a lease."""
    lease = granted(one)
    first = upsert(other, "1", lease=lease)
    assert upsert(other, "2", lease=lease) == first
    other.commit()
    assert (lookup(one), leases(one), count(database)) == (2, [], 1)


def test_a_lease_with_which_another_transaction_stores_is_in_use(database, one, other):
    lease = granted(one)
    upsert(other, "1", lease=lease)
    refused(database, one, IN_USE, lease=lease)
    other.rollback()
    assert upsert(one, "2", lease=lease) is not None


def test_another_users_lease_is_an_unknown_one(database, one):
    bobs = granted(one, (BOB, *KEY[1:]))
    refused(database, one, ENDED, lease=bobs)
    assert upsert(one, "1", (BOB, *KEY[1:]), lease=bobs) is not None


def test_a_tenant_cannot_use_anothers_lease(database, roles):
    database.execute("SELECT cache_grant_tenant('authenticated')")
    with database.connect() as connection:
        notices = notices_to(connection)
        with acting(connection, BOB):
            lease = granted(connection, (BOB, "t", "k"))
        with acting(connection, ALICE):
            assert upsert(connection, "1", (ALICE, "t", "k"), lease=lease) is None
            assert notices == [ENDED]
        with pytest.raises(psycopg.errors.InsufficientPrivilege), acting(connection, ALICE):
            upsert(connection, "1", (BOB, "t", "k"), lease=lease)
        with acting(connection, BOB):
            assert upsert(connection, "1", (BOB, "t", "k"), lease=lease) is not None


@pytest.mark.parametrize("key", [(*KEY[:2], "other"), (ALICE, "other", KEY[2])])
def test_a_lease_of_another_entry_is_a_mistake(database, one, key):
    lease = granted(one)
    before = database.contents()
    assert refusal(one, key=key, lease=lease) == OTHER_ENTRY
    assert database.contents() == before
    assert upsert(one, "1", lease=lease) is not None


@pytest.mark.parametrize("foundation", ["other", "", None])
def test_the_foundation_must_be_that_of_the_lease(database, one, foundation):
    lease = granted(one, foundation_dependency="f")
    before = database.contents()
    assert refusal(one, lease=lease, foundation_dependency=foundation) == OTHER_FOUNDATION
    assert database.contents() == before
    assert upsert(one, "1", lease=lease, foundation_dependency="f") is not None


def test_a_lease_without_a_foundation_stores_with_any(one):
    lease = granted(one)
    assert upsert(one, "1", lease=lease, foundation_dependency="f") is not None


def test_what_was_invalidated_since_the_grant_is_not_stored(database, one):
    lease = granted(one)
    invalidate(one)
    refused(database, one, OUTDATED, lease=lease)
    # The next one reads what is there now.
    assert upsert(one, "2", lease=granted(one)) is not None


def test_what_is_being_invalidated_is_not_stored(database, one, other):
    lease = granted(one)
    invalidate(other)
    refused(database, one, OUTDATED, lease=lease)
    other.rollback()
    # It was not, after all.
    assert upsert(one, "1", lease=lease) is not None


def test_an_answer_that_is_invalidated_before_its_commit_fails_with_it(database, one, other):
    lease = granted(one)
    upsert(other, "1", lease=lease)
    # The entry is not there yet, so there is no row to wait for.
    assert invalidate(one) == 0
    error = sqlstate_of(other.commit)
    assert (error.sqlstate, error.message_primary) == ("40001", "could not store the answer because of a concurrent invalidation")
    assert error.message_detail and error.message_hint == "Call cache_fetch() again."
    assert count(database) == 0


def test_what_the_time_of_its_lease_is_over_for_is_stored_while_nobody_else_has_one(database):
    set_policy(database, lease_ttl="1 second")
    with database.connect() as connection:
        lease = granted(connection)
        connection.execute("SELECT pg_sleep(1.1)")
        assert [state for *_, state in leases(connection)] == ["over"]
        assert upsert(connection, "1", lease=lease) is not None


def test_the_rules_of_an_upsert_come_before_the_lease(database, one):
    lease = granted(one)
    assert refusal(one, lease=lease, priority_tier=4)[:2] == ("22023", "priority_tier must be 1 (high), 2 or 3 (low)")
    assert upsert(one, "1", lease=lease) is not None


def test_a_lease_that_is_no_uuid_is_no_value(database, one):
    assert refusal(one, lease="x")[0] == "22P02"


def test_without_a_lease_an_answer_is_stored_whatever_was_invalidated(database, one, other):
    granted(one)
    invalidate(one)
    assert upsert(one, "1") is not None
    assert upsert(one, "2", lease=None) is not None


def test_while_the_cache_is_off_nothing_is_stored_and_the_lease_stays(database, one):
    lease = granted(one)
    one.execute("SET infinite_pages_cache.enabled = off")
    assert upsert(one, "1", lease=lease) is None and one.notices == []
    one.execute("SET infinite_pages_cache.enabled = on")
    assert upsert(one, "1", lease=lease) is not None


def test_refusals_and_generations_are_counted(database, one, other):
    def counted():
        return database.execute("SELECT refused_fills, refused_by_gate, generations FROM cache_statistics() WHERE content_type = 'chapter_content'")[0]

    key = (ALICE, "chapter_content", "k")
    lease = granted(one, key)
    upsert(other, "1", key, lease=lease)
    other.rollback()
    assert counted() == (0, 0, 0)
    upsert(other, "1", key, lease=lease)
    other.commit()
    assert counted() == (0, 0, 1)
    # Whatever becomes of the transaction: somebody has paid for the answer.
    assert upsert(other, "1", key, lease=lease) is None
    other.rollback()
    assert counted() == (1, 0, 1)
    # One that is refused at its commit, with another that would have been stored.
    for name in ("a", "b"):
        upsert(other, "1", (*key[:2], name), lease=granted(one, (*key[:2], name)))
    invalidate(one, (*key[:2], "a"))
    assert sqlstate_of(other.commit).sqlstate == "40001"
    assert counted() == (2, 0, 1)


# ── invalidations of the transaction itself ──────────────────────────────────────────────────────

AFTERWARDS = {
    "what has other metadata": [f"""cache_invalidate_where('{ALICE}', '{{"kind": "chapter"}}')"""],
    "what was made from it": [f"cache_invalidate_dependents('{ALICE}', 'k')"],
    # So many become one of the user.
    "forty other keys": [f"cache_invalidate('{ALICE}', 'chapter', '{number}')" for number in range(40)],
}


@pytest.mark.parametrize("what", AFTERWARDS)
def test_a_transaction_that_stores_and_then_invalidates_something_else_commits(database, one, other, what):
    """What it has stored was there when it deleted what it has invalidated."""
    lease = granted(one)
    assert upsert(other, "1", lease=lease, metadata='{"kind": "foundation"}') is not None
    for call in AFTERWARDS[what]:
        other.execute(f"SELECT {call}")
    other.commit()
    assert (lookup(one), leases(one)) == (1, [])


def test_a_transaction_that_stores_and_then_invalidates_that_leaves_nothing(database, one, other):
    lease = granted(one)
    assert upsert(other, "1", lease=lease) is not None
    assert invalidate(other) == 1
    # It was granted before that.
    assert upsert(other, "2", lease=lease) is None
    other.commit()
    assert (count(database), leases(one)) == (0, [])


# ── rollback and savepoints ──────────────────────────────────────────────────────────────────────

def test_a_rollback_gives_the_lease_back(one, other):
    lease = granted(one)
    upsert(other, "1", lease=lease)
    assert [state for *_, state in leases(one)] == ["storing"]
    other.rollback()
    assert [state for *_, state in leases(one)] == ["held"]
    assert upsert(one, "2", lease=lease) is not None


def test_a_savepoint_that_is_rolled_back_gives_the_lease_back(one, other):
    lease = granted(one)
    other.execute("SAVEPOINT a")
    upsert(other, "1", lease=lease)
    other.execute("ROLLBACK TO a")
    assert [state for *_, state in leases(one)] == ["held"]
    assert upsert(one, "2", lease=lease) is not None
    other.commit()
    assert lookup(one) == 2


def test_a_savepoint_that_is_released_hands_the_answer_on(one, other):
    lease = granted(one)
    other.execute("SAVEPOINT a; SAVEPOINT b")
    upsert(other, "1", lease=lease)
    other.execute("RELEASE b; SAVEPOINT c; ROLLBACK TO c; RELEASE a")
    other.commit()
    assert (lookup(one), leases(one)) == (1, [])


def test_an_upsert_that_fails_after_its_lease_gives_it_back(database, one):
    database.execute("CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'no'; END$$; "
                     f"CREATE TRIGGER fail BEFORE INSERT ON {CACHE} FOR EACH ROW WHEN (NEW.content = '1') EXECUTE FUNCTION fail()")
    lease = granted(one)
    assert sqlstate_of(lambda: upsert(one, "1", lease=lease)).sqlstate == "P0001"
    assert upsert(one, "2", lease=lease) is not None


# ── batches ──────────────────────────────────────────────────────────────────────────────────────

def batch(connection, *entries):
    return connection.execute(upsert_many(*entries)).fetchone()[0]


def test_of_a_batch_what_is_refused_is_null_and_the_rest_is_stored(database, one, other):
    keys = ["good", "outdated", "used", "in use", "unknown", "without"]
    given = {key: str(granted(one, (ALICE, "t", key))) for key in keys[:4]}
    invalidate(one, (ALICE, "t", "outdated"))
    upsert(one, "1", (ALICE, "t", "used"), lease=given["used"])
    upsert(other, "1", (ALICE, "t", "in use"), lease=given["in use"])
    given["unknown"] = str(uuid.uuid4())
    ids = batch(one, *({**entry(cache_key=key), **({"lease": given[key]} if key in given else {})} for key in keys))
    assert [one_id is not None for one_id in ids] == [True, False, False, False, False, True]

    def at(position, notice):
        return (*notice[:2], f"Entry {position} of the batch: {notice[2]}", notice[3])

    assert sorted(one.notices) == sorted([at(2, OUTDATED), at(3, ENDED), at(4, IN_USE), at(5, ENDED)])
    assert lookup(one, (ALICE, "t", "used")) == 1
    assert [lookup(one, (ALICE, "t", key)) for key in keys] == [2, None, 1, None, None, 2]


def test_of_a_key_that_stands_twice_the_last_lease_counts(database, one):
    lease = str(granted(one, (ALICE, "t", "new")))
    assert batch(one, entry(lease=lease), entry(lease=str(uuid.uuid4()))) == [None, None]
    first, last = batch(one, entry(lease=str(uuid.uuid4())), entry(lease=lease))
    assert first == last is not None


@pytest.mark.parametrize("lease, sqlstate, message", [
    ("x", "22P02", "lease must be a uuid"), (1, "22P02", "lease must be a uuid"), ({}, "22P02", "lease must be a uuid")])
def test_a_lease_in_a_batch_that_is_no_uuid_is_refused_with_its_position(database, one, lease, sqlstate, message):
    error = sqlstate_of(lambda: batch(one, entry(cache_key="a"), entry(lease=lease)))
    assert (error.sqlstate, error.message_primary) == (sqlstate, message) and error.message_detail.startswith("Entry 2 of the batch: ")
    assert count(database) == 0


def test_a_lease_of_another_entry_fails_the_batch_and_says_where(database, one):
    lease = str(granted(one, (ALICE, "t", "a")))
    error = sqlstate_of(lambda: batch(one, entry(cache_key="a", lease=lease), entry(cache_key="b", lease=lease)))
    assert (error.sqlstate, error.message_primary, error.message_detail) == (
        "22023", OTHER_ENTRY[1], f"Entry 2 of the batch: {OTHER_ENTRY[2]}")
    assert count(database) == 0
    # What the batch had begun to store is given back.
    assert batch(one, entry(cache_key="a", lease=lease)) != [None]


def test_without_preload_no_lease_is_known_and_all_else_works():
    cluster = Cluster({"shared_preload_libraries": ""})
    try:
        database = Database(cluster)
        set_policy(database, accept_if="$ == 1")
        with database.connect() as connection:
            connection.notices = notices_to(connection)
            lease = str(uuid.uuid4())
            refused(database, connection, NOT_ACCEPTED, lease=lease)
            assert upsert(connection, "1", lease=lease) is None and connection.notices[-1] == ENDED
            assert upsert(connection, "1") is not None
            assert [run(connection, kind) for kind in INVALIDATIONS] == [1, 0, 0, 0]
            assert connection.execute("SELECT cache_invalidate_content_type_for_all_users('t')").fetchone() == (0,)
            assert connection.execute("SELECT entries_deleted FROM cache_forget_user(%s)", (ALICE,)).fetchone() == (0,)
    finally:
        cluster.remove()


def test_a_lease_that_is_null_is_none(one):
    assert batch(one, entry(lease=None)) != [None]


# ── the quality gate ─────────────────────────────────────────────────────────────────────────────

def test_an_answer_that_is_not_worth_keeping_fails_its_lease_for_five_seconds(database, one, other):
    set_policy(database, accept_if="$ == 1")
    lease = granted(one)
    assert upsert(other, "2", lease=lease) is None
    # At once, whatever becomes of the transaction.
    other.rollback()
    found = fetch(one)
    assert found.state == "failed" and 0 < found.retry_after.total_seconds() <= 5
    one.notices.clear()
    assert upsert(one, "1", lease=lease) is None and one.notices == [ENDED]


def test_an_answer_that_is_not_worth_keeping_leaves_anothers_lease_alone(database, one):
    set_policy(database, accept_if="$ == 1")
    bobs, of_other_key = granted(one, (BOB, *KEY[1:])), granted(one, (*KEY[:2], "other"))
    for lease in (bobs, of_other_key, str(uuid.uuid4())):
        assert upsert(one, "2", lease=lease) is None
    assert sorted(state for *_, state in leases(one)) == ["held", "held"]


def test_a_second_answer_that_is_not_worth_keeping_leaves_the_first(database, one, other):
    set_policy(database, accept_if="$ == 1")
    lease = granted(one)
    assert upsert(other, "1", lease=lease) is not None
    assert upsert(other, "2", lease=lease) is None
    other.commit()
    assert lookup(one) == 1


# ── who reaches the fence ────────────────────────────────────────────────────────────────────────

INVALIDATIONS = {
    "key": "cache_invalidate('{user}', 'story_foundation', 'k')",
    "type": "cache_invalidate_content_type('{user}', 'story_foundation')",
    "where": """cache_invalidate_where('{user}', '{{"genre": "noir"}}')""",
    "dependents": "cache_invalidate_dependents('{user}', 'f')",
}
ARGUMENTS = {"metadata": '{"genre": "noir"}', "foundation_dependency": "f"}
each_way = pytest.mark.parametrize("kind", INVALIDATIONS)


def run(connection, kind, user=ALICE):
    return connection.execute(f"SELECT {INVALIDATIONS[kind].format(user=user)}").fetchone()[0]


@pytest.fixture
def tenants(database, roles):
    database.execute("SELECT cache_grant_tenant('authenticated'), cache_grant_service('service_role')")
    return database


@each_way
@pytest.mark.parametrize("role, acting_user, is_fenced", [
    ("authenticated", ALICE, True), ("service_role", ALICE, True), ("service_role", BOB, True), ("postgres", None, True),
    ("authenticated", BOB, False), ("authenticated", None, False)])
def test_who_may_delete_the_entries_keeps_answers_out_and_nobody_else(tenants, one, kind, role, acting_user, is_fenced):
    lease = granted(one, foundation_dependency="f")
    with tenants.connect() as connection:
        with acting(connection, acting_user, role):
            assert run(connection, kind) == 0
    assert (upsert(one, "1", lease=lease, **ARGUMENTS) is None) == is_fenced


@each_way
def test_what_a_tenant_does_not_delete_is_not_pending(tenants, one, kind):
    """Also while its transaction is open."""
    lease = granted(one, foundation_dependency="f")
    with tenants.connect() as connection, acting(connection, BOB, keep=False):
        assert run(connection, kind) == 0
        assert one.execute("SELECT count(*) FROM cache_pending_invalidations()").fetchone() == (0,)
        assert upsert(one, "1", lease=lease, **ARGUMENTS) is not None


@each_way
def test_a_role_whose_rights_an_own_policy_decides_keeps_out_only_answers_of_its_own_user(tenants, one, kind):
    """Only a statement could tell whether it may delete the entries of others."""
    with temporary_roles(tenants.cluster, "team"):
        tenants.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {CACHE} TO team; GRANT SELECT ON cache_content_policies TO team; "
                        f"CREATE POLICY of_the_team ON {CACHE} TO team USING (content_type <> 'secret')")
        of_alice, of_bob = (granted(one, (user, *KEY[1:]), foundation_dependency="f") for user in (ALICE, BOB))
        upsert(one, "0", (BOB, KEY[1], "k2"), **ARGUMENTS)
        with tenants.connect() as connection, acting(connection, ALICE, "team"):
            assert run(connection, kind) == 0
            assert run(connection, kind, BOB) == (0 if kind == "key" else 1)
        assert upsert(one, "1", lease=of_alice, **ARGUMENTS) is None
        assert upsert(one, "1", (BOB, *KEY[1:]), lease=of_bob, **ARGUMENTS) is not None


@each_way
@pytest.mark.parametrize("right", ["SELECT", "DELETE", "UPDATE"])
def test_a_role_without_the_privilege_reaches_no_fence(tenants, one, kind, right):
    lease = granted(one, foundation_dependency="f")
    tenants.execute(f"REVOKE {right} ON {CACHE} FROM authenticated")
    with tenants.connect() as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege), acting(connection, ALICE):
            run(connection, kind)
    assert upsert(one, "1", lease=lease, **ARGUMENTS) is not None


@each_way
def test_a_role_that_may_read_single_columns_keeps_answers_of_its_user_out(tenants, one, kind):
    """It deletes entries, though it may not read every column."""
    with temporary_roles(tenants.cluster, "narrow"):
        columns = "user_id, content_type, cache_key, created_at, id, metadata, foundation_dependency"
        tenants.execute(f"GRANT SELECT ({columns}), UPDATE, DELETE ON {CACHE} TO narrow; GRANT SELECT ON cache_content_policies TO narrow")
        lease = granted(one, foundation_dependency="f")
        # Somebody else has stored it without a lease, or another entry like it.
        upsert(one, "0", (*KEY[:2], "k" if kind == "key" else "k2"), **ARGUMENTS)
        with tenants.connect() as connection, acting(connection, ALICE, "narrow"):
            assert run(connection, kind) == 1
        assert upsert(one, "1", lease=lease, **ARGUMENTS) is None


def test_an_invalidation_of_all_users_keeps_every_users_answers_of_the_type_out(tenants, one):
    of_type = [granted(one, (user, "t", "k")) for user in (ALICE, BOB)]
    of_other = granted(one, (ALICE, "other", "k"))
    with tenants.connect() as connection:
        with acting(connection, ALICE, "authenticated"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("SELECT cache_invalidate_content_type_for_all_users('t')")
    with tenants.connect(autocommit=False) as connection:
        connection.execute("SELECT cache_invalidate_content_type_for_all_users('t')")
        assert [upsert(one, "1", (user, "t", "k"), lease=lease) for user, lease in zip((ALICE, BOB), of_type)] == [None, None]
        connection.rollback()
    with tenants.connect() as connection:
        with acting(connection, None, "service_role"):
            connection.execute("SELECT cache_invalidate_content_type_for_all_users('t')")
    assert [upsert(one, "1", (user, "t", "k"), lease=lease) for user, lease in zip((ALICE, BOB), of_type)] == [None, None]
    assert upsert(one, "1", (ALICE, "other", "k"), lease=of_other) is not None


@pytest.mark.parametrize("kept", [True, False])
def test_an_erasure_keeps_the_users_answers_out(tenants, one, kept):
    mine, bobs = granted(one), granted(one, (BOB, *KEY[1:]))
    with tenants.connect() as connection:
        with acting(connection, None, "service_role", keep=kept):
            connection.execute("SELECT * FROM cache_forget_user(%s)", (ALICE,))
    assert (upsert(one, "1", lease=mine) is None) == kept
    assert upsert(one, "1", (BOB, *KEY[1:]), lease=bobs) is not None
