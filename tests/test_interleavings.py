"""Two and three sessions, interleaved at named points, at each isolation level: a write that cannot follow another one raises 40001,
otherwise the last writer wins; a key never has two rows, and nothing acknowledged is lost."""

import threading
from datetime import datetime, timedelta, timezone

import psycopg
import pytest

from conftest import ALICE, Database, is_waiting, wait_until
from tally import CACHE, counting_cluster, flush
from test_concurrency import LOCK_TIMEOUT, add_dead_months, duplicates, partitions, timed
from test_lookups import KEY, lookup, upsert
from test_partitions import bounds

READ_COMMITTED, *HIGHER = LEVELS = ["read committed", "repeatable read", "serializable"]
at_each_level = pytest.mark.parametrize("level", LEVELS)
either_way = pytest.mark.parametrize("kept", [True, False], ids=["commit", "rollback"])
REFUSED = "40001"


@pytest.fixture(scope="module")
def cluster():
    """One in which hits wait for a flush."""
    cluster = counting_cluster()
    yield cluster
    cluster.remove()


class Watched(Database):
    """One that is looked at over and over, by a connection that is kept."""

    kept = None

    def execute(self, sql, parameters=None):
        self.kept = self.kept or self.connect()
        cursor = self.kept.execute(sql, parameters)
        return cursor.fetchall() if cursor.description else None


@pytest.fixture(scope="module")
def shared(cluster):
    database = Watched(cluster)
    yield database
    database.drop()


@pytest.fixture
def database(shared):
    """One for all tests here: a test finds it without entries, audit rows, statistics, and other months than the usual."""
    usual = partitions(shared)
    yield shared
    flush(shared.kept)
    forget(shared.kept)
    shared.execute("TRUNCATE cache_statistics_hourly")
    for name in partitions(shared) - usual:
        shared.execute(f"DROP TABLE {name}")


class Session:
    """A transaction at an isolation level, whose statements can wait for others'."""

    def __init__(self, database, level):
        self.database = database
        self.connection = database.connect(autocommit=False)
        self.connection.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")

    def sees(self):
        """What it finds, by its snapshot, which it has from here on."""
        return lookup(self.connection)

    def run(self, action):
        return action(self.connection)

    def start(self, action):
        """Starts a statement and waits until it waits for a lock."""
        self.result = self.error = None

        def run():
            try:
                self.result = action(self.connection)
            except psycopg.Error as error:
                self.error = error.sqlstate

        self.thread = threading.Thread(target=run)
        self.thread.start()
        wait_until(lambda: is_waiting(self.database, self.connection) or not self.thread.is_alive())
        assert self.thread.is_alive(), f"it did not wait, and ended with {self.error or self.result!r}"

    def outcome(self):
        """What the statement returned that has waited, or the SQLSTATE of its error, when its transaction has ended."""
        self.thread.join(20)
        assert not self.thread.is_alive(), "it still waits"
        if self.error is None:
            try:
                self.connection.commit()
            except psycopg.Error as error:
                self.error = error.sqlstate
        if self.error is not None:
            self.connection.rollback()
        return self.result if self.error is None else self.error

    def end(self, kept):
        self.connection.commit() if kept else self.connection.rollback()

    def close(self):
        self.connection.close()


@pytest.fixture
def sessions(database):
    """Makes sessions; in the end there is one row of a key."""
    made = []

    def make(level, number=2):
        made.extend(Session(database, level) for _ in range(number))
        return made[-number:]

    yield make
    for session in made:
        session.close()
    assert duplicates(database) == []


def content_of(database):
    return database.value("SELECT cache_lookup(%s, %s, %s)", KEY)


def store(database, content="0", **arguments):
    with database.connect() as connection:
        return upsert(connection, content, **arguments)


def invalidate(connection):
    return connection.execute("SELECT cache_invalidate(%s, %s, %s)", KEY).fetchone()[0]


def touch(connection):
    return connection.execute("SELECT cache_touch(%s, %s, %s, 'infinity')::text", KEY).fetchone()[0]


def forget(connection):
    return connection.execute("SELECT entries_deleted FROM cache_forget_user(%s)", (ALICE,)).fetchone()[0]


def cleanup(connection):
    return connection.execute("SELECT sum(deleted_count)::int FROM cleanup_expired_cache_entries_production()").fetchone()[0]


def writes(content):
    return lambda connection: upsert(connection, content)


# ── upsert and upsert ────────────────────────────────────────────────────────────────────────────

