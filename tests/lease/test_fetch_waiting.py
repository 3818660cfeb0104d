"""A caller that waits is woken by the commit of the answer, and waits nowhere where others would wait for it."""

import threading
import time
from contextlib import contextmanager

import psycopg
import pytest

from harness.cluster import Cluster
from harness.database import Database
from harness.entries import ALICE, CACHE, KEY, upsert
from harness.leases import counted, expire, fetch, release, set_policy
from harness.waiting import timed, wait_until

LONG = "8 seconds"


class Waiter:
    """A session whose fetch waits."""

    def __init__(self, database, key=KEY, wait=LONG, before=()):
        self.connection = database.connect()
        for statement in before:
            self.connection.execute(statement)
        self.key, self.wait, self.found, self.error = key, wait, None, None
        self.pid = self.connection.info.backend_pid
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        try:
            self.found = fetch(self.connection, self.key, wait=self.wait)
        except psycopg.Error as error:
            self.error = error.sqlstate
        self.ended_at = time.monotonic()

    def ends(self):
        self.thread.join(20)
        assert not self.thread.is_alive()
        self.connection.close()
        return self.error or self.found.state


def sleeping(database):
    return database.value("SELECT coalesce(sum(waiters), 0) FROM cache_leases")


@contextmanager
def waiting(database, number=1, **arguments):
    """Sessions that wait for the answer."""
    before = sleeping(database)
    waiters = [Waiter(database, **arguments) for _ in range(number)]
    wait_until(lambda: sleeping(database) == before + number)
    yield waiters


