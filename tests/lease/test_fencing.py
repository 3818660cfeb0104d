"""No answer is stored that is older than a committed edit whose transaction has invalidated it: in whatever order the statements of
real sessions come, at each isolation level, whatever function invalidates, with savepoints and in transactions of all kinds."""

import itertools
import random
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet

import psycopg
import pytest

from harness.cluster import Cluster
from harness.database import Database
from harness.entries import ALICE, BOB, lookup, upsert
from harness.errors import sqlstate_of
from harness.interleaving import HIGHER, LEVELS, READ_COMMITTED, Watched
from harness.leases import expire, fetch, leases, release, set_policy
from harness.waiting import is_waiting, timed, wait_until

TYPE, FOUNDATION = "story_foundation", "the foundation"
BOOK = '{"book": 1}'
INVALIDATIONS = {
    "cache_invalidate": "cache_invalidate(%(user)s, %(type)s, %(key)s)",
    "cache_invalidate_content_type": "cache_invalidate_content_type(%(user)s, %(type)s)",
    "cache_invalidate_where": "cache_invalidate_where(%(user)s, %(metadata)s)",
    "cache_invalidate_dependents": "cache_invalidate_dependents(%(user)s, %(foundation)s)",
    "cache_invalidate_content_type_for_all_users": "cache_invalidate_content_type_for_all_users(%(type)s)",
    "cache_forget_user": "cache_forget_user(%(user)s)",
}
# What PostgreSQL raises where transactions cannot follow each other.
RETRY = {"40001", "40P01"}


class Client:
    """A client: its session, the lease that it has, and what it has read. Its steps can wait for others."""

    def __init__(self, world):
        self.world = world
        self.connection = world.database.connect(autocommit=True)
        self.connection.execute("SET deadlock_timeout = '50ms'")
        self.thread = ThreadPoolExecutor(1)

    def begin_round(self, key, program, level):
        self.key, self.level = (ALICE, TYPE, key), level
        self.lease = self.answer = self.running = None
        self.stored, self.is_gone = False, False
        self.steps = list(program)

    def is_idle(self):
        return self.running is None and (self.is_gone or not self.steps)

    def take_step(self):
        """Take the next step, or go on waiting in the one that has been begun."""
        if self.running is None:
            if self.is_idle():
                return
            step = self.steps.pop(0)
            self.running = self.thread.submit(step, self)
            deadline = 0.005
        else:
            deadline = 0
        while True:
            try:
                self.running.result(deadline)
            except NotYet:
                if is_waiting(self.world.database, self.connection):
                    return
                deadline = 0.005
                continue
            except psycopg.Error as error:
                assert error.sqlstate in RETRY, error
                self.connection.rollback()
                self.is_gone, self.stored = True, False
            self.running = None
            return

    def sql(self, statement, **arguments):
        arguments = {"user": ALICE, "type": TYPE, "key": self.key[2], "foundation": FOUNDATION, "metadata": BOOK, **arguments}
        cursor = self.connection.execute(statement, arguments)
        return cursor.fetchone()[0] if cursor.description else None

    def close(self):
        self.thread.shutdown()
        self.connection.close()


# ── steps ────────────────────────────────────────────────────────────────────────────────────────

def begin(client):
    client.connection.execute(f"BEGIN ISOLATION LEVEL {client.level}")
    # The levels above READ COMMITTED keep the snapshot of the first statement.
    client.connection.execute("SELECT 1")


def commit(client):
    client.connection.execute("COMMIT")


def rollback(client):
    client.connection.execute("ROLLBACK")


def savepoint(client):
    client.connection.execute("SAVEPOINT s")


def rollback_to(client):
    client.connection.execute("ROLLBACK TO s; RELEASE s")
    client.stored = False


def release_savepoint(client):
    client.connection.execute("RELEASE s")


def edit(client):
    client.sql("UPDATE source SET version = version + 1 WHERE key = %(key)s")


def get_lease(client):
    client.lease = fetch(client.connection, client.key, foundation_dependency=FOUNDATION).lease


def read(client):
    client.answer = client.sql("SELECT version FROM source WHERE key = %(key)s")


