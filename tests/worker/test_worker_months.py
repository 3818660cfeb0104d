"""Time passes: months are made ahead, and go once nothing in them is live, under a clock that the tests set."""

from datetime import datetime, timedelta, timezone

import pytest

from harness.clock import ClockCluster
from harness.database import Database
from harness.entries import ALICE, CACHE, count, duplicates, lookup, upsert, upsert_many
from harness.months import partitions
from harness.roles import temporary_roles
from harness.worker import is_served, settings, status, wait_for_ticks, wait_until
from harness.writers import KEYS, Run


def moment(month, day=15, *time):
    """In 2026; month 13 is January 2027."""
    return datetime(2026 + (month - 1) // 12, (month - 1) % 12 + 1, day, *time, tzinfo=timezone.utc)


def months(*numbers):
    return {f"infinite_pages_cache_{moment(number):%Y_%m}" for number in numbers}


@pytest.fixture(scope="module")
def calendar():
    cluster = ClockCluster({"infinite_pages_cache.naptime": "0", "autovacuum": "off"})
    yield cluster
    cluster.remove()


@pytest.fixture
def january(calendar):
    """A database made in January 2026, when nothing ticks."""
    calendar.set_clock(moment(1))
    database = Database(calendar)
    with temporary_roles(calendar, "tenant"):
        database.execute("SELECT cache_grant_tenant('tenant')")
        yield database
    database.drop()


def use(database, number):
    """What clients do in a month: a tenant's upserts, its INSERT into the table, and one of the owner's."""
    with database.connect() as tenant, database.connect() as owner:
        tenant.execute("SET ROLE tenant")
        tenant.execute("SELECT set_config('infinite_pages_cache.user_id', %s, false)", (ALICE,))
        for ttl in ("1 day", "infinity" if number in (2, 4) else "20 days"):
            upsert(tenant, str(number), (ALICE, "t", f"{number} for {ttl}"), ttl=ttl)
        upsert(tenant, str(number), (ALICE, "t", "every month"), ttl="infinity")
        tenant.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content) VALUES (%s, 't', %s, '1')", (ALICE, f"inserted in {number}"))
        upsert_many(owner, [f"{number}/{key}" for key in range(20)], number)
        assert lookup(tenant, (ALICE, "t", "every month")) == number


def test_six_months_without_a_worker_and_then_with_it(january):
    calendar, database = january.cluster, january
    for number in range(1, 8):
        calendar.set_clock(moment(number))
        use(database, number)
    calendar.set_clock(moment(8))
    assert months(1, 2, 3, 4, 5, 6, 7) <= partitions(database)
    with settings(calendar, naptime="200ms"):
        # August and three months ahead; February and April hold what lives for ever, July what was written last.
        wait_until(lambda: partitions(database) == months(2, 4, 7, 8, 9, 10, 11), 30)
        wait_until(lambda: count(database) == 3, 30)
        assert {key for (key,) in database.execute(f"SELECT cache_key FROM {CACHE}")} == {"2 for infinity", "4 for infinity", "every month"}
        with database.connect() as connection:
            assert lookup(connection, (ALICE, "t", "2 for infinity")) == 2
            assert lookup(connection, (ALICE, "t", "every month")) == 7
        wait_for_ticks(database)
        row = status(database)
        assert (row["worker"], row["consecutive_failures"], row["months_ahead"]) == ("on", 0, 3)
        assert database.execute("SELECT * FROM verify_production_cache() WHERE NOT ok") == []
        assert database.execute("SELECT * FROM check_partition_health() WHERE NOT ok") == []
        assert database.execute("SELECT * FROM cache_maintenance_log WHERE status <> 'ok'") == []

        # And on it goes, month by month.
        for number in range(9, 14):
            calendar.set_clock(moment(number, 1))
            wait_until(lambda: months(number, number + 1, number + 2, number + 3) <= partitions(database), 30)
            use(database, number)
        assert "infinite_pages_cache_2027_04" in partitions(database)
        assert lookup(database.connect(), (ALICE, "t", "2 for infinity")) == 2
        # A month of the audit log is kept a year.
        audit = {name for (name,) in database.execute("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'cache_audit_log'::regclass")}
        assert "cache_audit_log_2026_02" in audit
        wait_until(lambda: database.value("SELECT to_regclass('cache_audit_log_2026_01') IS NULL"))


