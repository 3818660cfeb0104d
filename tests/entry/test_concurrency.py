"""There is one live entry of a key whoever writes at the same time, and nobody waits longer than lock_timeout for maintenance."""

import contextlib
import random
import threading
import time
from datetime import datetime, timedelta, timezone

import psycopg
import pytest

from harness.database import Database
from harness.entries import ALICE, BOB, CACHE, KEY, duplicates, lookup, upsert, upsert_many
from harness.errors import sqlstate_of
from harness.maintenance import LOCK_TIMEOUT, slow_down_deletions
from harness.months import add_dead_months, add_month, month, partitions
from harness.waiting import is_waiting, timed, together, wait_until
from harness.writers import KEYS, Run

BOUND = LOCK_TIMEOUT + 0.5


def months_of(database):
    return dict(database.execute(f"SELECT tableoid::regclass::text, count(*) FROM {CACHE} GROUP BY 1"))


# ── a month's edge ───────────────────────────────────────────────────────────────────────────────

@pytest.fixture
def at_the_edge(clock_cluster):
    """A database at the end of October 2026, and a clock that can be set to just before a month's end."""
    clock_cluster.set_clock(datetime(2026, 10, 31, 12, tzinfo=timezone.utc))
    database = Database(clock_cluster)
    yield database
    database.drop()


@pytest.mark.parametrize("premade", [True, False], ids=["premade", "no_partition"])
def test_upserts_across_a_months_edge_leave_one_row_of_each_key(at_the_edge, premade):
    database = at_the_edge
    edge = datetime(2026, 11, 1, tzinfo=timezone.utc)
    with database.connect() as connection:
        upsert_many(connection, KEYS, "before")
        if not premade:
            connection.execute("DROP TABLE infinite_pages_cache_2026_11, cache_audit_log_2026_11")
    run = Run(database, edge).across()
    assert run.refused == []
    assert duplicates(database) == []
    assert database.value(f"SELECT count(*) FROM {CACHE}") == len(KEYS)
    with database.connect() as connection:
        upsert_many(connection, KEYS, "after")
    assert months_of(database) == {"infinite_pages_cache_2026_11": len(KEYS)}


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_at_higher_isolation_there_is_one_row_or_40001(at_the_edge, isolation):
    database = at_the_edge
    with database.connect() as connection:
        upsert_many(connection, KEYS, "before")
    run = Run(database, datetime(2026, 11, 1, tzinfo=timezone.utc), isolation).across()
    assert {sqlstate for sqlstate, _ in run.refused} <= {"40001"}
    assert duplicates(database) == []
    assert database.value(f"SELECT count(*) FROM {CACHE}") == len(KEYS)


def test_tenants_race_to_create_the_partition_of_a_new_month(at_the_edge):
    database = at_the_edge
    edge = datetime(2026, 11, 1, tzinfo=timezone.utc)
    database.execute("DROP TABLE infinite_pages_cache_2026_11, cache_audit_log_2026_11")
    database.execute("CREATE ROLE racer NOLOGIN; SELECT cache_grant_tenant('racer')")
    barrier = threading.Barrier(8)

    def tenant(number):
        with database.connect() as connection:
            connection.execute("SET ROLE racer")
            connection.execute("SELECT set_config('infinite_pages_cache.user_id', %s, false)", (ALICE,))
            barrier.wait()
            while connection.execute("SELECT clock_timestamp()").fetchone()[0] < edge + timedelta(seconds=0.5):
                upsert(connection, str(number), (ALICE, "tone", f"{number}"))
            return lookup(connection, (ALICE, "tone", f"{number}"))

    try:
        database.cluster.set_clock(edge - timedelta(seconds=0.5))
        assert together(*[lambda number=number: tenant(number) for number in range(8)]) == list(range(8))
        assert months_of(database) == {"infinite_pages_cache_2026_11": 8}
        assert database.execute("SELECT * FROM check_partition_health() WHERE NOT ok") == []
    finally:
        database.execute("DROP OWNED BY racer; DROP ROLE racer")


