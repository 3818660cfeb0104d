"""Upserts beside upserts, invalidations and drops of partitions, interleaved at named points, at each isolation level: a write that cannot follow
another one raises 40001, otherwise the last writer wins."""

from datetime import datetime, timezone

import pytest

from harness.database import Database
from harness.entries import CACHE, KEY, lookup, upsert
from harness.interleaving import HIGHER, READ_COMMITTED, REFUSED, Session, an_upsert_follows, at_each_level, content_of, either_way, invalidate, store, writes
from harness.maintenance import LOCK_TIMEOUT
from harness.months import add_dead_months, partitions
from harness.waiting import timed

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
    an_upsert_follows(invalidate, 0, database, sessions, level, kept)


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
def test_a_drop_after_a_detachment(database, sessions, old, level, kept):
    """Whoever detaches a partition wants to keep it."""
    one, two = sessions(level)
    one.run(lambda connection: connection.execute(f"ALTER TABLE {CACHE} DETACH PARTITION {old}"))
    two.start(drop)
    one.end(kept)
    assert two.outcome() == (0 if kept else 1)
    [(there,)] = database.execute("SELECT to_regclass(%s) IS NOT NULL", (old,))
    assert there is kept
    if kept:
        assert database.value(f"SELECT count(*) FROM {old}") == 1
        database.execute(f"DROP TABLE {old}")


@at_each_level
@either_way
def test_a_lookup_after_a_drop(database, sessions, old, level, kept):
    one, two, three = sessions(level, 3)
    one.run(drop)
    two.start(lookup)
    three.start(lambda connection: connection.execute("SELECT content FROM cache_lookup_many(%s, %s, ARRAY[%s])", KEY).fetchall())
    one.end(kept)
    assert (two.outcome(), three.outcome()) == ((None, [(None,)]) if kept else (0, [(0,)]))