def test_retention_drops_months_whatever_lives_in_them(january):
    calendar, database = january.cluster, january
    for number in range(1, 7):
        calendar.set_clock(moment(number))
        use(database, number)
    with settings(calendar, naptime="200ms"):
        wait_until(lambda: partitions(database) == months(2, 4, 6, 7, 8, 9), 30)
        # The current month and the two before it.
        with settings(calendar, retention_months=3):
            wait_until(lambda: partitions(database) == months(4, 6, 7, 8, 9), 30)
            with database.connect() as connection:
                assert lookup(connection, (ALICE, "t", "2 for infinity")) is None
                assert lookup(connection, (ALICE, "t", "4 for infinity")) == 4
            [(affected, role)] = database.execute("SELECT affected, role FROM cache_maintenance_log WHERE step ~ 'retention|older|old months'")
            assert affected == 1 and role == "postgres"
            with settings(calendar, retention_months=1):
                wait_until(lambda: partitions(database) == months(6, 7, 8, 9), 30)
        wait_for_ticks(database)
        assert status(database)["consecutive_failures"] == 0, status(database)["last_error"]


@pytest.mark.parametrize("premake", [3, 0], ids=["premade", "no_partition"])
def test_clients_and_the_worker_cross_a_months_edge(calendar, premake):
    """With nothing made ahead, clients and the worker race for the new month."""
    calendar.set_clock(moment(10, 31, 12))
    with settings(calendar, naptime="100ms", premake=premake):
        database = Database(calendar)
        edge = moment(11, 1)
        with database.connect() as connection:
            # The clients write more than a user may keep of this.
            connection.execute("UPDATE cache_content_policies SET max_entries = NULL")
            upsert_many(connection, KEYS, "before")
            if premake == 0:
                connection.execute("DROP TABLE IF EXISTS infinite_pages_cache_2026_11, infinite_pages_cache_2026_12, infinite_pages_cache_2027_01, "
                                   "cache_audit_log_2026_11, cache_audit_log_2026_12, cache_audit_log_2027_01")
        wait_for_ticks(database)
        run = Run(database, edge, clients=8).across()
        assert run.refused == []
        assert duplicates(database) == []
        assert count(database) == len(KEYS)
        assert {"infinite_pages_cache_2026_11"} <= partitions(database)
        if premake:
            wait_until(lambda: "infinite_pages_cache_2027_02" in partitions(database))
        is_served(database)
        # A month that a client holds at the moment when it is to be dropped is tried again, and so is one of a table that clients,
        # who wait for each other's keys, hold for longer than maintenance waits.
        wait_until(lambda: status(database)["consecutive_failures"] == 0, 60)
        assert database.execute("SELECT step, detail FROM cache_maintenance_log WHERE status <> 'ok' AND detail NOT LIKE '%kept: could not obtain lock%' "
                                "AND detail NOT LIKE '%kept: canceling statement due to lock timeout%'") == []
        assert database.execute("SELECT * FROM check_partition_health() WHERE NOT ok AND partition_name <> 'months ahead'") == []
        database.drop()


@pytest.mark.parametrize("jump", [timedelta(days=-40), timedelta(days=40)], ids=["back", "forth"])
def test_the_worker_goes_on_when_the_clock_is_put(calendar, jump):
    """As after a time server has set a clock right: nothing waits until the old time comes again."""
    calendar.set_clock(moment(6))
    database = Database(calendar)
    with settings(calendar, naptime="200ms"):
        is_served(database)
        calendar.set_clock(moment(6) + jump)
        # The month that it is now is there soon, and the ticks go on.
        wait_until(lambda: f"infinite_pages_cache_{moment(6) + jump:%Y_%m}" in partitions(database), 5)
        for _ in range(2):
            is_served(database, timeout=5)
        assert status(database)["consecutive_failures"] == 0, status(database)["last_error"]
        with database.connect() as connection:
            upsert(connection, "1")
            assert lookup(connection) == 1
    database.drop()