def fill(client):
    """Store with the lease, if there is one. Whoever has none does not store, because nothing would fence that."""
    if client.lease is not None:
        stored = upsert(client.connection, str(client.answer), client.key, lease=client.lease, metadata=BOOK, foundation_dependency=FOUNDATION)
        client.stored = stored is not None


def invalidating(function):
    def invalidate(client):
        client.sql(f"SELECT count(*) FROM {INVALIDATIONS[function]}")

    return invalidate


invalidate = invalidating("cache_invalidate_dependents")
GENERATOR = [get_lease, read, begin, fill, commit]
EDITOR = [begin, edit, invalidate, commit]
EDITORS = {
    "invalidates first": [begin, invalidate, edit, commit],
    "generates": [begin, edit, invalidate, get_lease, read, fill, commit],
    "has an older lease": [get_lease, read, begin, edit, invalidate, fill, commit],
    "fills first": [get_lease, read, begin, fill, edit, invalidate, commit],
    "is granted": [begin, edit, invalidate, get_lease, read, commit, fill],
    "rolls back": [begin, edit, invalidate, get_lease, read, rollback, fill],
    "rolls back to a savepoint": [begin, savepoint, edit, invalidate, get_lease, read, rollback_to, fill, commit],
    "invalidates in a savepoint": [begin, edit, savepoint, invalidate, release_savepoint, commit],
    "takes its invalidation back": [begin, savepoint, invalidate, rollback_to, commit],
}
GENERATORS = {
    "generator": GENERATOR,
    "generator with a savepoint": [get_lease, read, begin, savepoint, fill, rollback_to, fill, commit],
    "generator that releases a savepoint": [get_lease, read, begin, savepoint, fill, release_savepoint, commit],
}


class World:
    """Two clients, and an observer."""

    def __init__(self, cluster):
        self.database = Watched(cluster)
        self.database.execute("CREATE TABLE source (key text PRIMARY KEY, version int)")
        self.clients = [Client(self), Client(self)]
        self.keys = (f"k{number}" for number in itertools.count())

    def check(self, key, trace):
        found, version = self.database.execute(
            "SELECT cache_lookup(%s, %s, %s), version FROM source WHERE key = %s", (ALICE, TYPE, key, key))[0]
        assert found in (None, version), f"the answer was made from version {found}, and committed is {version}: {trace}"

    def play(self, programs, order, levels):
        """Let the clients take their steps in an order. Returns for each whether it has stored."""
        key = next(self.keys)
        self.database.execute("INSERT INTO source VALUES (%s, 1)", (key,))
        for client, program, level in zip(self.clients, programs, levels):
            client.begin_round(key, program, level)
        trace = []
        for number in order:
            client = self.clients[number]
            if client.steps and not client.is_idle():
                trace.append((number, client.steps[0].__name__))
            client.take_step()
            self.check(key, trace)
        # Steps that had to wait put the others off.
        for _ in range(1000):
            if all(client.is_idle() for client in self.clients):
                break
            for client in self.clients:
                client.take_step()
                self.check(key, trace)
        assert all(client.is_idle() for client in self.clients), f"they wait for each other: {trace}"
        for client in self.clients:
            if client.connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                client.connection.rollback()
        self.check(key, trace)
        assert self.left() == [], trace
        self.clean_up()
        return tuple(client.stored and not client.is_gone for client in self.clients)

    def left(self):
        """What is left of transactions in shared memory."""
        return self.database.execute("SELECT pid, subject FROM cache_pending_invalidations() UNION ALL "
                                     "SELECT storing_pid, state FROM cache_leases WHERE storing_pid IS NOT NULL OR waiters > 0")

    def clean_up(self):
        self.database.execute("SELECT cache_end_leases(%s)", (ALICE,))

    def close(self):
        for client in self.clients:
            client.close()
        self.database.kept.close()
        self.database.drop()


@pytest.fixture(scope="module")
def world(cluster):
    world = World(cluster)
    yield world
    world.close()


def orders(programs, most=70, seed=0):
    """Orders of the steps of two programs: all, or so many at random."""
    one, two = map(len, programs)
    all_orders = [[1 if number in chosen else 0 for number in range(one + two)] for chosen in itertools.combinations(range(one + two), two)]
    return all_orders if len(all_orders) <= most else random.Random(seed).sample(all_orders, most)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("function", INVALIDATIONS)
