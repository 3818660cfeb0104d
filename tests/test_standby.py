"""A streaming standby serves lookups and writes nothing; once it is promoted it looks after itself."""

import time

import pytest

from conftest import ALICE, Cluster, Database, Standby, sqlstate_of, wait_until
from test_lookups import lookup, upsert
from test_maintenance import add_month
from test_partitions import bounds, name_of
from worker import CACHE, LAUNCHER, WORKER, add_entries, expired, is_served, launcher, processes, status, wait_for_ticks

KEY = (ALICE, "t", "k")


@pytest.fixture(scope="module")
def pair():
    """A primary and its standby, and the cache on each."""
    primary = Cluster({"infinite_pages_cache.naptime": "200ms"})
    database = Database(primary)
    with database.connect() as connection:
        upsert(connection, '"first"', KEY, ttl="infinity")
    standby = Standby(primary, {"infinite_pages_cache.naptime": "200ms"})
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


def test_after_a_promotion_the_worker_takes_over(pair):
    database, copy = pair
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
        assert copy.value(f"SELECT count(*) FROM {CACHE} WHERE cache_key LIKE 'live%'") == 5
        assert copy.execute("SELECT * FROM verify_production_cache() WHERE NOT ok") == []
    finally:
        database.cluster.start()