def test_direct_inserts_race_upserts_and_only_the_inserts_can_fail(at_the_edge):
    database = at_the_edge
    run = Run(database, datetime(2026, 11, 1, tzinfo=timezone.utc), direct=True).across()
    assert set(run.refused) <= {("23505", "INSERT")}
    assert ("23505", "INSERT") in run.refused
    # A direct INSERT may leave a second row in the new month; the next upsert of its key removes it.
    with database.connect() as connection:
        upsert_many(connection, KEYS, "after")
    assert duplicates(database) == []


@pytest.mark.parametrize("moved", [False, True], ids=["same_month", "other_month"])
def test_repeatable_read_does_not_overwrite_what_it_cannot_see(at_the_edge, moved):
    database = at_the_edge
    with database.connect() as one, database.connect(autocommit=False) as other:
        upsert(one, "1")
        other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        assert lookup(other) == 1
        if moved:
            database.cluster.set_clock(datetime(2026, 11, 1, tzinfo=timezone.utc))
        upsert(one, "2")
        assert sqlstate_of(lambda: upsert(other, "3")).sqlstate == "40001"
        other.rollback()
        assert lookup(other) == 2
    assert duplicates(database) == []


def test_repeatable_read_against_a_first_version_it_cannot_see(database):
    with database.connect() as one, database.connect(autocommit=False) as other:
        other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        assert lookup(other) is None
        upsert(one, "1")
        assert sqlstate_of(lambda: upsert(other, "2")).sqlstate == "40001"
    assert duplicates(database) == []


# ── two writers ──────────────────────────────────────────────────────────────────────────────────

@pytest.mark.parametrize("first_is_kept", [True, False], ids=["commit", "rollback"])
@pytest.mark.parametrize("second", ["upsert", "batch", "large batch", "touch"])
def test_a_second_writer_of_a_key_waits_for_the_first(database, first_is_kept, second):
    write = {
        "upsert": lambda connection: upsert(connection, "2"),
        "batch": lambda connection: upsert_many(connection, ["other", "k"], 2),
        "large batch": lambda connection: upsert_many(connection, ["k", *KEYS[:300]], 2),
        "touch": lambda connection: connection.execute("SELECT cache_touch(%s, %s, %s)", KEY),
    }[second]
    with database.connect() as before, database.connect(autocommit=False) as one, database.connect() as two:
        upsert(before, "0")
        upsert(one, "1")
        writer = threading.Thread(target=write, args=(two,))
        writer.start()
        wait_until(lambda: is_waiting(database, two))
        assert lookup(before) == 0
        one.commit() if first_is_kept else one.rollback()
        writer.join(20)
        assert lookup(before) == (2 if second != "touch" else 1 if first_is_kept else 0)
    assert duplicates(database) == []


def test_writers_of_different_keys_do_not_wait(database):
    with database.connect(autocommit=False) as one, database.connect() as two:
        upsert(one, "1")
        two.execute("SET statement_timeout = '2s'")
        for number in range(50):
            upsert(two, "2", (ALICE, "story_foundation", f"other{number}"))
        upsert(two, "2", (BOB, *KEY[1:]))


@pytest.mark.parametrize("one, two", [(2, 2), (60, 60), (60, 300), (300, 300), (1, 300)])
def test_batches_in_opposite_orders_do_not_deadlock(database, one, two):
    keys = [f"k{number}" for number in range(max(one, two))]
    rounds = 200 // max(one, two) + 10

    def client(batch, content):
        with database.connect() as connection:
            for _ in range(rounds):
                upsert_many(connection, batch, content)

    together(lambda: client(keys[:one], 1), lambda: client(keys[:one][::-1], 2),
             lambda: client(keys[:two], 3), lambda: client(keys[:two][::-1], 4))
    assert database.value(f"SELECT count(*) FROM {CACHE}") == len(keys)


def test_a_batch_of_all_sizes_fits_the_lock_table(database):
    with database.connect() as connection:
        ids = upsert_many(connection, [f"k{number}" for number in range(10_000)], 1)
    assert len(set(ids)) == 10_000 == database.value(f"SELECT count(*) FROM {CACHE}")


