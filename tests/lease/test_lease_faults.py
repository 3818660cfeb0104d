"""Clients that die with a lease, waiters that are cancelled, clocks that are set back and servers that crash leave nothing behind that
keeps others from an answer, and nothing outdated."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone

import psycopg
import pytest

from harness.cluster import Cluster
from harness.database import Database
from harness.entries import ALICE, KEY, lookup, upsert
from harness.leases import fetch, leases, release, set_policy
from harness.waiting import timed, wait_until

TYPE = KEY[1]


def key(number=0):
    return (ALICE, TYPE, f"key {number}")


def is_stored(connection, lease, of=None):
    return upsert(connection, '"answer"', of or key(), lease=lease) is not None


def waiters(database):
    return database.value("SELECT coalesce(sum(waiters), 0)::int FROM cache_leases")


class Waiter:
    """A session that waits for a key's answer."""

    def __init__(self, database, wait="30 seconds", of=None, **options):
        self.database = database
        self.connection = database.connect(**options)
        self.pid = self.connection.info.backend_pid
        before = waiters(database)
        self.thread = ThreadPoolExecutor(1)
        self.result = self.thread.submit(lambda: fetch(self.connection, of or key(), wait=wait))
        wait_until(lambda: waiters(database) == before + 1)

    def fetched(self, timeout=10):
        return self.result.result(timeout)

    def sqlstate(self, timeout=10):
        with pytest.raises(psycopg.Error) as caught:
            self.fetched(timeout)
        return caught.value.sqlstate

    def close(self):
        self.thread.shutdown()
        self.connection.close()


