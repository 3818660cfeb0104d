"""Partitions: a month each, in UTC whatever the session's settings; how they are made, recognised and dropped."""

from datetime import datetime, timezone

import psycopg
import pytest

from harness.database import Database
from harness.entries import ALICE, BOB, CACHE, insert, lookup, upsert
from harness.errors import sqlstate_of
from harness.months import BOUNDS, bounds, month, name_of
from harness.roles import temporary_roles

# ── months in UTC ────────────────────────────────────────────────────────────────────────────────

def test_bounds_are_utc_in_every_time_zone_and_date_style(database):
    styles = ["ISO, MDY", "ISO, DMY", "SQL, DMY", "SQL, MDY", "German", "Postgres, DMY", "Postgres, YMD"]
    with database.connect() as connection:
        # Some systems have each zone once more under posix/.
        zones = [name for (name,) in connection.execute("SELECT name FROM pg_timezone_names WHERE name !~ '^posix/' ORDER BY 1")]
        assert len(zones) > 400
        found = set()
        for number, zone in enumerate(zones):
            with connection.transaction(force_rollback=True):
                connection.execute("SELECT set_config('TimeZone', %s, true), set_config('DateStyle', %s, true)",
                                   (zone, styles[number % len(styles)]))
                name = connection.execute("SELECT create_monthly_cache_partition('2027-03-01'::date)").fetchone()[0]
                connection.execute("SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO'")
                found.add(connection.execute(BOUNDS + " AND c.relname = %s", (name,)).fetchone())
    assert found == {("infinite_pages_cache_2027_03",
                      "FOR VALUES FROM ('2027-03-01 00:00:00+00') TO ('2027-04-01 00:00:00+00')")}


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Etc/GMT+12", "Asia/Kathmandu", "America/St_Johns", "Europe/Berlin",
                                  "Pacific/Chatham", "UTC"])
def test_rows_at_a_months_edges_land_in_their_month(database, zone):
    database.execute(f"ALTER DATABASE {database.name} SET TimeZone = '{zone}'")
    for date in ("2027-02-15", "2027-03-31", "2027-04-01"):
        database.value("SELECT create_monthly_cache_partition(%s::text::date)", (date,))
    assert insert(database, "2027-02-28 23:59:59.999999+00", "a") == "infinite_pages_cache_2027_02"
    assert insert(database, "2027-03-01 00:00:00+00", "b") == "infinite_pages_cache_2027_03"
    assert insert(database, "2027-03-31 23:59:59.999999+00", "c") == "infinite_pages_cache_2027_03"
    assert insert(database, "2027-04-01 00:00:00+00", "d") == "infinite_pages_cache_2027_04"
    assert lookup(database.connect(), (ALICE, "t", "c")) == 1
    # The current month's too.
    with database.connect() as connection:
        upsert(connection, "1", (BOB, "t", "now"))
        assert connection.execute(f"SELECT tableoid::regclass::text FROM {CACHE} WHERE user_id = %s", (BOB,)).fetchone() == (name_of(0),)
        assert connection.execute("SELECT * FROM check_partition_health() WHERE NOT ok").fetchall() == []
        assert connection.execute("SELECT from_month FROM partition_health_metrics WHERE partition_name = 'infinite_pages_cache_2027_03'"
                                  ).fetchone()[0].isoformat() == "2027-03-01"


@pytest.mark.parametrize("date, expected", [
    ("DATE '2027-12-31'", "2027_12"), ("TIMESTAMP '2028-02-29 23:59:59.999999'", "2028_02"), ("'2030-01-01'", "2030_01"),
    ("'2030-01-31 23:00:00'", "2030_01"), ("'0001-01-01'", "0001_01"), ("'9999-12-31'", "9999_12"),
    ("target_date => '2031-07-01'::date", "2031_07"),
    ("CURRENT_DATE + INTERVAL '1 month'", None), ("now() AT TIME ZONE 'UTC' + interval '1 month'", None),
])
def test_dates_timestamps_and_literals_are_accepted(database, date, expected):
    expected = expected or database.value("SELECT to_char(CURRENT_DATE + INTERVAL '1 month', 'YYYY_MM')")
    assert database.value(f"SELECT create_monthly_cache_partition({date})") == f"infinite_pages_cache_{expected}"
    year, number = map(int, expected.split("_"))
    after = f"{year + number // 12:04}-{number % 12 + 1:02}"
    assert bounds(database)[f"infinite_pages_cache_{expected}"] == \
        f"FOR VALUES FROM ('{expected.replace('_', '-')}-01 00:00:00+00') TO ('{after}-01 00:00:00+00')"