@at_each_level
@either_way
@pytest.mark.parametrize("stored", [True, False], ids=["there", "new"])
@pytest.mark.parametrize("looked", [True, False], ids=["snapshot_before", "first_statement"])
def test_upsert_and_upsert(database, sessions, level, kept, stored, looked):
    identity = store(database) if stored else None
    one, two = sessions(level)
    if looked:
        assert two.sees() == (0 if stored else None)
    written = one.run(writes("1"))
    two.start(writes("2"))
    assert content_of(database) == (0 if stored else None)
    one.end(kept)
    outcome = two.outcome()
    if kept and level in HIGHER:
        assert (outcome, content_of(database)) == (REFUSED, 1)
    else:
        assert content_of(database) == 2
        # The entry keeps its id.
        assert outcome == (written if kept else identity if stored else outcome)


@at_each_level
@pytest.mark.parametrize("first_kept", [True, False], ids=["first_commits", "first_rolls_back"])
def test_three_upserts_of_a_key(database, sessions, level, first_kept):
    """The third waits for the first and the second, and all have seen the same."""
    store(database)
    one, two, three = sessions(level, 3)
    assert [session.sees() for session in (one, two, three)] == [0, 0, 0]
    one.run(writes("1"))
    two.start(writes("2"))
    three.start(writes("3"))
    one.end(first_kept)
    if level == READ_COMMITTED:
        # The second has its lock and must end before the third.
        two.outcome(), three.outcome()
        assert content_of(database) == 3
    elif first_kept:
        assert (two.outcome(), three.outcome(), content_of(database)) == (REFUSED, REFUSED, 1)
    else:
        assert two.outcome() != REFUSED
        assert (three.outcome(), content_of(database)) == (REFUSED, 2)


@at_each_level
def test_an_upsert_at_a_months_edge_waits_for_one_of_before(clock_cluster, level):
    """One wrote in October and has not ended when another one writes in November."""
    clock_cluster.set_clock(datetime(2026, 10, 31, 23, 59, tzinfo=timezone.utc))
    database = Database(clock_cluster)
    one, two = Session(database, level), Session(database, level)
    identity = one.run(writes("1"))
    clock_cluster.set_clock(datetime(2026, 11, 1, tzinfo=timezone.utc))
    two.start(writes("2"))
    one.end(True)
    outcome = two.outcome()
    assert outcome == (identity if level == READ_COMMITTED else REFUSED)
    month = "11" if level == READ_COMMITTED else "10"
    assert database.execute(f"SELECT tableoid::regclass::text, content FROM {CACHE}") == [(f"infinite_pages_cache_2026_{month}", 2 if month == "11" else 1)]
    for session in (one, two):
        session.close()
    database.drop()


# ── upsert and invalidation ──────────────────────────────────────────────────────────────────────

INVALIDATIONS = {
    "key": invalidate,
    "type": lambda connection: connection.execute("SELECT cache_invalidate_content_type(%s, %s)", KEY[:2]).fetchone()[0],
    "where": lambda connection: connection.execute("""SELECT cache_invalidate_where(%s, '{"genre": "noir"}')""", KEY[:1]).fetchone()[0],
    "dependents": lambda connection: connection.execute("SELECT cache_invalidate_dependents(%s, 'foundation')", KEY[:1]).fetchone()[0],
}


@at_each_level
@either_way
@pytest.mark.parametrize("kind", INVALIDATIONS)
def test_an_invalidation_after_an_upsert(database, sessions, level, kept, kind):
    """It began before the upsert's end, and removes what the upsert has left."""
    arguments = {"metadata": '{"genre": "noir"}', "foundation_dependency": "foundation"}
    store(database, **arguments)
    one, two = sessions(level)
    two.sees()
    one.run(lambda connection: upsert(connection, "1", **arguments))
    two.start(INVALIDATIONS[kind])
    one.end(kept)
    if kept and level in HIGHER:
        assert (two.outcome(), content_of(database)) == (REFUSED, 1)
    else:
        assert (two.outcome(), content_of(database)) == (1, None)


@at_each_level
@either_way
def test_an_upsert_after_an_invalidation(database, sessions, level, kept):
    store(database)
    one, two = sessions(level)
    two.sees()
    assert one.run(invalidate) == 1
    two.start(writes("2"))
    one.end(kept)
    if kept and level in HIGHER:
        assert (two.outcome(), content_of(database)) == (REFUSED, None)
    else:
        assert two.outcome() != REFUSED and content_of(database) == 2