def test_a_lookup_is_never_blocked_by_an_open_transaction(database):
    with database.connect() as before:
        upsert(before, "0")
    with database.connect(autocommit=False) as writer, database.connect() as reader:
        upsert(writer, "1")
        upsert_many(writer, KEYS[:300], 1)
        writer.execute("SELECT cache_invalidate(%s, %s, 'k1')", KEY[:2])
        writer.execute("SELECT create_monthly_cache_partition('2020-01-01'::date)")
        writer.execute("SELECT * FROM cleanup_expired_cache_entries_production()")
        reader.execute("SET lock_timeout = '1s'")
        assert lookup(reader) == 0
        assert reader.execute("SELECT content FROM cache_get(%s, %s, %s)", KEY).fetchall() == [(0,)]
        assert reader.execute("SELECT content FROM cache_lookup_many(%s, %s, '{k, k1}')", KEY[:2]).fetchall() == [(0,), (None,)]
        # A writer of something else goes on, too.
        upsert(reader, "1", (BOB, "tone", "k"))


def test_sessions_create_one_partition_together(database):
    barrier = threading.Barrier(8)

    def create():
        with database.connect() as connection:
            barrier.wait()
            return connection.execute("SELECT create_monthly_cache_partition('2031-05-05'::date)").fetchone()[0]

    assert together(*[create] * 8) == ["infinite_pages_cache_2031_05"] * 8
    assert database.value("SELECT count(*) FROM pg_inherits WHERE inhrelid = 'infinite_pages_cache_2031_05'::regclass") == 1


# ── maintenance beside clients ───────────────────────────────────────────────────────────────────

def test_a_session_that_looks_while_a_partition_is_attached_sees_it_afterwards(database):
    """A backend of PostgreSQL can keep a list of partitions that it read just before one was attached. The more partitions there are, the
    longer it reads."""
    for ago in range(1, 40):
        add_month(database, -ago)
    for number in range(40):
        moment, key, barrier = month(40 + number), (ALICE, "t", f"k{number}"), threading.Barrier(7)

        def look(session, pause):
            barrier.wait()
            time.sleep(pause)
            return lookup(session, key)

        with contextlib.ExitStack() as stack:
            # They know nothing of the catalog yet.
            sessions = [stack.enter_context(database.connect()) for _ in range(6)]
            together(lambda: (barrier.wait(), add_month(database, 40 + number)),
                     *[lambda session=session, pause=pause: look(session, pause / 300) for pause, session in enumerate(sessions)])
            database.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, created_at, expires_at) "
                             "VALUES (%s, %s, %s, '1', %s, 'infinity')", (*key, moment))
            assert [lookup(session, key) for session in sessions] == [1] * 6
            assert [session.execute(f"SELECT count(*) FROM {CACHE} WHERE cache_key = %s", key[2:]).fetchone() for session in sessions] == [(1,)] * 6


def add_expired(database, keys):
    with database.connect() as connection:
        connection.cursor().executemany(
            f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, expires_at) "
            "VALUES (%s, 'tone', %s, '1', now() - %s * interval '1 second')",
            [(ALICE, key, len(keys) - number) for number, key in enumerate(keys)])


@pytest.mark.parametrize("batch_size", [1000, 7])
def test_cleanup_leaves_locked_rows_and_deletes_the_others_at_once(database, batch_size):
    """The locked rows are those that expired first, the ones that a batch would begin with."""
    add_expired(database, [f"e{number}" for number in range(40)])
    with database.connect(autocommit=False) as holder, database.connect() as cleaner:
        holder.execute(f"SELECT FROM {CACHE} WHERE cache_key = ANY (%s) FOR UPDATE", ([f"e{number}" for number in range(10)],))
        cleaner.execute("SET statement_timeout = '5s'")
        cleaner.execute(f"SET infinite_pages_cache.cleanup_batch_size = {batch_size}")
        deleted = cleaner.execute("SELECT sum(deleted_count) FROM cleanup_expired_cache_entries_production()").fetchone()[0]
        assert deleted == 30
        holder.rollback()
        deleted = cleaner.execute("SELECT sum(deleted_count) FROM cleanup_expired_cache_entries_production()").fetchone()[0]
        assert deleted == 10