@pytest.fixture
def waiter(database):
    """Makes waiters."""
    made = []

    def make(*arguments, **options):
        made.append(Waiter(database, *arguments, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


# ── clients that die ─────────────────────────────────────────────────────────────────────────────

def test_a_lease_of_a_client_that_is_gone_is_over_after_its_time(database):
    set_policy(database, lease_ttl="1 second")
    with database.connect() as client:
        lost = fetch(client, key()).lease
    with database.connect() as other:
        assert fetch(other, key()).state == "wait"
        wait_until(lambda: fetch(other, key()).state == "generate")
        assert lost is not None


def test_a_client_that_is_terminated_while_it_stores_gives_its_lease_back(database):
    other = database.connect(autocommit=False)
    with database.connect() as client:
        lease = fetch(client, key()).lease
        assert is_stored(other, lease)
        assert leases(client) == [(ALICE, TYPE, "storing")] and not is_stored(client, lease)
        client.execute("SELECT pg_terminate_backend(%s)", (other.info.backend_pid,))
        wait_until(lambda: leases(client) == [(ALICE, TYPE, "held")])
        assert lookup(client, key()) is None
        assert is_stored(client, lease)


def test_a_parallel_worker_leaves_nothing_behind(database):
    """Where a user has said of a function that calls the cache that it is parallel safe."""
    database.execute("CREATE FUNCTION ends(uuid) RETURNS bigint LANGUAGE sql PARALLEL SAFE AS 'SELECT cache_end_leases($1)'")
    with database.connect() as client:
        setting = "debug_parallel_query" if client.info.server_version >= 160000 else "force_parallel_mode"
        client.execute(f"SET {setting} = on")
        client.execute("SELECT ends(%s)", (ALICE,))
        assert client.execute("SELECT pid FROM cache_pending_invalidations()").fetchall() == []
        assert fetch(client, key()).lease is not None


def test_a_client_that_is_terminated_takes_its_pending_invalidations_with_it(database):
    other = database.connect(autocommit=False)
    with database.connect() as client:
        lease = fetch(client, key()).lease
        other.execute("SELECT cache_invalidate(%s, %s, %s)", key())
        assert not is_stored(client, lease)
        client.execute("SELECT pg_terminate_backend(%s)", (other.info.backend_pid,))
        wait_until(lambda: database.value("SELECT count(*) FROM cache_pending_invalidations()") == 0)
        assert is_stored(client, lease)


def test_a_lease_whose_transaction_is_rolled_back_is_void(database, waiter):
    with database.connect(autocommit=False) as client, database.connect() as other:
        lease = fetch(client, key()).lease
        waits = waiter()
        client.rollback()
        assert waits.fetched().state == "generate"
        assert not is_stored(other, lease)


def test_a_lease_that_was_granted_after_a_savepoint_is_void_when_it_is_rolled_back(database):
    with database.connect(autocommit=False) as client:
        kept = fetch(client, key(1)).lease
        client.execute("SAVEPOINT s")
        void = fetch(client, key(2)).lease
        client.execute("ROLLBACK TO s")
        assert not is_stored(client, void, key(2))
        assert is_stored(client, kept, key(1))
        client.commit()
        assert lookup(client, key(1)) == "answer"


def test_what_a_released_savepoint_has_done_is_not_undone_with_a_later_one(database):
    later = "RELEASE one; SAVEPOINT two; ROLLBACK TO two"
    with database.connect(autocommit=False) as client, database.connect() as other:
        client.execute("SAVEPOINT one")
        granted = fetch(client, key(1)).lease
        client.execute(later)
        assert is_stored(other, granted, key(1))
        client.execute("SAVEPOINT one")
        assert is_stored(client, fetch(other, key(2)).lease, key(2))
        client.execute(later)
        assert leases(other) == [(ALICE, TYPE, "storing")]
        client.execute("SAVEPOINT one")
        client.execute("SELECT cache_invalidate(%s, %s, %s)", key(3))
        client.execute(later)
        assert fetch(other, key(3)).lease is None
        client.commit()
        assert leases(other) == [] and lookup(other, key(2)) == "answer"


def test_rolling_back_to_an_outer_savepoint_undoes_what_an_inner_one_has_done(database):
    with database.connect(autocommit=False) as client, database.connect() as other:
        lease = fetch(other, key(2)).lease
        client.execute("SAVEPOINT before; SAVEPOINT within")
        void = fetch(client, key(1)).lease
        assert is_stored(client, lease, key(2))
        client.execute("SELECT cache_invalidate(%s, %s, %s)", key(3))
        client.execute("RELEASE within; ROLLBACK TO before")
        assert leases(other) == [(ALICE, TYPE, "held")]
        assert not is_stored(other, void, key(1))
        assert fetch(other, key(3)).lease is not None and is_stored(other, lease, key(2))


# ── two fills with one lease ─────────────────────────────────────────────────────────────────────

@pytest.mark.parametrize("kept", [True, False])
def test_of_two_fills_with_one_lease_the_first_counts_if_it_commits(database, kept):
    with database.connect(autocommit=False) as one, database.connect() as other:
        with database.connect() as client:
            lease = fetch(client, key()).lease
        assert upsert(one, '"first"', key(), lease=lease)
        # The other one waits for nobody.
        assert timed(lambda: upsert(other, '"second"', key(), lease=lease)) < 1
        one.commit() if kept else one.rollback()
        second = upsert(other, '"second"', key(), lease=lease)
        assert (second is None) == kept
        assert lookup(other, key()) == ("first" if kept else "second")
        assert not is_stored(other, lease)


def test_a_fill_that_is_rolled_back_to_a_savepoint_can_be_made_again(database):
    with database.connect(autocommit=False) as one, database.connect() as other:
        lease = fetch(other, key()).lease
        one.execute("SAVEPOINT s")
        assert upsert(one, '"first"', key(), lease=lease)
        one.execute("ROLLBACK TO s")
        assert leases(other) == [(ALICE, TYPE, "held")]
        assert upsert(one, '"second"', key(), lease=lease)
        one.commit()
        assert lookup(other, key()) == "second" and leases(other) == []


def test_a_fill_in_a_subtransaction_that_fails_stores_nothing(database):
    with database.connect() as connection:
        lease = fetch(connection, key()).lease
        connection.execute(f"""
            DO $$ BEGIN
                PERFORM cache_upsert('{ALICE}', '{TYPE}', '{key()[2]}', '1', lease => '{lease}');
                RAISE EXCEPTION 'no';
            EXCEPTION WHEN raise_exception THEN NULL;
            END $$""")
        assert lookup(connection, key()) is None and leases(connection) == [(ALICE, TYPE, "held")]
        assert is_stored(connection, lease)


# ── waiters ──────────────────────────────────────────────────────────────────────────────────────

def test_waiters_have_the_answer_as_soon_as_it_is_committed(database, waiter):
    with database.connect(autocommit=False) as client:
        lease = fetch(client, key()).lease
        client.commit()
        waiting = [waiter() for _ in range(8)]
        assert is_stored(client, lease)
        assert not any(one.result.done() for one in waiting)
        client.commit()
        assert {one.fetched(5).content for one in waiting} == {"answer"}
        assert waiters(database) == 0


def test_one_of_the_waiters_generates_when_the_lease_is_given_back(database, waiter):
    with database.connect() as client:
        lease = fetch(client, key()).lease
        waiting = [waiter("3 seconds") for _ in range(4)]
        assert release(client, lease)
        states = sorted(one.fetched().state for one in waiting)
        assert states == ["generate", "wait", "wait", "wait"]
        assert waiters(database) == 0


def test_waiters_hear_that_the_generation_has_failed(database, waiter):
    with database.connect() as client:
        lease = fetch(client, key()).lease
        waits = waiter()
        assert release(client, lease, failed=True, retry_after="1 minute")
        assert waits.fetched().state == "failed"


def test_waiters_are_woken_when_the_lease_is_outdated(database, waiter):
    with database.connect() as client:
        fetch(client, key())
        waits = waiter()
        client.execute("SELECT cache_invalidate(%s, %s, %s)", key())
        found = waits.fetched()
        assert found.state == "generate" and found.lease is not None


def test_waiters_are_woken_when_the_time_of_the_lease_is_over(database, waiter):
    set_policy(database, lease_ttl="2 seconds")
    with database.connect() as client:
        fetch(client, key())
        assert waiter().fetched().state == "generate"


@pytest.mark.parametrize("function, sqlstate", [("pg_cancel_backend", "57014"), ("pg_terminate_backend", "57P01")])
def test_a_waiter_that_is_ended_is_counted_no_more(database, waiter, function, sqlstate):
    with database.connect() as client:
        lease = fetch(client, key()).lease
        ended, stays = waiter(), waiter()
        client.execute(f"SELECT {function}(%s)", (ended.pid,))
        assert ended.sqlstate() == sqlstate
        wait_until(lambda: waiters(database) == 1)
        assert is_stored(client, lease)
        assert stays.fetched().content == "answer"
        assert waiters(database) == 0


def test_a_waiter_whose_statement_takes_too_long_is_counted_no_more(database, waiter):
    with database.connect() as client:
        fetch(client, key())
        assert waiter(options="-c statement_timeout=500ms").sqlstate() == "57014"
        wait_until(lambda: waiters(database) == 0)


def test_a_cancelled_wait_in_a_subtransaction_is_counted_no_more(database):
    with database.connect() as client, database.connect(autocommit=False) as other:
        fetch(client, key())
        other.execute(f"""
            SET LOCAL statement_timeout = '500ms';
            DO $$ BEGIN
                PERFORM cache_fetch('{ALICE}', '{TYPE}', '{key()[2]}', wait => '30 seconds');
            EXCEPTION WHEN query_canceled THEN NULL;
            END $$""")
        assert other.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
        assert waiters(database) == 0


def test_no_more_sessions_wait_than_may(database, waiter):
    database.cluster.set(max_fetch_waiters=2)
    try:
        with database.connect() as client:
            wait_until(lambda: database.value("SHOW infinite_pages_cache.max_fetch_waiters") == "2")
            lease = fetch(client, key()).lease
            waiting = [waiter(), waiter()]
            assert timed(lambda: fetch(client, key(), wait="20 seconds")) < 5
            assert fetch(client, key(), wait="20 seconds").state == "wait"
            assert is_stored(client, lease)
            assert all(one.fetched().state == "hit" for one in waiting)
    finally:
        database.cluster.set(max_fetch_waiters=None)


def test_bursts_of_waiters_leave_none(database):
    """Leases are given back again and again while sessions come and go."""
    stop = threading.Event()

    def keep_coming():
        with database.connect() as connection:
            while not stop.is_set():
                found = fetch(connection, key(), wait="50 milliseconds")
                if found.lease:
                    release(connection, found.lease)

    with ThreadPoolExecutor(12) as pool:
        running = [pool.submit(keep_coming) for _ in range(12)]
        stop.wait(3)
        stop.set()
        for one in running:
            one.result(20)
    assert waiters(database) == 0 and database.execute("SELECT * FROM cache_leases") == []


# ── the server ───────────────────────────────────────────────────────────────────────────────────

@pytest.fixture
def own_cluster():
    """A cluster that a test may crash."""
    cluster = Cluster()
    yield cluster
    cluster.remove()


@pytest.mark.parametrize("when", ["holds a lease", "is between fill and commit"])
def test_a_backend_that_is_killed_takes_the_leases_of_all_with_it(own_cluster, when):
    database = Database(own_cluster)
    database.execute("""
        CREATE TABLE late (n int);
        CREATE FUNCTION sleep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER late AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION sleep()""")
    with database.connect() as client:
        lease = fetch(client, key()).lease
        pid = client.info.backend_pid
        if when == "holds a lease":
            os.kill(pid, signal.SIGKILL)
        else:
            client.execute("BEGIN")
            assert is_stored(client, lease)
            client.execute("INSERT INTO late VALUES (1)")
            with ThreadPoolExecutor(1) as thread:
                committed = thread.submit(lambda: client.execute("COMMIT"))
                wait_until(lambda: own_cluster.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == [(1,)])
                os.kill(pid, signal.SIGKILL)
                with pytest.raises(psycopg.OperationalError):
                    committed.result(20)
    wait_until(lambda: "reinitializing" in own_cluster.log())
    own_cluster.wait_until_up()
    with database.connect() as client:
        assert leases(client) == [] and lookup(client, key()) is None
        # A lease from before names no place, and stores nothing, also when the place is another's.
        assert not is_stored(client, lease)
        new = fetch(client, key()).lease
        assert new is not None and not is_stored(client, lease)
        assert is_stored(client, new)


def test_after_a_restart_a_lease_from_before_stores_nothing(own_cluster):
    database = Database(own_cluster)
    with database.connect() as client:
        lease = fetch(client, key()).lease
    own_cluster.restart("immediate")
    with database.connect() as client:
        client.execute("SELECT cache_invalidate(%s, %s, %s)", key())
        assert not is_stored(client, lease)
        assert fetch(client, key()).lease is not None


@pytest.mark.parametrize("days", [-3650, 3650])
def test_a_clock_that_is_set_changes_nothing_of_a_leases_time(clock_cluster, days):
    now = datetime.now(timezone.utc)
    clock_cluster.set_clock(now)
    database = Database(clock_cluster)
    try:
        set_policy(database, lease_ttl="2 seconds")
        with database.connect() as client, database.connect() as other:
            fetch(client, key())
            clock_cluster.set_clock(now + timedelta(days=days))
            assert fetch(other, key()).state == "wait"
            took = timed(lambda: wait_until(lambda: fetch(other, key()).state == "generate"))
            assert took < 10
    finally:
        clock_cluster.set_clock(datetime.now(timezone.utc))
        database.drop()