@pytest.mark.parametrize("date, sqlstate", [("NULL", "22004"), ("'infinity'", "22008"), ("'-infinity'", "22008"),
                                            ("'10000-01-01'", "22008"), ("'0001-12-31 BC'", "22008"), ("'soon'", "22007")])
def test_other_dates_are_refused(database, date, sqlstate):
    before = bounds(database)
    refused = sqlstate_of(lambda: database.execute(f"SELECT create_monthly_cache_partition({date})"))
    assert refused.sqlstate == sqlstate
    assert sqlstate == "22007" or refused.message_detail and refused.message_hint
    assert bounds(database) == before


# ── what is there already ────────────────────────────────────────────────────────────────────────

def test_a_name_taken_by_another_table_is_refused(database):
    database.execute("CREATE TABLE infinite_pages_cache_2027_05 (id int)")
    before = bounds(database)
    refused = sqlstate_of(lambda: database.execute("SELECT create_monthly_cache_partition('2027-05-01')"))
    assert refused.sqlstate == "42P07" and "infinite_pages_cache_2027_05" in refused.message_primary
    assert refused.message_detail and refused.message_hint
    assert bounds(database) == before
    assert database.execute("SELECT * FROM infinite_pages_cache_2027_05") == []


def test_a_table_of_the_name_in_another_schema_is_no_obstacle(database):
    database.execute("CREATE SCHEMA other; CREATE TABLE other.infinite_pages_cache_2027_05 (id int)")
    assert database.value("SELECT create_monthly_cache_partition('2027-05-01')") == "infinite_pages_cache_2027_05"
    assert "infinite_pages_cache_2027_05" in bounds(database)


def test_a_wider_partition_is_recognised(database):
    database.execute(f"CREATE TABLE second_quarter PARTITION OF {CACHE} "
                     "FOR VALUES FROM ('2028-04-01 00:00:00+00') TO ('2028-07-01 00:00:00+00')")
    before = bounds(database)
    for date in ("2028-04-01", "2028-05-20", "2028-06-30"):
        assert database.value("SELECT create_monthly_cache_partition(%s::text::date)", (date,)) == "second_quarter"
    assert bounds(database) == before
    assert database.value("SELECT create_monthly_cache_partition('2028-07-01')") == "infinite_pages_cache_2028_07"


def test_a_partition_that_covers_part_of_the_month_is_an_error_and_changes_nothing(database):
    database.execute(f"CREATE TABLE a_week PARTITION OF {CACHE} "
                     "FOR VALUES FROM ('2028-04-03 00:00:00+00') TO ('2028-04-10 00:00:00+00')")
    before = bounds(database)
    assert sqlstate_of(lambda: database.execute("SELECT create_monthly_cache_partition('2028-04-01')")).sqlstate == "42P17"
    assert bounds(database) == before
    assert database.value("SELECT to_regclass('infinite_pages_cache_2028_04')") is None


def test_upserts_in_a_partition_of_several_months_keep_one_row(clock_cluster):
    clock_cluster.set_clock(datetime(2026, 4, 30, 12, tzinfo=timezone.utc))
    database = Database(clock_cluster)
    database.execute(f"""
        DROP TABLE infinite_pages_cache_2026_04, infinite_pages_cache_2026_05, infinite_pages_cache_2026_06;
        CREATE TABLE spring PARTITION OF {CACHE} FOR VALUES FROM ('2026-04-01 00:00:00+00') TO ('2026-07-01 00:00:00+00');
        SELECT cache_setup()""")
    with database.connect() as connection:
        upsert(connection, "1", (ALICE, "t", "k"))
        clock_cluster.set_clock(datetime(2026, 5, 1, tzinfo=timezone.utc))
        upsert(connection, "2", (ALICE, "t", "k"))
        assert lookup(connection, (ALICE, "t", "k")) == 2
        assert connection.execute(f"SELECT tableoid::regclass::text FROM {CACHE}").fetchall() == [("spring",)]
    database.drop()


# ── properties ───────────────────────────────────────────────────────────────────────────────────

def test_properties_of_a_partition_whatever_default_privileges_grant(database, roles):
    database.execute("ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO anon, authenticated, PUBLIC")
    name = database.value("SELECT create_monthly_cache_partition('2027-05-01')")
    row_security, forced, grantees, options = database.execute(
        "SELECT relrowsecurity, relforcerowsecurity, ARRAY(SELECT grantee FROM aclexplode(relacl) WHERE grantee <> relowner), reloptions "
        "FROM pg_class WHERE relname = %s", (name,))[0]
    assert (row_security, forced, grantees) == (True, False, [])
    assert set(options) == {"fillfactor=75", "toast_tuple_target=128"}
    indexes = [definition for (definition,) in database.execute("SELECT indexdef FROM pg_indexes WHERE tablename = %s", (name,))]
    assert any("UNIQUE" in definition and definition.endswith("(user_id, cache_entry_digest(content_type, cache_key))")
               for definition in indexes)
    # No index holds a column that counting a hit changes.
    assert not any(column in definition for definition in indexes
                   for column in ("hit_count", "last_accessed", "token_cost_saved", "access_frequency"))
    # Where the server has lz4.
    [(compression, with_lz4)] = database.execute(
        "SELECT attcompression::text, 'lz4' = ANY (enumvals) FROM pg_attribute, pg_settings "
        "WHERE attrelid = %s::regclass AND attname = 'content' AND name = 'default_toast_compression'", (name,))
    assert compression == ("l" if with_lz4 else "")
    for role in roles:
        for privilege in ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"):
            assert not database.value("SELECT has_table_privilege(%s, %s, %s)", (role, name, privilege))


