"""Flush, cleanup, touch, new partitions and forgetting beside writers, interleaved at named points, at each isolation level: nothing acknowledged is
lost, and nothing of a forgotten user is left."""

from datetime import datetime, timezone

import psycopg
import pytest

from harness.database import Database
from harness.entries import ALICE, CACHE, lookup, upsert
from harness.interleaving import (HIGHER, READ_COMMITTED, REFUSED, Session, an_upsert_follows, at_each_level, cleanup, content_of, either_way, forget,
                                  invalidate, store, touch, writes)
from harness.months import bounds
from harness.tally import flush
from harness.waiting import wait_until

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
    an_upsert_follows(cleanup, None, database, sessions, level, kept)


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
