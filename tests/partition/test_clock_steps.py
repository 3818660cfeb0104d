"""The clock is put back and forth under clients, stands in 2038, and comes to the end of the last year that a month can be named for."""

import random
import threading
import time
from datetime import datetime, timedelta, timezone

import psycopg
import pytest

from harness.clock import ClockCluster
from harness.database import Database
from harness.entries import ALICE, BOB, CACHE, duplicates, lookup, upsert
from harness.errors import sqlstate_of
from harness.months import bounds
from harness.waiting import together
from harness.worker import is_served, settings, status

EDGE = datetime(2026, 11, 1, tzinfo=timezone.utc)
CLIENTS, KEYS = 6, 40


@pytest.fixture
def at(clock_cluster):
    """A database made at a moment."""
    made = []

    def make(moment):
        clock_cluster.set_clock(moment)
        made.append(Database(clock_cluster))
        return made[-1]

    yield make
    clock_cluster.set_clock(datetime.now(timezone.utc))
    for database in made:
        database.drop()


# ── steps ────────────────────────────────────────────────────────────────────────────────────────

class Client:
    """Writes keys of its own and ones that all share, and looks each of its own up at once: what was acknowledged is there."""

    def __init__(self, database, number, stop):
        self.database, self.number, self.stop = database, number, stop
        self.stored, self.operations, self.wrong = {}, 0, []

    def run(self):
        dice = random.Random(self.number)
        with self.database.connect() as connection:
            while not self.stop.is_set():
                key, chance = f"{self.number}/{dice.randrange(KEYS)}", dice.random()
                address = (ALICE, "tone", key)
                if chance < 0.6:
                    upsert(connection, str(self.operations), address, ttl="infinity")
                    self.stored[key] = self.operations
                elif chance < 0.75:
                    touched = connection.execute("SELECT cache_touch(%s, %s, %s, 'infinity') = 'infinity'", address).fetchone()[0]
                    if (touched is not None) != (key in self.stored):
                        self.wrong.append(("touch", key, touched))
                elif chance < 0.85:
                    removed = connection.execute("SELECT cache_invalidate(%s, %s, %s)", address).fetchone()[0]
                    if removed != (self.stored.pop(key, None) is not None):
                        self.wrong.append(("invalidate", key, removed))
                else:
                    upsert(connection, str(self.number), (BOB, "tone", f"{dice.randrange(KEYS)}"), ttl="infinity")
                found = lookup(connection, address)
                if found != self.stored.get(key):
                    self.wrong.append((key, found, self.stored.get(key)))
                self.operations += 1


MINUTES, DAYS = timedelta(minutes=1), timedelta(days=1)


@pytest.mark.parametrize("steps", [
    [-2 * MINUTES, 3 * MINUTES] * 6, [-3 * DAYS, 5 * DAYS, -2 * DAYS] * 4, [70 * DAYS, -100 * DAYS, 30 * DAYS] * 4],
    ids=["minutes", "days", "months"])
def test_steps_of_the_clock_over_a_months_edge_lose_nothing(at, steps):
    """The clock is put over the edge and back twelve times, while clients write."""
    database = at(EDGE - timedelta(seconds=30))
    # The clients write more than a user may keep of this.
    database.execute("UPDATE cache_content_policies SET max_entries = NULL")
    stop = threading.Event()
    clients = [Client(database, number, stop) for number in range(CLIENTS)]
    crossings = set()

    def put():
        try:
            moment = EDGE - timedelta(seconds=30)
            for step in steps:
                before = moment
                moment += step
                database.cluster.set_clock(moment)
                crossings.add((f"{before:%Y_%m}", f"{moment:%Y_%m}"))
                # Some writes in each time.
                done = [client.operations for client in clients]
                deadline = time.monotonic() + 20
                while any(client.operations < some + 20 for client, some in zip(clients, done)):
                    assert time.monotonic() < deadline, "clients wait for the clock"
                    time.sleep(0.01)
        finally:
            stop.set()

    together(put, *[client.run for client in clients])
    assert {before < after for before, after in crossings if before != after} == {True, False}
    assert [client.wrong for client in clients if client.wrong] == []
    assert duplicates(database) == []
    expected = {key: content for client in clients for key, content in client.stored.items()}
    assert len(expected) > CLIENTS * KEYS / 4
    found = dict(database.execute(f"SELECT cache_key, content FROM {CACHE} WHERE user_id = %s", (ALICE,)))
    assert found == expected
    # Where maintenance takes it from there, live entries stay.
    rows = database.execute("SELECT step, detail FROM cache_run_maintenance() WHERE status <> 'ok'")
    assert rows == []
    assert dict(database.execute(f"SELECT cache_key, content FROM {CACHE} WHERE user_id = %s", (ALICE,))) == expected