def test_there_is_no_default_partition_and_three_months_ahead(database):
    assert set(bounds(database)) == {name_of(offset) for offset in range(4)}
    assert "DEFAULT" not in bounds(database).values()


def test_counting_a_hit_is_a_hot_update(database):
    with database.connect() as connection:
        for number in range(50):
            upsert(connection, '"text"', (ALICE, "t", f"k{number}"))
        with connection.transaction():
            for _ in range(3):
                connection.execute(f"UPDATE {CACHE} SET hit_count = hit_count + 1, last_accessed = now(), token_cost_saved = 7, "
                                   "access_frequency = access_frequency + 1 WHERE cache_key = 'k1'")
            counts = connection.execute("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_user_tables WHERE relname = %s", (name_of(0),))
            assert counts.fetchone() == (3, 3)


def test_direct_duplicates_are_refused_within_a_month_and_allowed_across_months(database):
    database.execute("SELECT create_monthly_cache_partition('2025-01-01'), create_monthly_cache_partition('2025-02-01')")
    insert(database, "2025-01-01 00:00:00+00")
    with pytest.raises(psycopg.errors.UniqueViolation):
        insert(database, "2025-01-31 12:00:00+00")
    insert(database, "2025-02-01 00:00:00+00")
    insert(database, "2025-01-31 12:00:00+00", user=BOB)
    insert(database, "2025-01-31 12:00:00+00", key="K")
    assert database.value(f"SELECT count(*) FROM {CACHE}") == 4


def test_only_the_owner_and_services_make_and_drop_partitions(database, cluster):
    months = "create_monthly_cache_partition('2027-05-01')", "drop_old_cache_partitions()"
    with temporary_roles(cluster, "tenant", "service") as (tenant, service):
        database.execute("SELECT cache_grant_tenant('tenant'), cache_grant_service('service')")
        for role, calls in ((tenant, (*months, "cache_run_maintenance()")), (service, ["cache_run_maintenance()"])):
            for call in calls:
                with database.connect() as connection:
                    connection.execute(f"SET ROLE {role}")
                    assert sqlstate_of(lambda: connection.execute(f"SELECT * FROM {call}")).sqlstate == "42501"


# ── dropping ─────────────────────────────────────────────────────────────────────────────────────

@pytest.fixture
def old(database):
    """Empty partitions of the last eight months."""
    for offset in range(-8, 0):
        database.execute("SELECT create_monthly_cache_partition(%s::timestamp)", (month(offset).replace(tzinfo=None),))
    return database


@pytest.mark.parametrize("arguments, kept", [("", 6), ("6", 6), ("3", 3), ("months_to_keep => 1", 1), ("100", 100)])
def test_months_to_keep_counts_the_current_month(old, arguments, kept):
    rows = old.execute(f"SELECT partition_name, dropped, live_entries FROM drop_old_cache_partitions({arguments})")
    assert rows == [(name_of(offset), True, 0) for offset in range(-8, 1 - kept)]
    assert set(bounds(old)) == {name_of(offset) for offset in range(max(-8, 1 - kept), 4)}
    assert old.execute(f"SELECT * FROM drop_old_cache_partitions({arguments})") == []


@pytest.mark.parametrize("months", [0, -1])
def test_at_least_one_month_is_kept(old, months):
    refused = sqlstate_of(lambda: old.execute(f"SELECT * FROM drop_old_cache_partitions({months})"))
    assert refused.sqlstate == "22023" and str(months) in refused.message_detail and refused.message_hint
    assert len(bounds(old)) == 12


