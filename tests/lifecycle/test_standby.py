"""A streaming standby serves lookups and writes nothing; once it is promoted it looks after itself."""

import time

import pytest

from harness.cluster import Cluster, Standby
from harness.database import Database
from harness.entries import ALICE, CACHE, add_entries, expired, lookup, upsert
from harness.errors import sqlstate_of
from harness.months import add_month, bounds, name_of
from harness.waiting import wait_until
from harness.worker import LAUNCHER, WORKER, is_served, launcher, processes, status, wait_for_ticks

KEY = (ALICE, "t", "k")


@pytest.fixture(scope="module")
def pair():
    """A primary and its standby, and the cache on each."""
    primary = Cluster({"infinite_pages_cache.naptime": "200ms"})
    database = Database(primary)
    with database.connect() as connection:
        upsert(connection, '"first"', KEY, ttl="infinity")
    standby = Standby(primary, {"infinite_pages_cache.naptime": "200ms", "infinite_pages_cache.audit_buffer_size": "64kB"})
    copy = Database.existing(standby, database.name)
    yield database, copy
    standby.remove()
    primary.remove()


def test_a_standby_serves_lookups_and_has_no_worker(pair):
    database, copy = pair
    with database.connect() as connection:
        upsert(connection, '"second"', KEY, ttl="infinity")
        upsert(connection, '"over"', (ALICE, "t", "short"), ttl="1 second")
    copy.cluster.wait_until_caught_up()
    with copy.connect() as connection, connection.transaction():
        assert connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)
        assert lookup(connection, KEY) == "second"
        assert lookup(connection, (ALICE, "t", "missing")) is None
        assert connection.execute("SELECT content FROM cache_get(%s, %s, %s)", KEY).fetchall() == [("second",)]
        assert connection.execute("SELECT * FROM cache_lookup_many(%s, 't', '{k,x}')", (ALICE,)).fetchall() == [("k", "second"), ("x", None)]
        assert connection.execute("SELECT content FROM cache_search(%s, 't', '{}') WHERE cache_key = 'k'", (ALICE,)).fetchall() == [("second",)]
        assert connection.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() == (None,)
    time.sleep(1.2)
    with copy.connect() as connection:
        assert lookup(connection, (ALICE, "t", "short")) is None
        assert sqlstate_of(lambda: upsert(connection, "1", KEY)).sqlstate == "25006"
    assert processes(copy.cluster, LAUNCHER) == processes(copy.cluster, WORKER) == []
    row = status(copy)
    assert row["worker"] == "standby" and row["next_run"] is None and row["months_ahead"] == 3
    assert copy.execute("SELECT * FROM cache_maintenance_progress") == []
    failed = copy.execute("SELECT name FROM verify_production_cache() WHERE NOT ok")
    assert failed == []
    # The primary is served meanwhile.
    assert status(database)["worker"] == "on"
    is_served(database)


def test_what_the_worker_does_reaches_the_standby_and_ends_no_lookup(pair):
    """A reader on the standby between two statements of a transaction, too."""
    database, copy = pair
    add_month(database, -3)
    add_entries(database, 100)
    wait_until(lambda: name_of(-3) not in bounds(database) and expired(database) == 0)
    # The worker's commits are asynchronous.
    wait_until(lambda: name_of(-3) not in bounds(copy) and expired(copy) == 0)
    with copy.connect() as connection:
        for _ in range(50):
            assert lookup(connection, KEY) == "second"


AUDITED = "SELECT cache_key FROM cache_audit_log WHERE action = 'lookup' ORDER BY id"


def lost_audit(database):
    return database.value("SELECT coalesce(sum(audit_lost), 0) FROM cache_statistics()")


def test_the_audit_of_lookups_on_a_standby_waits_in_memory(pair):
    """Nobody can store it: the newest are kept, as many as there is room for, the others are counted."""
    database, copy = pair
    copy.cluster.set(audit="all")
    copy.cluster.wait_until_caught_up()
    wait_until(lambda: copy.value("SHOW infinite_pages_cache.audit") == "all")
    before = copy.value("SELECT count(*) FROM cache_audit_log")
    with copy.connect() as connection:
        for number in range(2000):
            connection.execute("SELECT cache_lookup(%s, 't', %s)", (ALICE, f"standby {number}"))
        lost = lost_audit(copy)
        assert 500 < lost < 1900
        assert lookup(connection, KEY) == "second"
        assert sqlstate_of(lambda: connection.execute("SELECT cache_flush_statistics()")).sqlstate == "25006"
    assert copy.value("SELECT count(*) FROM cache_audit_log") == before and database.execute(AUDITED) == []
    assert lost_audit(copy) - lost <= 1
    [(ok, detail, hint)] = copy.execute("SELECT ok, detail, hint FROM verify_production_cache() WHERE name = 'lookups can be audited'")
    assert not ok and "standby" in hint


def test_after_a_promotion_the_worker_takes_over(pair):
    database, copy = pair
    copy.cluster.set(audit="all")
    wait_until(lambda: copy.value("SHOW infinite_pages_cache.audit") == "all")
    asked = [f"before {number}" for number in range(10)]
    for key in asked:
        copy.execute("SELECT cache_lookup(%s, 't', %s)", (ALICE, key))
    add_entries(database, 5, "infinity", prefix="live")
    copy.cluster.wait_until_caught_up()
    database.cluster.stop("immediate")
    try:
        before = copy.value("SELECT now()")
        with copy.connect() as reader:
            assert copy.value("SELECT pg_promote()")
            assert launcher(copy.cluster)
            add_entries(copy, 5)
            wait_until(lambda: expired(copy) == 0)
            wait_for_ticks(copy)
            row = status(copy)
            assert row["worker"] == "on" and row["last_run"] > before and row["consecutive_failures"] == 0
            # A session that was there all the time sees the same.
            assert reader.execute("SELECT worker FROM cache_maintenance_status").fetchone() == ("on",)
            assert lookup(reader, KEY) == "second"
            upsert(reader, '"third"', KEY, ttl="infinity")
            assert lookup(reader, KEY) == "third"
            # What was looked up before is stored now, once.
            wait_until(lambda: [key for (key,) in copy.execute(AUDITED) if key.startswith("before")] == asked)
        assert copy.value(f"SELECT count(*) FROM {CACHE} WHERE cache_key LIKE 'live%'") == 5
        assert copy.execute("SELECT * FROM verify_production_cache() WHERE NOT ok") == []
    finally:
        database.cluster.start()