# ── upsert, lookup and the drop of a partition ───────────────────────────────────────────────────

DROP = "SELECT count(*) FILTER (WHERE dropped) FROM drop_old_cache_partitions(1, include_live => true)"


@pytest.fixture
def old(database):
    """A month gone by whose partition holds the key's live entry."""
    [name] = add_dead_months(database, 12)
    with database.connect() as connection:
        connection.execute(f"DELETE FROM {CACHE}")
        connection.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, created_at, expires_at) "
                           "SELECT %s, %s, %s, '0', (%s || '-15')::timestamptz, 'infinity'", (*KEY, name[-7:].replace("_", "-")))
    return name


def drop(connection):
    connection.execute(f"SET LOCAL infinite_pages_cache.lock_timeout = '{LOCK_TIMEOUT}s'")
    return connection.execute(DROP).fetchone()[0]


@at_each_level
@either_way
@pytest.mark.parametrize("first", ["lookup", "upsert"])
def test_a_drop_gives_way_to_who_came_first(database, sessions, old, level, kept, first):
    """A third session comes while the drop waits: it goes on when the drop gives up."""
    one, two, three = sessions(level, 3)
    one.run(lookup if first == "lookup" else writes("1"))
    two.start(drop)
    assert timed(lambda: three.run(lookup)) < LOCK_TIMEOUT + 2
    three.end(True)
    assert two.outcome() == 0 and old in partitions(database)
    one.end(kept)
    assert content_of(database) == (1 if first == "upsert" and kept else 0)
    # What lives in that month goes with it, what was written since does not.
    assert two.run(drop) == 1
    two.end(True)
    assert old not in partitions(database) and content_of(database) == (1 if first == "upsert" and kept else None)


@at_each_level
@either_way
def test_an_upsert_after_a_drop(database, sessions, old, level, kept):
    [(identity,)] = database.execute(f"SELECT id FROM {CACHE}")
    one, two = sessions(level)
    assert one.run(drop) == 1
    two.start(writes("2"))
    one.end(kept)
    outcome = two.outcome()
    # What the drop has taken is no version that a later write would have to follow.
    assert content_of(database) == 2
    assert (outcome == identity) is (not kept)


@at_each_level
@either_way
def test_a_lookup_after_a_drop(database, sessions, old, level, kept):
    one, two, three = sessions(level, 3)
    one.run(drop)
    two.start(lookup)
    three.start(lambda connection: connection.execute("SELECT content FROM cache_lookup_many(%s, %s, ARRAY[%s])", KEY).fetchall())
    one.end(kept)
    assert (two.outcome(), three.outcome()) == ((None, [(None,)]) if kept else (0, [(0,)]))


# ── flush, cleanup and touch ─────────────────────────────────────────────────────────────────────

def expire(database):
    database.execute(f"UPDATE {CACHE} SET expires_at = now() - interval '1 second'")


def expires_soon(database):
    """An entry that expires soon."""
    store(database, ttl="300 ms")


def wait_for_expiry(database):
    wait_until(lambda: content_of(database) is None)


@at_each_level
@either_way
def test_cleanup_leaves_what_is_being_touched(database, sessions, level, kept):
    expires_soon(database)
    one, two = sessions(level)
    assert one.run(touch) == "infinity"
    wait_for_expiry(database)
    assert two.run(cleanup) == 0
    two.end(True)
    one.end(kept)
    assert content_of(database) == (0 if kept else None)
    assert database.value(f"SELECT count(*) FROM {CACHE}") == 1
    two.run(lambda connection: connection.execute(f"SET TRANSACTION ISOLATION LEVEL {level}"))
    assert two.run(cleanup) == (0 if kept else 1)
    two.end(True)
    assert content_of(database) == (0 if kept else None)


@at_each_level
@either_way
def test_a_touch_does_not_wait_for_cleanup(database, sessions, level, kept):
    """What has expired stays expired, whether or not cleanup commits."""
    store(database)
    expire(database)
    one, two = sessions(level)
    assert one.run(cleanup) == 1
    two.run(lambda connection: connection.execute("SET LOCAL lock_timeout = '5s'"))
    assert two.run(touch) is None
    two.end(True)
    one.end(kept)
    assert content_of(database) is None


@at_each_level
@either_way
def test_an_upsert_waits_for_cleanup(database, sessions, level, kept):
    store(database)
    expire(database)
    one, two = sessions(level)
    assert two.sees() is None
    assert one.run(cleanup) == 1
    two.start(writes("2"))
    one.end(kept)
    if kept and level in HIGHER:
        assert (two.outcome(), content_of(database)) == (REFUSED, None)
    else:
        assert two.outcome() != REFUSED and content_of(database) == 2