def test_live_entries_keep_their_month_unless_told_otherwise(old):
    for number, expires_at in enumerate(["infinity", "2999-01-01", "2020-01-01"]):
        insert(old, month(-7), f"k{number}", expires_at=expires_at)
    insert(old, month(-6), "expired", expires_at="2020-01-01")
    rows = {name: row for name, *row in old.execute("SELECT * FROM drop_old_cache_partitions(6)")}
    dropped, live, freed, detail = rows[name_of(-7)]
    assert (dropped, live, freed) == (False, 2, 0) and "live" in detail
    # An expired entry keeps nothing, and what its partition took is told.
    dropped, live, freed, _ = rows[name_of(-6)]
    assert (dropped, live) == (True, 0) and freed >= 8192 * 4
    assert name_of(-7) in bounds(old) and name_of(-6) not in bounds(old)

    [row] = old.execute("SELECT partition_name, dropped, live_entries FROM drop_old_cache_partitions(6, include_live => true)")
    assert row == (name_of(-7), True, 2)
    assert old.value(f"SELECT count(*) FROM {CACHE}") == 0


def test_partitions_with_names_of_the_users_own_are_dropped_and_no_others(database):
    """A partition may be called anything and lie in any schema; a table of a similar name is not one."""
    database.execute(f"""
        CREATE SCHEMA attic;
        CREATE TABLE "Old Entries" PARTITION OF {CACHE} FOR VALUES FROM ('2020-01-01 00:00:00+00') TO ('2020-02-01 00:00:00+00');
        CREATE TABLE "January" PARTITION OF {CACHE} FOR VALUES FROM ('2021-01-01 00:00:00+00') TO ('2021-02-01 00:00:00+00');
        CREATE TABLE attic.february PARTITION OF {CACHE} FOR VALUES FROM ('2021-02-01 00:00:00+00') TO ('2021-03-01 00:00:00+00');
        CREATE TABLE january (kept text);
        CREATE TABLE february (kept text)""")
    rows = database.execute("SELECT partition_name, dropped FROM drop_old_cache_partitions(6)")
    assert rows == [("Old Entries", True), ("January", True), ("february", True)]
    assert set(bounds(database)) == {name_of(offset) for offset in range(4)}
    assert database.execute("SELECT * FROM january, february") == []


@pytest.mark.parametrize("partition", ['"Old Entries"', "attic.february"])
def test_setup_takes_care_of_partitions_with_names_of_the_users_own(database, partition):
    database.execute(f"CREATE SCHEMA attic; CREATE TABLE {partition} PARTITION OF {CACHE} "
                     "FOR VALUES FROM ('2020-01-01 00:00:00+00') TO ('2020-02-01 00:00:00+00'); SELECT cache_setup()")
    assert database.value("SELECT relrowsecurity FROM pg_class WHERE oid = %s::regclass", (partition,))
    assert database.execute("SELECT * FROM check_partition_health() WHERE NOT ok") == []


@pytest.mark.parametrize("partition", ['"Audit 2020"', "attic.audit"])
def test_archiving_moves_partitions_with_names_of_the_users_own(database, partition):
    database.execute(f"CREATE SCHEMA attic; CREATE TABLE {partition} PARTITION OF cache_audit_log "
                     "FOR VALUES FROM ('2020-01-01 00:00:00+00') TO ('2020-02-01 00:00:00+00'); "
                     "INSERT INTO cache_audit_log (action, \"timestamp\") VALUES ('upsert', '2020-01-15')")
    assert database.value("SELECT sum(audit_rows) FROM archive_audit_logs()") == 1
    assert database.value("SELECT count(*) FROM cache_audit_archive") == 1


def test_partitions_of_other_tables_are_not_read_for_months(database):
    """Whatever their bounds are, and however the planner gets to those of the cache."""
    with database.connect() as connection:
        connection.execute("CREATE TABLE numbers (n int) PARTITION BY RANGE (n); CREATE TABLE numbers_1 PARTITION OF numbers FOR VALUES FROM (1) TO (9);"
                           "CREATE TABLE words (w text) PARTITION BY RANGE (w); CREATE TABLE words_1 PARTITION OF words FOR VALUES FROM ('a') TO ('b');"
                           "CREATE TABLE days (d date) PARTITION BY LIST (d); CREATE TABLE days_1 PARTITION OF days FOR VALUES IN ('2027-01-01')")
        ahead = "SELECT months_ahead FROM cache_maintenance_status()"
        before = connection.execute(ahead).fetchone()
        for settings in ("enable_nestloop = off", "enable_hashjoin = off", "enable_indexscan = off"):
            connection.execute(f"SET {settings}")
            assert connection.execute(ahead).fetchone() == before
            assert connection.execute("SELECT * FROM check_partition_health() WHERE NOT ok").fetchall() == []
            assert connection.execute("SELECT count(*) FROM verify_production_cache() WHERE name LIKE '%month%' AND NOT ok").fetchone() == (0,)
            assert connection.execute("SELECT count(*) FROM cache_alerts WHERE rule LIKE 'partitions ready%' AND firing").fetchone() == (0,)
            connection.execute("SELECT * FROM partition_health_metrics")