def test_whatever_invalidates_no_answer_is_outdated(world, function, level):
    programs = GENERATOR, [begin, edit, invalidating(function), commit]
    ends = {world.play(programs, order, (READ_COMMITTED, level)) for order in orders(programs, 40)}
    # One that comes before the edit is stored, and then removed; one that comes between is not.
    assert {(True, False), (False, False)} <= ends


@pytest.mark.parametrize("level", HIGHER)
def test_a_fill_at_a_higher_level_is_fenced_as_well(world, level):
    programs = GENERATOR, EDITOR
    ends = {world.play(programs, order, (level, READ_COMMITTED)) for order in orders(programs, 40)}
    assert {(True, False), (False, False)} <= ends


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("editor", EDITORS)
def test_whatever_two_do_no_answer_is_outdated(world, generator, editor):
    programs = GENERATORS[generator], EDITORS[editor]
    for order in orders(programs, 35):
        world.play(programs, order, (READ_COMMITTED, READ_COMMITTED))


@pytest.mark.parametrize("one, other", itertools.combinations(EDITORS, 2), ids=str)
def test_whatever_two_editors_do_no_answer_is_outdated(world, one, other):
    programs = EDITORS[one], EDITORS[other]
    for order in orders(programs, 12):
        world.play(programs, order, (READ_COMMITTED, READ_COMMITTED))


@pytest.mark.parametrize("program, stores", [
    (GENERATOR, True),
    (GENERATORS["generator with a savepoint"], True),
    (EDITORS["generates"], True),
    (EDITORS["has an older lease"], False),
    (EDITORS["is granted"], True),
    (EDITORS["rolls back"], False),
    (EDITORS["rolls back to a savepoint"], False),
])
def test_what_one_client_does_alone_is_stored_if_it_is_not_outdated(world, program, stores):
    assert world.play((program, []), [0] * len(program), (READ_COMMITTED, READ_COMMITTED)) == (stores, False)


# ── single cases ─────────────────────────────────────────────────────────────────────────────────

def key(number=0, user=ALICE):
    return (user, TYPE, f"key {number}")


def lease_of(connection, of=None, **arguments):
    fetched = fetch(connection, of or key(), **arguments)
    assert fetched.state in ("generate", "refresh") and fetched.lease is not None, fetched
    return fetched.lease


def is_stored(connection, lease, of=None, **arguments):
    return upsert(connection, '"answer"', of or key(), lease=lease, **arguments) is not None


def invalidate_key(connection, of):
    connection.execute("SELECT cache_invalidate(%s, %s, %s)", of)


@pytest.fixture
def two(database):
    """A client, and a session in a transaction."""
    with database.connect() as client, database.connect(autocommit=False) as other:
        yield client, other


def test_a_fill_waits_for_no_open_invalidation_of_a_row(database, two):
    """The invalidator has deleted the row, which the fill would have to wait for."""
    client, other = two
    set_policy(database, stale_ttl="1 day")
    upsert(client, '"old"', key())
    expire(database, "1 minute", key())
    with database.connect() as client:
        lease = lease_of(client)
        invalidate_key(other, key())
        client.execute("SET statement_timeout = '2s'")
        assert not is_stored(client, lease)
        other.rollback()
        assert is_stored(client, lease)


def test_an_invalidator_that_stays_idle_in_its_transaction_holds_up_nobody(database, two):
    client, other = two
    lease, of_bob = lease_of(client), lease_of(client, key(user=BOB))
    other.execute("SELECT cache_invalidate_content_type(%s, %s)", (ALICE, TYPE))
    client.execute("SET statement_timeout = '2s'")
    assert not is_stored(client, lease)
    # Nobody pays for an answer that would be refused, and nobody waits for one.
    found = fetch(client, key(1), wait="1 minute")
    assert (found.state, found.lease) == ("generate", None)
    assert is_stored(client, of_bob, key(user=BOB))
    assert lease_of(client, (ALICE, "another type", "k"))
    [(pid, subject)] = client.execute("SELECT pid, subject FROM cache_pending_invalidations()").fetchall()
    assert (pid, subject) == (other.info.backend_pid, "content type")
    other.rollback()
    assert client.execute("SELECT count(*) FROM cache_pending_invalidations()").fetchone() == (0,)
    assert is_stored(client, lease)