def test_a_write_after_the_clock_was_put_back_is_the_one_that_counts(at):
    """Also the expiry, which counts from the clock as it is when it is written."""
    database = at(EDGE)
    with database.connect() as connection:
        identity = upsert(connection, "1", ttl="1 hour")
        database.cluster.set_clock(EDGE - 40 * DAYS)
        assert upsert(connection, "2", ttl="1 hour") == identity
        assert lookup(connection) == 2
        database.cluster.set_clock(EDGE - 40 * DAYS + timedelta(minutes=59))
        assert lookup(connection) == 2
        database.cluster.set_clock(EDGE - 40 * DAYS + timedelta(minutes=61))
        assert lookup(connection) is None
        assert connection.execute("SELECT sum(deleted_count) FROM cleanup_expired_cache_entries_production()").fetchone() == (1,)
        assert connection.execute(f"SELECT count(*) FROM {CACHE}").fetchone() == (0,)


def test_a_transaction_that_is_open_over_a_step(at):
    """Its now() stands still; what it writes is of the clock's month and expires by the clock."""
    database = at(EDGE - timedelta(minutes=1))
    with database.connect(autocommit=False) as connection, database.connect() as other:
        connection.execute("SELECT now()")
        for moment in (EDGE + DAYS, EDGE - 2 * DAYS):
            database.cluster.set_clock(moment)
            upsert(connection, f'"{moment}"', ttl="1 day")
            [(partition, lives, early)] = connection.execute(
                f"SELECT tableoid::regclass::text, expires_at - created_at, created_at - %s FROM {CACHE}", (moment,)).fetchall()
            assert partition == f"infinite_pages_cache_{moment:%Y_%m}" and lives == DAYS and timedelta(0) <= early < timedelta(seconds=10)
            assert lookup(connection) == str(moment) and lookup(other) is None
        connection.commit()
        assert lookup(other) == str(EDGE - 2 * DAYS)
    assert duplicates(database) == []


# ── 2038 ─────────────────────────────────────────────────────────────────────────────────────────

# 2^31 seconds after 1970.
OVERFLOW = datetime(2038, 1, 19, 3, 14, 8, tzinfo=timezone.utc)


def test_the_second_in_2038_after_which_32_bits_overflow(at):
    assert OVERFLOW.timestamp() == 2 ** 31
    database = at(OVERFLOW - timedelta(seconds=15))
    with database.connect() as connection:
        upsert(connection, "1", (ALICE, "tone", "before"), ttl="1 day")
        upsert(connection, "1", (ALICE, "tone", "over"), ttl="16 s")
        assert connection.execute("SELECT cache_touch(%s, 'tone', 'before', '2 days') > %s", (ALICE, OVERFLOW + DAYS)).fetchone() == (True,)
        assert connection.execute("SELECT clock_timestamp() < %s", (OVERFLOW,)).fetchone() == (True,), "the machine is too slow for this test"
        database.cluster.set_clock(OVERFLOW)
        assert lookup(connection, (ALICE, "tone", "before")) == 1
        upsert(connection, "2", (ALICE, "tone", "before"), ttl="1 day")
        assert lookup(connection, (ALICE, "tone", "before")) == 2
        database.cluster.set_clock(OVERFLOW + timedelta(seconds=2))
        assert lookup(connection, (ALICE, "tone", "over")) is None
        assert connection.execute("SELECT sum(deleted_count) FROM cleanup_expired_cache_entries_production()").fetchone() == (1,)
        assert connection.execute(f"SELECT tableoid::regclass::text, count(*) FROM {CACHE} GROUP BY 1").fetchall() == [("infinite_pages_cache_2038_01", 1)]
        assert connection.execute("SELECT step, detail FROM cache_run_maintenance() WHERE status <> 'ok'").fetchall() == []
        assert connection.execute("SELECT name, detail FROM verify_production_cache() WHERE NOT ok").fetchall() == []