@at_each_level
@either_way
def test_a_touch_after_an_upsert_and_after_a_touch(database, sessions, level, kept):
    store(database, ttl="1 day")
    one, two, three = sessions(level, 3)
    assert [two.sees(), three.sees()] == [0, 0]
    one.run(lambda connection: upsert(connection, "1", ttl="1 hour"))
    two.start(touch)
    three.start(touch)
    one.end(kept)
    if level == READ_COMMITTED:
        assert (two.outcome(), three.outcome()) == ("infinity", "infinity")
    else:
        assert (two.outcome(), three.outcome()) == ((REFUSED, REFUSED) if kept else ("infinity", REFUSED))
    assert content_of(database) == (1 if kept else 0)
    assert database.value(f"SELECT expires_at = 'infinity' FROM {CACHE}") == (level == READ_COMMITTED or not kept)


@at_each_level
@either_way
def test_a_flush_waits_for_nobody_and_counts_once(database, sessions, level, kept):
    """Hits of an entry that somebody holds are stored by a later flush."""
    store(database)
    for _ in range(3):
        content_of(database)
    one, two = sessions(level)
    one.run(touch)
    two.run(lambda connection: connection.execute("SET LOCAL lock_timeout = '5s'"))
    assert two.run(flush)[:2] == (0, 1)
    two.end(True)
    one.end(kept)
    with database.connect() as connection:
        assert flush(connection)[:2] == (1, 0)
        assert flush(connection)[:2] == (0, 0)
    assert database.value(f"SELECT hit_count FROM {CACHE}") == 3


@at_each_level
@either_way
@pytest.mark.parametrize("second", ["upsert", "touch", "invalidate"])
def test_a_writer_waits_for_a_flush(database, sessions, level, kept, second):
    """And no hit is lost: those of a flush that is rolled back are stored by the next one."""
    store(database, ttl="1 day")
    for _ in range(3):
        content_of(database)
    one, two = sessions(level)
    assert two.sees() == 0
    assert one.run(flush)[:2] == (1, 0)
    two.start({"upsert": writes("2"), "touch": touch, "invalidate": invalidate}[second])
    one.end(kept)
    outcome = two.outcome()
    assert (outcome == REFUSED) is (kept and level in HIGHER)
    with database.connect() as connection:
        flush(connection)
    # The three before and the session's own.
    found = database.execute(f"SELECT hit_count, content FROM {CACHE}")
    assert found == ([] if second == "invalidate" and outcome != REFUSED else [(4, 2 if second == "upsert" and outcome != REFUSED else 0)])


@at_each_level
@either_way
def test_two_flushes(database, sessions, level, kept):
    """The second waits for the first, and stores what that one has not."""
    store(database)
    for _ in range(3):
        content_of(database)
    one, two = sessions(level)
    assert one.run(flush)[:2] == (1, 0)
    two.start(flush)
    one.end(kept)
    outcome = two.outcome()
    with database.connect() as connection:
        flush(connection)
    assert outcome == REFUSED and level in HIGHER or outcome[0] == (0 if kept else 1)
    assert database.value(f"SELECT hit_count FROM {CACHE}") == 3
    assert database.value("SELECT sum(hits) FROM cache_statistics_hourly") == 3


# ── create and create a partition ────────────────────────────────────────────────────────────────

def create(month):
    return lambda connection: connection.execute("SELECT create_monthly_cache_partition(%s::text::date)", (month,)).fetchone()[0]


@at_each_level
@either_way
def test_three_sessions_create_a_partition(database, sessions, level, kept):
    """The second creates what the first has taken back, or finds it; the third creates another one."""
    one, two, three = sessions(level, 3)
    for session in (two, three):
        session.sees()
    name = one.run(create("2031-05-05"))
    two.start(create("2031-05-31"))
    three.start(create("2031-06-01"))
    one.end(kept)
    assert (two.outcome(), three.outcome()) == (name, "infinite_pages_cache_2031_06")
    found = bounds(database)
    assert found[name] == "FOR VALUES FROM ('2031-05-01 00:00:00+00') TO ('2031-06-01 00:00:00+00')"
    assert found["infinite_pages_cache_2031_06"] == "FOR VALUES FROM ('2031-06-01 00:00:00+00') TO ('2031-07-01 00:00:00+00')"
    assert database.execute("SELECT * FROM check_partition_health() WHERE NOT ok AND partition_name <> 'months ahead' AND detail !~ 'gap|missing'") == []