def test_many_keys_become_their_user_and_many_users_the_database(database, two):
    client, other = two
    users = [f"00000000-0000-4000-8000-{number:012}" for number in range(17)]
    of_alice, of_bob = lease_of(client, key("other")), lease_of(client, key("other", BOB))
    subjects = lambda: [row[0] for row in client.execute("SELECT subject FROM cache_pending_invalidations() ORDER BY 1").fetchall()]  # noqa: E731
    for number in range(16):
        invalidate_key(other, key(number))
    assert subjects() == ["key"] * 16
    assert lease_of(client, key("one more"))
    invalidate_key(other, key(16))
    assert subjects() == ["user"]
    assert fetch(client, key("yet one more")).lease is None
    assert not is_stored(client, of_alice, key("other")) and lease_of(client, key("one more", BOB))
    for user in users:
        invalidate_key(other, key(user=user))
    assert subjects()[0] == "database"
    assert fetch(client, key("yet one more", BOB)).lease is None
    other.rollback()
    # What was merged is taken back as a whole, and nothing was outdated.
    assert subjects() == []
    assert is_stored(client, of_alice, key("other")) and is_stored(client, of_bob, key("other", BOB))


def test_a_hundred_thousand_invalidations_in_a_transaction_hold_up_nobody(database, two):
    client, other = two
    of_alice, of_bob = lease_of(client, key("x")), lease_of(client, key("x", BOB))
    other.execute("SELECT count(cache_invalidate(%s, %s, 'n' || n)) FROM generate_series(1, 100000) n", (ALICE, TYPE))
    assert client.execute("SELECT count(*) <= 16 FROM cache_pending_invalidations()").fetchone() == (True,)
    assert is_stored(client, of_bob, key("x", BOB)) and not is_stored(client, of_alice, key("x"))
    assert timed(other.commit) < 1
    assert client.execute("SELECT count(*) FROM cache_pending_invalidations()").fetchone() == (0,)
    assert lease_of(client, key("y"))


def test_a_hundred_thousand_subtransactions_that_invalidate_take_no_quadratic_time(database, two):
    client, other = two
    loop = ("DO $$ BEGIN FOR n IN 1 .. %s LOOP BEGIN PERFORM cache_invalidate('" + ALICE + "', 't', 'n' || n); "
            "EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$")
    few, many = timed(lambda: other.execute(loop % 2000)), timed(lambda: other.execute(loop % 20000))
    assert many < 30 * few
    other.rollback()
    assert lease_of(client)


def test_an_edit_a_lease_and_a_fill_in_one_transaction_are_stored(database, two):
    client, other = two
    invalidate_key(other, key())
    lease = lease_of(other)
    assert is_stored(other, lease)
    other.commit()
    assert lookup(client, key()) == "answer"
    assert leases(client) == []


def test_a_transaction_that_invalidates_after_its_grant_stores_nothing(two):
    client, other = two
    lease = lease_of(other)
    invalidate_key(other, key())
    assert not is_stored(other, lease)
    other.commit()
    assert not is_stored(client, lease)


@pytest.mark.parametrize("call", ["cache_invalidate_dependents(%(user)s, %(foundation)s)", "cache_invalidate_where(%(user)s, %(metadata)s)"])
def test_a_transaction_does_not_fill_what_another_was_granted_under_its_invalidation(two, call):
    """The other one cannot have read what this one has not committed. It is granted the lease, because it may be filled with something else."""
    client, other = two
    arguments = {"user": ALICE, "foundation": FOUNDATION, "metadata": BOOK}
    other.execute(f"SELECT {call}", arguments)
    lease = lease_of(client)
    assert not is_stored(other, lease, foundation_dependency=FOUNDATION, metadata=BOOK)
    other.rollback()
    assert is_stored(client, lease, foundation_dependency=FOUNDATION, metadata=BOOK)