# ── the end of time ──────────────────────────────────────────────────────────────────────────────

LAST = datetime(9999, 12, 31, 12, tzinfo=timezone.utc)


def test_the_last_month_that_has_a_name(at):
    """All works, and nothing is made ahead that would have no name."""
    database = at(LAST)
    assert set(bounds(database)) == {"infinite_pages_cache_9999_12"}
    assert bounds(database)["infinite_pages_cache_9999_12"] == "FOR VALUES FROM ('9999-12-01 00:00:00+00') TO ('10000-01-01 00:00:00+00')"
    with database.connect() as connection:
        upsert(connection, "1", ttl="1 day")
        assert lookup(connection) == 1
        assert connection.execute(f"SELECT extract(epoch FROM expires_at) - extract(epoch FROM created_at), expires_at > '10000-01-01 00:00+00' FROM {CACHE}"
                                  ).fetchone() == (86_400, True)
        assert connection.execute("SELECT step, detail FROM cache_run_maintenance() WHERE status <> 'ok'").fetchall() == []
        assert connection.execute("SELECT cache_create_current_partition()").fetchone() == ("infinite_pages_cache_9999_12",)
        # In the last minute, too.
        database.cluster.set_clock(datetime(9999, 12, 31, 23, 59, 40, tzinfo=timezone.utc))
        upsert(connection, "2", ttl="1 day")
        assert lookup(connection) == 2


# What looks, erases and maintains goes on, what would need a month of that year says so.
WRITES = {
    "upsert": "SELECT cache_upsert(%(user)s, 'tone', 'new', '1')",
    "batch": """SELECT cache_upsert_many('[{"user_id": "%(user)s", "content_type": "tone", "cache_key": "new", "content": 1}]'::text::jsonb)""",
    "current partition": "SELECT cache_create_current_partition()",
    # Their audit needs a month of the log.
    "touch": "SELECT cache_touch(%(user)s, 'tone', 'kept', 'infinity')::text",
    "invalidate": "SELECT cache_invalidate(%(user)s, 'tone', 'kept')",
    "drop": "SELECT * FROM drop_old_cache_partitions(1)",
}
GOES_ON = {
    "setup": "SELECT cache_setup()",
    "lookup": "SELECT cache_lookup(%(user)s, 'tone', 'kept')",
    "many": "SELECT * FROM cache_lookup_many(%(user)s, 'tone', '{kept}')",
    "get": "SELECT content FROM cache_get(%(user)s, 'tone', 'kept')",
    "search": "SELECT content FROM cache_search(%(user)s, 'tone', '{}')",
    "cleanup": "SELECT deleted_count FROM cleanup_expired_cache_entries_production()",
    "maintenance": "SELECT step, status FROM cache_run_maintenance()",
    "health": "SELECT * FROM check_partition_health()",
    "verify": "SELECT * FROM verify_production_cache()",
    "status": "SELECT worker FROM cache_maintenance_status",
    "metrics": "SELECT * FROM cache_performance_metrics",
    "partitions": "SELECT partition_name FROM partition_health_metrics",
    "alerts": "SELECT * FROM cache_alerts",
    "forget": "SELECT * FROM cache_forget_user(%(user)s)",
}