@at_each_level
@either_way
def test_an_upsert_waits_for_its_months_partition(clock_cluster, level, kept):
    """Somebody is creating the current month; the upsert goes there, or creates it."""
    clock_cluster.set_clock(datetime(2026, 10, 15, tzinfo=timezone.utc))
    database = Database(clock_cluster)
    store(database, ttl="infinity")
    database.execute("DROP TABLE infinite_pages_cache_2026_11")
    clock_cluster.set_clock(datetime(2026, 11, 15, tzinfo=timezone.utc))
    one, two, three = (Session(database, level) for _ in range(3))
    one.run(create("2026-11-01"))
    two.start(writes("2"))
    # Who looks does not wait.
    assert three.run(lookup) == 0
    one.end(kept)
    assert two.outcome() != REFUSED
    assert database.execute(f"SELECT tableoid::regclass::text, content FROM {CACHE}") == [("infinite_pages_cache_2026_11", 2)]
    for session in (one, two, three):
        session.close()
    database.drop()


# ── forgetting and upsert ────────────────────────────────────────────────────────────────────────

TRACES = f"SELECT (SELECT count(*) FROM {CACHE} WHERE user_id = '{ALICE}'), (SELECT count(*) FROM cache_audit_log WHERE user_id = '{ALICE}')"


@at_each_level
@either_way
@pytest.mark.parametrize("stored", [True, False], ids=["there", "new"])
@pytest.mark.parametrize("looked", [True, False], ids=["snapshot_before", "first_statement"])
def test_forgetting_waits_for_an_upsert(database, sessions, level, kept, stored, looked):
    """Whoever is told that a user is forgotten finds no trace of him: neither what was waited for nor its audit."""
    if stored:
        store(database)
    one, two = sessions(level)
    if looked:
        two.sees()
    one.run(writes("1"))
    two.start(forget)
    one.end(kept)
    outcome = two.outcome()
    if kept and level in HIGHER:
        assert outcome == REFUSED
        assert database.execute(TRACES)[0][0] == 1
    else:
        assert outcome == (1 if kept or stored else 0)
        assert database.execute(TRACES) == [(0, 0)]
    # The next try has a snapshot of its own.
    with database.connect() as connection:
        forget(connection)
    assert database.execute(TRACES) == [(0, 0)]


@pytest.mark.parametrize("level", HIGHER)
def test_forgetting_does_not_pass_over_what_its_snapshot_hides(database, sessions, level):
    """Nobody is waited for: an upsert was committed after the snapshot was taken."""
    [one] = sessions(level, 1)
    one.sees()
    store(database)
    with pytest.raises(psycopg.errors.SerializationFailure):
        one.run(forget)
    one.end(False)
    assert content_of(database) == 0


@at_each_level
@either_way
@pytest.mark.parametrize("stored", [True, False], ids=["there", "new"])
def test_an_upsert_waits_for_forgetting(database, sessions, level, kept, stored):
    """What it writes then is new: it has nothing of what was forgotten. An INSERT conflicts with no deletion; only at SERIALIZABLE it
    matters that its transaction has seen what was deleted."""
    identity = store(database) if stored else None
    one, two = sessions(level)
    two.sees()
    assert one.run(forget) == (1 if stored else 0)
    two.start(writes("2"))
    one.end(kept)
    outcome = two.outcome()
    if kept and stored and level == "serializable":
        assert (outcome, database.execute(TRACES)) == (REFUSED, [(0, 0)])
    else:
        assert content_of(database) == 2
        assert (outcome == identity) is (stored and not kept)
    with database.connect() as connection:
        forget(connection)
    assert database.execute(TRACES) == [(0, 0)]


@at_each_level
def test_forgetting_twice_with_an_upsert_between(database, sessions, level):
    """Three wait in a row; when the last has ended, its answer holds."""
    store(database)
    one, two, three = sessions(level, 3)
    assert one.run(forget) == 1
    two.start(writes("2"))
    three.start(forget)
    one.end(True)
    outcomes = [two.outcome(), three.outcome()]
    if level == READ_COMMITTED:
        assert outcomes[1] == 1 and database.execute(TRACES) == [(0, 0)]
    else:
        assert outcomes[0] == REFUSED or content_of(database) in (2, None)
        assert (outcomes[1] == REFUSED) or database.execute(TRACES) == [(0, 0)]