@pytest.mark.parametrize("function", INVALIDATIONS)
def test_a_transaction_that_removes_what_it_has_stored_commits(database, two, function):
    """Else its edit could never be committed, however often it is tried again."""
    client, other = two
    arguments = {"user": ALICE, "type": TYPE, "key": key()[2], "foundation": FOUNDATION, "metadata": BOOK}
    lease = lease_of(client, foundation_dependency=FOUNDATION)
    assert is_stored(other, lease, foundation_dependency=FOUNDATION, metadata=BOOK)
    other.execute(f"SELECT count(*) FROM {INVALIDATIONS[function]}", arguments)
    other.commit()
    assert lookup(client, key()) is None
    assert leases(client) == []


def test_an_invalidation_that_comes_before_the_commit_of_a_fill_refuses_it(two):
    client, other = two
    lease = lease_of(client)
    assert is_stored(other, lease)
    client.execute("SELECT cache_invalidate_content_type(%s, 'another type')", (ALICE,))
    client.execute("SELECT cache_invalidate_dependents(%s, 'what it was not made from')", (ALICE,))
    with client.transaction(force_rollback=True):
        client.execute("SELECT cache_invalidate_where(%s, '{\"a\": 1}')", (ALICE,))
    client.execute("SELECT cache_end_leases(%s)", (BOB,))
    client.execute("SELECT cache_end_leases(%s)", (ALICE,))
    refused = sqlstate_of(other.commit)
    assert (refused.sqlstate, refused.message_primary) == ("40001", "could not store the answer because of a concurrent invalidation")
    assert refused.message_detail == "What it was made from was invalidated while it was stored."
    assert refused.message_hint == "Call cache_fetch() again."
    assert lookup(client, key()) is None


@pytest.mark.parametrize("named", [None, FOUNDATION])
def test_a_foundation_concerns_what_was_made_from_it(database, two, named):
    client, other = two
    arguments = {"foundation_dependency": named} if named else {}
    lease = lease_of(client, **arguments)
    client.execute("SELECT cache_invalidate_dependents(%s, 'another')", (ALICE,))
    if named:
        # A lease that names its foundation is not touched by another one.
        assert is_stored(client, lease, **arguments)
        lease = lease_of(client, key(1), **arguments)
        client.execute("SELECT cache_invalidate_dependents(%s, %s)", (ALICE, named))
        assert not is_stored(client, lease, key(1), **arguments)
    else:
        # One that names none can be filled, but not with what names one.
        assert not is_stored(client, lease, foundation_dependency=FOUNDATION)
        assert is_stored(client, lease)


def test_a_statement_that_fetches_reads_what_was_committed_when_it_began(two):
    """So what an answer is made from must be read by a later one, which the documentation says."""
    client, other = two
    foundation = (ALICE, "story_foundation", FOUNDATION)
    upsert(client, '"old"', foundation)
    lease = lease_of(client, foundation_dependency=FOUNDATION)
    with ThreadPoolExecutor(1) as thread:
        one_statement = "SELECT f.lease, cache_lookup(%s, %s, %s) FROM cache_fetch(%s, %s, %s, wait => '10 s', foundation_dependency => %s) f"
        with client.execute("SELECT 1").connection.cursor() as cursor:
            running = thread.submit(lambda: cursor.execute(one_statement, (*foundation, *key(), FOUNDATION)).fetchone())
            wait_until(lambda: other.execute("SELECT waiters FROM cache_leases").fetchone() == (1,))
            upsert(other, '"new"', foundation)
            other.execute("SELECT cache_invalidate_dependents(%s, %s)", (ALICE, FOUNDATION))
            other.commit()
            new, read = running.result(15)
    assert new not in (None, lease) and read == "old"
    assert lookup(client, foundation) == "new"


def test_metadata_concern_what_has_some(two):
    client, other = two
    with_some, without = lease_of(client, key(1)), lease_of(client, key(2))
    client.execute("SELECT cache_invalidate_where(%s, %s)", (ALICE, BOOK))
    assert not is_stored(client, with_some, key(1), metadata=BOOK)
    assert is_stored(client, without, key(2))


def test_ended_leases_keep_their_answers_out_at_once_and_until_the_commit(two):
    client, other = two
    lease = lease_of(client)
    ended = other.execute("SELECT cache_end_leases(%s, %s)", (ALICE, TYPE)).fetchone()[0]
    assert ended == 1
    assert not is_stored(client, lease) and fetch(client, key()).lease is None
    other.commit()
    assert not is_stored(client, lease)
    new = lease_of(client)
    assert is_stored(client, new)