def test_a_year_of_five_digits_is_refused_and_not_an_internal_error(at):
    database = at(datetime(9999, 12, 31, 23, 59, 58, tzinfo=timezone.utc))
    with database.connect() as connection:
        upsert(connection, "1", (ALICE, "tone", "kept"), ttl="infinity")
        while connection.execute("SELECT clock_timestamp() < '10000-01-01 00:00+00'").fetchone()[0]:
            time.sleep(0.05)
        found = {}
        for name, call in (WRITES | GOES_ON).items():
            try:
                connection.execute(call.replace("%(user)s", ALICE if "text::jsonb" in call else f"'{ALICE}'"))
            except psycopg.Error as error:
                found[name] = error.sqlstate
        assert found == dict.fromkeys(WRITES, "22008")
        assert connection.execute("SELECT step, detail FROM cache_run_maintenance() WHERE status <> 'ok'").fetchall() == []
        refused = sqlstate_of(lambda: upsert(connection, "1"))
        assert refused.message_detail and refused.message_hint


def test_a_time_to_live_ends_with_time(at):
    """PostgreSQL's last timestamp is the last microsecond of the year 294276."""
    database = at(EDGE)
    with database.connect() as connection:
        last = "294276-12-31 23:59:59.999999+00"
        connection.execute("SELECT cache_upsert(%s, 'tone', 'last', '1', expires_at => %s)", (ALICE, last))
        connection.execute("SELECT cache_upsert(%s, 'tone', 'ever', '1', ttl => 'infinity')", (ALICE,))
        connection.execute("SELECT cache_upsert(%s, 'tone', 'ever too', '1', expires_at => 'infinity')", (ALICE,))
        # The days that are left: 292,250 years from the first of November 2026, so many of them leap years.
        [(days,)] = connection.execute("SELECT extract(day FROM timestamp '294276-12-31' - timestamp '2026-11-01')::int").fetchall()
        years = range(2027, 294276)
        assert days == 60 + 365 * (len(years) + 1) + sum(year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) for year in (*years, 294276))
        connection.execute("SELECT cache_upsert(%s, 'tone', 'days', '1', ttl => %s)", (ALICE, f"{days} days"))
        connection.execute("SELECT cache_touch(%s, 'tone', 'days', %s)", (ALICE, f"{days} days"))
        with connection.transaction():
            connection.execute("SET LOCAL TimeZone = 'UTC'")
            rows = dict(connection.execute(f"SELECT cache_key, expires_at::text FROM {CACHE}").fetchall())
        assert rows["last"] == last and rows["ever"] == rows["ever too"] == "infinity" and rows["days"].startswith("294276-12-31 00:0")
        for key in ("last", "ever", "ever too", "days"):
            assert lookup(connection, (ALICE, "tone", key)) == 1
        assert connection.execute("SELECT sum(deleted_count) FROM cleanup_expired_cache_entries_production()").fetchone() == (0,)
        before = database.contents()
        for call in ("cache_upsert(%(user)s, 'tone', 'last', '2', ttl => %(beyond)s)", "cache_touch(%(user)s, 'tone', 'last', %(beyond)s)",
                     "cache_upsert_many(jsonb_build_array(jsonb_build_object('user_id', %(user)s::text, 'content_type', 'tone', 'cache_key', 'last', "
                     "'content', 2, 'ttl', %(beyond)s::text)))",
                     "cache_upsert(%(user)s, 'tone', 'last', '2', expires_at => %(after)s)"):
            refused = sqlstate_of(lambda: connection.execute(f"SELECT {call}", {"user": ALICE, "beyond": f"{days + 2} days", "after": "294277-01-01 00:00+00"}))
            assert refused.sqlstate == "22008", call
        assert before == database.contents()


@pytest.mark.parametrize("moment", [OVERFLOW - timedelta(seconds=1), LAST], ids=["2038", "9999"])
def test_the_worker_ticks_at_the_ends_of_calendars(moment):
    cluster = ClockCluster({"infinite_pages_cache.naptime": "0", "autovacuum": "off"})
    try:
        cluster.set_clock(moment)
        database = Database(cluster)
        with settings(cluster, naptime="200ms"):
            for _ in range(3):
                is_served(database)
            assert status(database)["consecutive_failures"] == 0, status(database)["last_error"]
        database.drop()
    finally:
        cluster.remove()