def test_who_waits_is_woken_by_the_commit_of_the_answer(database):
    """Far sooner than by asking again after retry_after, 2 s."""
    delays = []
    with database.connect() as generator:
        for number in range(10):
            key = (ALICE, "t", str(number))
            lease = fetch(generator, key).lease
            with waiting(database, 3, key=key) as waiters:
                with generator.transaction():
                    assert upsert(generator, '"text"', key, lease=lease) is not None
                    # Not before the commit.
                    time.sleep(0.05)
                    assert sleeping(database) == 3
                stored_at = time.monotonic()
            assert [(waiter.ends(), waiter.found.content, waiter.found.lease) for waiter in waiters] == [("hit", "text", None)] * 3
            delays += [waiter.ended_at - stored_at for waiter in waiters]
    assert sorted(delays)[len(delays) // 2] < 0.05 and max(delays) < 0.5


def test_a_wait_counts_as_one_lookup(database):
    with database.connect() as generator:
        lease = fetch(generator).lease
        with waiting(database) as [waiter]:
            upsert(generator, '"text"', lease=lease)
        assert waiter.ends() == "hit"
    assert counted(database) == {"misses": 1, "hits": 1, "leases_granted": 1, "waits": 1, "waits_hit": 1, "generations": 1}


def test_a_wait_is_not_timed_as_a_lookup(database):
    with database.connect() as generator:
        lease = fetch(generator).lease
        with waiting(database) as [waiter]:
            time.sleep(0.3)
            upsert(generator, '"text"', lease=lease)
        waiter.ends()
    # The microseconds of one lookup, below 2^18 = 0.26 s.
    assert database.value("SELECT (SELECT sum(n) FROM unnest(lookup_us) n) FROM cache_statistics() WHERE content_type = %s", (KEY[1],)) == 1


def test_one_of_those_who_wait_generates_when_the_lease_is_given_back(database):
    with database.connect() as generator:
        lease = fetch(generator).lease
        with waiting(database, 3) as waiters:
            release(generator, lease)
            wait_until(lambda: any(waiter.found for waiter in waiters))
            [chosen] = [waiter for waiter in waiters if waiter.found]
            assert chosen.found.state == "generate" and chosen.found.lease is not None
            # The others wait for it now.
            time.sleep(0.1)
            assert [waiter.found is None for waiter in waiters].count(True) == 2
            upsert(generator, '"text"', lease=chosen.found.lease)
        assert sorted(waiter.ends() for waiter in waiters) == ["generate", "hit", "hit"]


def test_a_failure_wakes_those_who_wait(database):
    with database.connect() as generator:
        lease = fetch(generator).lease
        with waiting(database, 2) as waiters:
            release(generator, lease, failed=True, retry_after="1 minute")
        assert [waiter.ends() for waiter in waiters] == ["failed", "failed"]
        assert 50 < waiters[0].found.retry_after.total_seconds() <= 60


def test_the_end_of_a_leases_time_wakes_one_who_waits(database):
    set_policy(database, lease_ttl="1 second")
    with database.connect() as generator:
        fetch(generator)
        begun = time.monotonic()
        with waiting(database, 1) as [waiter]:
            pass
        assert waiter.ends() == "generate" and 0.9 < waiter.ended_at - begun < 3


def test_a_wait_ends_with_its_time(database):
    with database.connect() as generator, database.connect() as waiter:
        fetch(generator)
        took = timed(lambda: fetch(waiter, wait="700 milliseconds"))
        assert 0.7 <= took < 2
        assert fetch(waiter, wait="100 milliseconds").state == "wait"
    assert counted(database) == {"misses": 3, "leases_granted": 1, "waits": 2}


def test_a_rolled_back_answer_leaves_those_who_wait_asleep(database):
    with database.connect() as generator:
        lease = fetch(generator).lease
        with waiting(database) as [waiter]:
            with generator.transaction(force_rollback=True):
                upsert(generator, '"text"', lease=lease)
            time.sleep(0.2)
            assert waiter.found is None
            upsert(generator, '"again"', lease=lease)
        assert waiter.ends() == "hit" and waiter.found.content == "again"


def test_who_waits_is_not_woken_by_other_keys(database):
    with database.connect() as generator:
        lease = fetch(generator).lease
        with waiting(database) as [waiter]:
            for number in range(50):
                key = (ALICE, "t", f"other {number}")
                upsert(generator, '"text"', key, lease=fetch(generator, key).lease)
            assert waiter.found is None
            upsert(generator, '"text"', lease=lease)
        assert waiter.ends() == "hit"


def test_an_answer_stored_without_the_lease_is_found_when_the_wait_ends(database):
    with database.connect() as generator:
        fetch(generator)
        with waiting(database, wait="1 second") as [waiter]:
            upsert(generator, '"text"')
        assert waiter.ends() == "hit"


def test_what_is_stale_is_served_without_waiting(database):
    set_policy(database, stale_ttl="1 hour")
    with database.connect() as generator, database.connect() as other:
        upsert(generator, '"old"')
        expire(database, "1 minute")
        assert fetch(generator).state == "refresh"
        assert timed(lambda: fetch(other, wait=LONG)) < 1


def test_a_waiter_is_shown_as_waiting_for_a_lease(database):
    with database.connect() as generator:
        lease = fetch(generator).lease
        with waiting(database) as [waiter]:
            kind, event = database.execute("SELECT wait_event_type, wait_event FROM pg_stat_activity WHERE pid = %s", (waiter.pid,))[0]
            assert kind == "Extension"
            assert event == "Extension" or "ease" in event
            release(generator, lease)
        waiter.ends()


# ── who does not wait ────────────────────────────────────────────────────────────────────────────

REFUSALS = {
    "has written": ["CREATE TEMP TABLE written (n int)", "BEGIN", "INSERT INTO written VALUES (1)"],
    "has a transaction id": ["BEGIN", "SELECT pg_current_xact_id()"],
    "holds an advisory lock": ["SELECT pg_advisory_lock(7)"],
    "holds an advisory lock of its transaction": ["BEGIN", "SELECT pg_advisory_xact_lock(7)"],
    "holds a lock on another table": ["BEGIN", "SELECT count(*) FROM jobs"],
    "holds a lock on a row": ["BEGIN", "SELECT * FROM jobs FOR UPDATE"],
    "has locked the cache": ["BEGIN", f"LOCK {CACHE} IN SHARE MODE"],
    "is repeatable read": ["BEGIN ISOLATION LEVEL REPEATABLE READ"],
    "is serializable": ["BEGIN ISOLATION LEVEL SERIALIZABLE"],
    "was granted another lease": ["BEGIN", f"SELECT cache_fetch('{ALICE}', 't', 'another')"],
    "has ended leases": ["BEGIN", f"SELECT cache_end_leases('{ALICE}', 'another type')"],
    "has invalidated what was not there": ["BEGIN", f"SELECT cache_invalidate('{ALICE}', 't', 'none')"],
}


@pytest.mark.parametrize("statements", REFUSALS.values(), ids=REFUSALS)
def test_a_transaction_that_others_may_have_to_wait_for_does_not_wait(database, statements):
    database.execute("CREATE TABLE jobs AS SELECT 1 AS n")
    with database.connect() as generator, database.connect() as other:
        fetch(generator)
        for statement in statements:
            other.execute(statement)
        begun = time.monotonic()
        found = fetch(other, wait=LONG)
        assert time.monotonic() - begun < 3
        higher = any("ISOLATION" in statement for statement in statements)
        assert found.state == ("generate" if higher else "wait") and found.lease is None
        other.rollback()


ALLOWED = {
    "no transaction": [],
    "a transaction": ["BEGIN"],
    "a read-only transaction": ["BEGIN READ ONLY"],
    "settings of a request": ["BEGIN", "SELECT set_config('request.jwt.claims', '{}', true)", "SET LOCAL statement_timeout = '1min'"],
    "what it has read of the cache": ["BEGIN", f"SELECT cache_lookup('{ALICE}', 't', 'x')", f"SELECT count(*) FROM {CACHE}",
                                      "SELECT count(*) FROM cache_content_policies", f"SELECT cache_get('{ALICE}', 't', 'x')",
                                      "SELECT count(*) FROM pg_class"],
    "a savepoint": ["BEGIN", "SAVEPOINT s"],
    "a large answer out of line": ["BEGIN", f"SELECT length(cache_lookup('{ALICE}', 't', 'large')::text)"],
}


@pytest.mark.parametrize("statements", ALLOWED.values(), ids=ALLOWED)
def test_a_transaction_that_has_only_read_the_cache_waits(database, statements):
    with database.connect() as generator:
        upsert(generator, '"%s"' % "".join(chr(33 + (i * i * i) % 89) for i in range(100_000)).replace('"', "-").replace("\\", "-"),
               (ALICE, "t", "large"))
        lease = fetch(generator).lease
        with waiting(database, before=statements) as [waiter]:
            upsert(generator, '"text"', lease=lease)
        assert waiter.ends() == "hit"


def test_the_holder_of_a_lease_does_not_wait_for_itself(database):
    with database.connect() as connection, connection.transaction():
        assert fetch(connection).state == "generate"
        assert timed(lambda: fetch(connection, wait=LONG)) < 3


def test_one_call_for_several_keys_waits_for_none_once_it_has_a_lease(database):
    with database.connect() as generator, database.connect() as other:
        fetch(generator, (ALICE, "t", "2"))
        begun = time.monotonic()
        found = other.execute("SELECT f.state FROM generate_series(1, 3) n, cache_fetch(%s, 't', n::text, %s) f", (ALICE, LONG)).fetchall()
        assert found == [("generate",), ("wait",), ("generate",)] and time.monotonic() - begun < 3


# ── cancelled, terminated, too many ──────────────────────────────────────────────────────────────

@pytest.mark.parametrize("end, sqlstate", [("pg_cancel_backend", "57014"), ("pg_terminate_backend", "57P01")])
def test_a_waiter_can_be_cancelled_and_terminated(database, end, sqlstate):
    with database.connect() as generator:
        lease = fetch(generator).lease
        with waiting(database) as [waiter]:
            database.execute(f"SELECT {end}(%s)", (waiter.pid,))
            waiter.thread.join(20)
        assert waiter.error == sqlstate
        wait_until(lambda: sleeping(database) == 0)
        assert upsert(generator, '"text"', lease=lease) is not None


def test_a_waiter_obeys_statement_timeout(database):
    with database.connect() as generator:
        fetch(generator)
        waiter = Waiter(database, before=["SET statement_timeout = '300ms'"])
        assert waiter.ends() == "57014"
        wait_until(lambda: sleeping(database) == 0)


def test_a_wait_in_a_subtransaction_that_fails_leaves_no_trace(database):
    with database.connect() as generator, database.connect() as other, other.transaction():
        fetch(generator)
        other.execute("SET LOCAL statement_timeout = '300ms'")
        with pytest.raises(psycopg.errors.QueryCanceled), other.transaction():
            fetch(other, wait=LONG)
        assert sleeping(database) == 0
        other.execute("SET LOCAL statement_timeout = 0")
        assert fetch(other, wait="100 milliseconds").state == "wait"


@pytest.fixture(scope="module")
def crowded():
    """A cluster in which two may wait."""
    cluster = Cluster({"infinite_pages_cache.max_fetch_waiters": "2"})
    database = Database(cluster)
    yield database
    cluster.remove()


def test_no_more_than_max_fetch_waiters_wait(crowded):
    with crowded.connect() as generator, crowded.connect() as third:
        lease = fetch(generator).lease
        with waiting(crowded, 2) as waiters:
            for _ in range(3):
                begun = time.monotonic()
                assert fetch(third, wait=LONG).state == "wait" and time.monotonic() - begun < 2
            upsert(generator, '"text"', lease=lease)
        assert [waiter.ends() for waiter in waiters] == ["hit", "hit"]
        # Their places are free again.
        key = (ALICE, "t", "next")
        lease = fetch(generator, key).lease
        with waiting(crowded, 2, key=key) as waiters:
            release(generator, lease)
            wait_until(lambda: any(waiter.found for waiter in waiters))
            crowded.execute("SELECT cache_end_leases(%s)", (ALICE,))
        assert "generate" in [waiter.ends() for waiter in waiters]


def test_nobody_waits_where_max_fetch_waiters_is_0(crowded):
    crowded.cluster.execute("ALTER SYSTEM SET infinite_pages_cache.max_fetch_waiters = 0")
    crowded.cluster.execute("SELECT pg_reload_conf()")
    try:
        with crowded.connect() as generator, crowded.connect() as other:
            wait_until(lambda: other.execute("SHOW infinite_pages_cache.max_fetch_waiters").fetchone() == ("0",))
            fetch(generator, (ALICE, "t", "zero"))
            assert timed(lambda: fetch(other, (ALICE, "t", "zero"), wait=LONG)) < 2
    finally:
        crowded.cluster.execute("ALTER SYSTEM RESET infinite_pages_cache.max_fetch_waiters")
        crowded.cluster.execute("SELECT pg_reload_conf()")


def test_a_holder_that_dies_leaves_its_lease_until_its_time_is_over(database):
    """Nobody can know that it will not store."""
    set_policy(database, lease_ttl="2 seconds")
    with database.connect() as other:
        with database.connect() as holder:
            fetch(holder)
        assert fetch(other).state == "wait"
        assert fetch(other, wait=LONG).state == "generate"