def test_nothing_is_left_of_the_leases_of_an_erased_user(two):
    client, other = two
    lease, of_bob = lease_of(client), lease_of(client, key(user=BOB))
    release(client, lease_of(client, key(1)), failed=True)
    other.execute("SELECT cache_forget_user(%s)", (ALICE,))
    assert len(leases(client)) == 3
    other.commit()
    assert leases(client) == [(BOB, TYPE, "held")]
    assert not is_stored(client, lease)
    assert is_stored(client, of_bob, key(user=BOB))


def test_invalidations_fence_while_the_cache_is_off(two):
    client, other = two
    lease = lease_of(client)
    other.execute("SET LOCAL infinite_pages_cache.enabled = off")
    assert fetch(other, key(1)).lease is None
    assert not is_stored(other, lease)
    invalidate_key(other, key())
    assert not is_stored(client, lease)
    other.commit()
    assert not is_stored(client, lease)


# ── transactions that are prepared ───────────────────────────────────────────────────────────────

@pytest.fixture(scope="module")
def preparing():
    cluster = Cluster({"max_prepared_transactions": 10})
    yield cluster
    cluster.remove()


@pytest.fixture
def prepared(preparing):
    database = Database(preparing)
    with database.connect() as client, database.connect(autocommit=False) as other:
        yield client, other
    database.drop()


def test_a_fill_ends_its_lease_when_it_is_prepared(prepared):
    client, other = prepared
    lease = lease_of(client)
    assert is_stored(other, lease)
    other.execute("PREPARE TRANSACTION 'fill'")
    assert leases(client) == [] and not is_stored(client, lease)
    client.execute("COMMIT PREPARED 'fill'")
    assert lookup(client, key()) == "answer"


def test_a_fill_that_is_outdated_cannot_be_prepared(prepared):
    client, other = prepared
    lease = lease_of(client)
    assert is_stored(other, lease)
    client.execute("SELECT cache_end_leases(%s)", (ALICE,))
    assert sqlstate_of(lambda: other.execute("PREPARE TRANSACTION 'fill'")).sqlstate == "40001"
    other.rollback()
    assert lookup(client, key()) is None


def test_an_invalidation_outdates_leases_when_it_is_prepared(prepared):
    client, other = prepared
    lease = lease_of(client)
    invalidate_key(other, key())
    other.execute("PREPARE TRANSACTION 'invalidation'")
    assert client.execute("SELECT count(*) FROM cache_pending_invalidations()").fetchone() == (0,)
    assert not is_stored(client, lease)
    client.execute("ROLLBACK PREPARED 'invalidation'")
    new = lease_of(client)
    assert is_stored(client, new)


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_a_lease_that_a_transaction_got_is_void_when_it_is_prepared(prepared, end):
    """Its holder may have read what is rolled back later."""
    client, other = prepared
    kept = lease_of(client, key("kept"))
    lease = lease_of(other)
    other.execute("PREPARE TRANSACTION 'grant'")
    assert len(leases(client)) == 1 and not is_stored(client, lease)
    client.execute(f"{end} PREPARED 'grant'")
    assert not is_stored(client, lease) and is_stored(client, kept, key("kept"))


def test_nobody_waits_at_the_fence_for_a_transaction_that_has_not_ended_its_statements(database, two):
    """The deferred trigger runs before the last check of the fill."""
    client, other = two
    database.execute("""
        CREATE TABLE late (n int);
        CREATE FUNCTION sleep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(2); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER late AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION sleep()""")
    lease = lease_of(client)
    assert is_stored(other, lease)
    other.execute("INSERT INTO late VALUES (1)")
    with ThreadPoolExecutor(1) as thread:
        ended = thread.submit(other.commit)
        wait_until(lambda: database.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == 1)
        assert timed(lambda: client.execute("SELECT cache_end_leases(%s)", (ALICE,))) < 1
        assert sqlstate_of(ended.result).sqlstate == "40001"


# ── a fill whose commit takes its time ───────────────────────────────────────────────────────────