def test_limits_leave_locked_rows(database):
    database.execute("UPDATE cache_content_policies SET max_entries = 5 WHERE content_type = 'tone'")
    with database.connect(autocommit=False) as holder, database.connect() as one:
        for number in range(10):
            upsert(one, "1", (ALICE, "tone", f"k{number}"))
        holder.execute(f"SELECT FROM {CACHE} WHERE cache_key = 'k0' FOR UPDATE")
        one.execute("SET statement_timeout = '5s'")
        status = dict(one.execute("SELECT step, status FROM cache_run_maintenance()").fetchall())
        assert status["enforce limits"] == "ok"
        assert one.execute(f"SELECT count(*) FROM {CACHE} WHERE cache_key = 'k0'").fetchone() == (1,)


class Probe:
    """A client that does the same thing over and over, and remembers its longest wait and its errors."""

    def __init__(self, database, action):
        self.database, self.action = database, action
        self.longest, self.count, self.errors = 0.0, 0, []

    def __enter__(self):
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
        wait_until(lambda: self.count > 3)
        return self

    def run(self):
        with self.database.connect() as connection:
            while not self.stop.is_set():
                try:
                    self.longest = max(self.longest, timed(lambda: self.action(connection)))
                except psycopg.Error as error:
                    self.errors.append(error.sqlstate)
                self.count += 1
                time.sleep(0.002)

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join(30)


MAINTENANCE = {
    "drop_old_cache_partitions": "SELECT partition_name, dropped, detail FROM drop_old_cache_partitions(1)",
    "cache_run_maintenance": "SELECT step, status = 'ok', coalesce(detail, '') FROM cache_run_maintenance()",
}


@pytest.mark.parametrize("call, held", [(call, held) for call in MAINTENANCE for held in ("parent", "one partition", "parent, old audit")
                                        if call == "cache_run_maintenance" or "audit" not in held])
def test_a_drop_that_must_wait_holds_up_no_client(database, call, held):
    """A session sits idle in a transaction in which it has read: the drop cannot have its locks."""
    old = add_dead_months(database, 13, 12)
    if "audit" in held:
        # In the same run an old month of the audit log goes.
        database.execute("CREATE TABLE cache_audit_log_2024_01 PARTITION OF cache_audit_log "
                         "FOR VALUES FROM ('2024-01-01 00:00:00+00') TO ('2024-02-01 00:00:00+00')")
    with database.connect(autocommit=False) as sitter, database.connect() as worker:
        # An export of the newest of the dead months lets the others go.
        sitter.execute(f"SELECT count(*) FROM {old[-1] if held == 'one partition' else CACHE}")
        worker.execute(f"SET infinite_pages_cache.lock_timeout = '{LOCK_TIMEOUT}s'")
        with Probe(database, lookup) as lookups, Probe(database, lambda connection: upsert(connection, "1")) as upserts:
            rows = worker.execute(MAINTENANCE[call]).fetchall()
        assert old[-1] in partitions(database)
        if call == "drop_old_cache_partitions":
            kept = [name for name, dropped, detail in rows if not dropped and detail.startswith("kept")]
            assert kept == (old[-1:] if held == "one partition" else old)
        else:
            assert [row for row in rows if not row[1]] == []
            [detail] = [detail for step, _, detail in rows if step == "drop dead months"]
            assert old[-1] in detail
        assert lookups.errors == upserts.errors == []
        assert lookups.longest < BOUND
        assert upserts.longest < BOUND
        sitter.rollback()
        worker.execute(MAINTENANCE[call])
    assert partitions(database).isdisjoint(old)


def test_an_upsert_of_an_expired_key_does_not_wait_for_drops(database):
    keys = [f"e{number}" for number in range(3000)]
    add_expired(database, keys)
    add_dead_months(database, 14, 13, 12)
    dice = random.Random(1)
    with database.connect(autocommit=False) as sitter, database.connect() as worker:
        sitter.execute(f"SELECT count(*) FROM {CACHE}; SELECT count(*) FROM cache_audit_log")
        worker.execute(f"SET infinite_pages_cache.lock_timeout = '{LOCK_TIMEOUT}s'")
        with Probe(database, lambda connection: upsert(connection, "1", (ALICE, "tone", dice.choice(keys)))) as upserts:
            for _ in range(3):
                worker.execute("SELECT * FROM cache_run_maintenance()")
    assert upserts.errors == []
    assert upserts.longest < BOUND