class Committing:
    """A fill that is past its last check, and not yet visible: its commit waits for a synchronous standby that there is not."""

    def __init__(self, cluster):
        self.cluster, self.database = cluster, Database(cluster)
        self.client, self.filler = self.connect(), self.connect()
        set_policy(self.database, lease_ttl="1 day")
        self.lease = lease_of(self.client)
        self.filler.execute("BEGIN; SET LOCAL synchronous_commit = on")
        assert is_stored(self.filler, self.lease)
        self.thread = ThreadPoolExecutor(4)
        self.committed = self.thread.submit(lambda: self.filler.execute("COMMIT"))
        wait_until(lambda: self.wait_event(self.filler) == ("IPC", "SyncRep"))

    def connect(self):
        return self.database.connect(options="-c synchronous_commit=local")

    def wait_event(self, connection):
        with self.cluster.connect() as other:
            return other.execute("SELECT wait_event_type, wait_event FROM pg_stat_activity WHERE pid = %s", (connection.info.backend_pid,)).fetchone()

    def start(self, connection, statement):
        """Start a statement, and wait until it waits at the fence."""
        running = self.thread.submit(lambda: connection.execute(statement).fetchone()[0])
        wait_until(lambda: self.wait_event(connection)[0] == "Extension" or running.done())
        assert not running.done(), running.result()
        return running

    def become_visible(self):
        self.client.execute("SELECT pg_cancel_backend(%s)", (self.filler.info.backend_pid,))
        self.committed.result(10)


@pytest.fixture(scope="module")
def synchronous():
    cluster = Cluster({"synchronous_standby_names": "nobody", "synchronous_commit": "local"})
    yield cluster
    cluster.remove()


@pytest.fixture
def committing(synchronous):
    committing = Committing(synchronous)
    yield committing
    committing.thread.shutdown()


@pytest.mark.parametrize("function", ["cache_invalidate", "cache_invalidate_content_type", "cache_invalidate_content_type_for_all_users"])
def test_an_invalidation_removes_the_entry_of_a_fill_that_was_about_to_become_visible(committing, function):
    arguments = {"cache_invalidate": f"'{ALICE}', '{TYPE}', '{key()[2]}'", "cache_invalidate_content_type": f"'{ALICE}', '{TYPE}'"}
    running = committing.start(committing.connect(), f"SELECT {function}({arguments.get(function, repr(TYPE))})")
    assert lookup(committing.client, key()) is None
    committing.become_visible()
    assert running.result(10) == 1
    assert lookup(committing.client, key()) is None


def test_an_invalidation_that_does_not_concern_the_fill_does_not_wait_for_it(committing):
    client = committing.client
    client.execute("SET statement_timeout = '5s'")
    invalidate_key(client, key(1))
    client.execute("SELECT cache_invalidate_content_type(%s, %s)", (BOB, TYPE))
    client.execute("SELECT cache_invalidate_dependents(%s, %s)", (ALICE, FOUNDATION))
    client.execute("SELECT cache_invalidate_where(%s, %s)", (ALICE, BOOK))
    committing.become_visible()
    assert lookup(client, key()) == "answer"


def test_a_wait_for_a_fill_that_commits_can_be_cancelled(committing):
    other = committing.connect()
    running = committing.start(other, f"SELECT cache_end_leases('{ALICE}')")
    assert committing.client.execute("SELECT count(*) FROM cache_pending_invalidations()").fetchone() == (1,)
    committing.client.execute("SELECT pg_cancel_backend(%s)", (other.info.backend_pid,))
    assert sqlstate_of(lambda: running.result(10)).sqlstate == "57014"
    assert committing.client.execute("SELECT count(*) FROM cache_pending_invalidations()").fetchone() == (0,)
    committing.become_visible()
    assert lookup(committing.client, key()) == "answer"


def test_while_a_fill_commits_nobody_else_generates(committing):
    assert fetch(committing.client, key()).state == "wait"
    waits = committing.connect()
    running = committing.start(waits, f"SELECT content FROM cache_fetch('{ALICE}', '{TYPE}', '{key()[2]}', wait => '10 seconds')")
    committing.become_visible()
    assert running.result(10) == "answer"