def test_an_upsert_of_a_key_over_the_limit_does_not_wait_for_all_evictions(database):
    """A limit has just been set, and the next run has many entries to evict."""
    slow_down_deletions(database, "true", 0.001)
    database.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content) "
                     "SELECT %s, 'tone', 'k' || n, '1' FROM generate_series(1, 1500) n", (ALICE,))
    database.execute("UPDATE cache_content_policies SET max_entries = 10 WHERE content_type = 'tone'")
    dice = random.Random(1)
    with database.connect() as worker:
        worker.execute(f"SET infinite_pages_cache.lock_timeout = '{LOCK_TIMEOUT}s'; SET infinite_pages_cache.cleanup_batch_size = 50")
        with Probe(database, lambda connection: upsert(connection, "1", (ALICE, "tone", f"k{dice.randint(1, 1500)}"))) as upserts:
            worker.execute("SELECT * FROM cache_run_maintenance()")
    assert upserts.errors == []
    assert upserts.longest < BOUND


def test_a_partition_made_by_hand_is_secured_without_holding_up_lookups(database):
    """It needs row security and an index; the run that gives it both has other work to do, too."""
    slow_down_deletions(database, "OLD.cache_key = 'expired'", 1)
    add_expired(database, ["expired"])
    database.execute(f"CREATE TABLE by_hand PARTITION OF {CACHE} FOR VALUES FROM ('2020-01-01 00:00:00+00') TO ('2020-02-01 00:00:00+00')")
    with database.connect() as worker:
        worker.execute(f"SET infinite_pages_cache.lock_timeout = '{LOCK_TIMEOUT}s'")
        with Probe(database, lookup) as lookups:
            worker.execute("SELECT * FROM cache_run_maintenance()")
    assert lookups.errors == []
    assert lookups.longest < BOUND


@pytest.mark.parametrize("lock_timeout", ["500ms", "4s"])
def test_an_upsert_of_an_evicted_key_does_not_deadlock_with_drops(database, lock_timeout):
    """It waits for the run, which has deleted the key's row, and holds what the run goes on to wait for."""
    add_dead_months(database, 12)
    database.execute("UPDATE cache_content_policies SET max_entries = 1 WHERE content_type = 'tone'")
    # Expiry, between evictions and drops, takes its time.
    slow_down_deletions(database, "OLD.cache_key = 'expired'", 0.5)
    with database.connect() as client, database.connect() as worker:
        upsert(client, "1", (ALICE, "tone", "evicted"))
        upsert(client, "1", (ALICE, "tone", "kept"), priority_tier=1)
        upsert(client, "1", (BOB, "tone", "expired"), ttl="1 microsecond")
        worker.execute(f"SET infinite_pages_cache.lock_timeout = '{lock_timeout}'")
        run = threading.Thread(target=lambda: worker.execute("SELECT * FROM cache_run_maintenance()").fetchall())
        run.start()
        wait_until(lambda: database.value("SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = %s", (worker.info.backend_pid,)))
        try:
            upsert(client, "2", (ALICE, "tone", "evicted"))
        finally:
            run.join(30)
        assert lookup(client, (ALICE, "tone", "evicted")) == 2


def test_upserts_go_on_beside_maintenance(database):
    """Expired and fresh keys written by four clients while maintenance runs again and again."""
    add_expired(database, KEYS[:400])
    stop = threading.Event()

    def client(number):
        dice = random.Random(number)
        with database.connect() as connection:
            while not stop.is_set():
                keys = [(ALICE, "tone", key) for key in dice.sample(KEYS[:400], 20)]
                upsert(connection, str(number), keys[0], ttl="1 microsecond")
                upsert_many(connection, [key[2] for key in keys], number, "tone")

    def maintenance():
        try:
            with database.connect() as connection:
                return [row for _ in range(10) for row in connection.execute("SELECT step, status, detail FROM cache_run_maintenance()")]
        finally:
            stop.set()

    *_, rows = together(*[lambda number=number: client(number) for number in range(4)], maintenance)
    assert [row for row in rows if row[1] != "ok"] == []
    assert duplicates(database) == []
