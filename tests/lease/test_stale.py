"""An expired entry is kept for the stale_ttl of its content policy, and no longer: by cleanup, limits and drops of months. No lookup
returns it, and reports count it as expired once it is past both."""

import time
from datetime import datetime, timedelta, timezone

import pytest

from harness.database import Database
from harness.entries import ALICE, BOB, CACHE, count, lookup
from harness.maintenance import run
from harness.months import add_month, age, bounds, month, name_of
from harness.reports import report
from harness.roles import temporary_roles

NOW = datetime(2026, 6, 15, 12, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)


def keep(database, content_type, time):
    """Set stale_ttl of a content type."""
    database.execute("INSERT INTO cache_content_policies (content_type, stale_ttl) VALUES (%s, %s) "
                     "ON CONFLICT (content_type) DO UPDATE SET stale_ttl = excluded.stale_ttl", (content_type, time))


def add(database, key, ago, content_type="tone", created_at=None, user=ALICE, **columns):
    """INSERT an entry that has expired so long ago by the server's clock."""
    names = "".join(f", {name}" for name in columns)
    database.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, created_at, expires_at{names}) "
                     f"VALUES (%s, %s, %s, '1', coalesce(%s, now()), clock_timestamp() - %s{', %s' * len(columns)})",
                     (user, content_type, key, created_at, ago, *columns.values()))


def keys(database):
    return {key for (key,) in database.execute(f"SELECT cache_key FROM {CACHE}")}


def clean(database):
    """The number of entries that cleanup deletes."""
    return sum(row["deleted_count"] for row in report(database, "cleanup_expired_cache_entries_production()"))


# ── cleanup ──────────────────────────────────────────────────────────────────────────────────────

def test_an_entry_is_kept_from_its_expiry_to_the_end_of_its_stale_time(clock_cluster):
    clock_cluster.set_clock(NOW)
    database = Database(clock_cluster)
    keep(database, "tone", "1 hour")
    for content_type in ("tone", "setting"):
        database.execute("SELECT cache_upsert(%s, %s, 'k', '1', expires_at => %s)", (ALICE, content_type, NOW + HOUR))
    for moment, left in [(NOW + HOUR - timedelta(seconds=2), {"tone", "setting"}), (NOW + HOUR, {"tone"}),
                         (NOW + 2 * HOUR - timedelta(seconds=2), {"tone"}), (NOW + 2 * HOUR, set())]:
        clock_cluster.set_clock(moment)
        with database.connect() as connection:
            found = {name for name in ("tone", "setting") if lookup(connection, (ALICE, name, "k")) is not None}
        assert found == ({"tone", "setting"} if moment < NOW + HOUR else set())
        [row] = report(database, "partition_health_metrics WHERE months_ahead = 0")
        assert row["expired_entries"] == count(database) - len(left)
        clean(database)
        assert {name for (name,) in database.execute(f"SELECT content_type FROM {CACHE}")} == left
    database.drop()


@pytest.mark.parametrize("others", ["0", "30 minutes"])
def test_each_type_is_kept_for_its_own_time(database, others):
    keep(database, "*", others)
    for name, time in [("none", "0"), ("hour", "1 hour"), ("day", "1 day"), ("quote's \\", "1 hour"), ("two months", "2 months")]:
        keep(database, name, time)
    for name in ("none", "hour", "day", "quote's \\", "unlisted", "two months"):
        for minutes in (10, 50, 70, 23 * 60, 25 * 60, 59 * 1440, 61 * 1440):
            add(database, f"{name} {minutes}", timedelta(minutes=minutes), name)
    add(database, "live", -HOUR, "none")
    expected = {"live"} | {f"{name} {minutes}" for name, most in [("hour", 60), ("day", 1440), ("quote's \\", 60), ("two months", 60 * 1440),
                                                                  ("unlisted", 0 if others == "0" else 30)]
                           for minutes in (10, 50, 70, 23 * 60, 25 * 60, 59 * 1440) if minutes < most}
    over = len(keys(database) - expected)
    [row] = report(database, "partition_health_metrics WHERE months_ahead = 0")
    assert row["expired_entries"] == over and row["live_entries"] == len(expected)
    analytics = database.value("SELECT get_infinite_pages_analytics(%s)", (ALICE,))
    assert (analytics["live_entries"], analytics["expired_entries"]) == (1, over)
    assert clean(database) == over
    assert keys(database) == expected
    with database.connect() as connection:
        for name in ("hour", "day"):
            assert lookup(connection, (ALICE, name, f"{name} 10")) is None
        assert connection.execute("SELECT count(*) FROM cache_search(%s, 'day')", (ALICE,)).fetchone() == (0,)


def test_batches_go_past_what_is_kept_for_an_older_version(database):
    """One that hides an older version is kept until that one is over."""
    keep(database, "tone", "1 hour")
    add_month(database, -1)
    for number in range(9):
        add(database, f"k{number}", 2 * HOUR)
        add(database, f"k{number}", HOUR / 2, created_at=month(-1))
        add(database, f"over{number}", 2 * HOUR)
    database.execute(f"ALTER DATABASE {database.name} SET infinite_pages_cache.cleanup_batch_size = 4")
    assert clean(database) == 9
    assert keys(database) == {f"k{number}" for number in range(9)} and count(database) == 18
    database.execute(f"UPDATE {CACHE} SET expires_at = now() - interval '61 minutes' WHERE created_at < %s", (month(0),))
    # The older versions go first.
    assert clean(database) == 18 and count(database) == 0


def test_a_changed_stale_ttl_counts_at_once(database):
    for minutes in (30, 90):
        add(database, f"{minutes}", timedelta(minutes=minutes))
    keep(database, "tone", "1 day")
    assert clean(database) == 0
    keep(database, "tone", "1 hour")
    assert clean(database) == 1 and keys(database) == {"30"}
    keep(database, "tone", "0")
    assert clean(database) == 1 and keys(database) == set()


@pytest.mark.parametrize("time", ["5000 years", "178000000 years", "infinity"])
def test_a_stale_ttl_beyond_all_time_keeps_for_ever(database, time):
    if time == "infinity" and database.value("SELECT current_setting('server_version_num')::integer") < 170000:
        pytest.skip("an interval is finite before PostgreSQL 17")
    keep(database, "tone", time)
    database.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, expires_at) VALUES (%s, 'tone', 'old', '1', '1999-01-01')", (ALICE,))
    add(database, "gone", HOUR, "setting")
    assert clean(database) == 1 and keys(database) == {"old"}
    assert run(database)["delete expired entries"][:2] == ["ok", 0]
    [row] = report(database, "partition_health_metrics WHERE months_ahead = 0")
    assert row["expired_entries"] == 0
    assert database.value("SELECT oldest_expired_entry FROM cache_maintenance_status") is None


def test_a_service_deletes_what_is_over_and_nothing_else(database):
    keep(database, "tone", "1 hour")
    for minutes in (30, 90):
        add(database, f"{minutes}", timedelta(minutes=minutes))
    with temporary_roles(database.cluster, "backend"), database.connect() as connection:
        connection.execute("SELECT cache_grant_service('backend'); SET ROLE backend")
        assert connection.execute("SELECT sum(deleted_count)::integer FROM cleanup_expired_cache_entries_production()").fetchone() == (1,)
    assert keys(database) == {"30"}


def test_a_run_with_little_time_comes_to_every_type(served):
    """The worker's, which begins with another type each time."""
    served.execute("ALTER SYSTEM SET infinite_pages_cache.naptime = 0")
    served.execute("SELECT pg_reload_conf()")
    try:
        keep(served, "*", "1 hour")
        served.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, expires_at) "
                       "SELECT %s, 'type ' || n %% 40, 'k' || n, '1', now() - interval '2 hours' FROM generate_series(1, 400) n", (ALICE,))
    finally:
        served.execute("ALTER SYSTEM RESET infinite_pages_cache.naptime")
        served.execute("SELECT pg_reload_conf()")
    deadline = time.monotonic() + 60
    while count(served) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert count(served) == 0


@pytest.mark.parametrize("others", ["0", "30 minutes"])
def test_made_up_content_types_are_cleaned_like_others(database, others):
    """More than have a range of their own, before and after a type with a policy in the order of names."""
    keep(database, "*", others)
    keep(database, "m", "1 hour")
    for minutes in (20, 50, 70):
        add(database, f"m {minutes}", timedelta(minutes=minutes), "m")
        database.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, expires_at) "
                         "SELECT %s, letter || n, letter || n || %s, '1', now() - %s * interval '1 minute' FROM generate_series(1, 150) n, unnest(ARRAY['a', 'z']) letter",
                         (ALICE, f" {minutes}", minutes))
    oldest = "SELECT round(extract(epoch FROM now() - oldest_expired_entry) / 60) FROM cache_maintenance_status"
    assert database.value(oldest) == 70
    database.execute(f"DELETE FROM {CACHE} WHERE cache_key ~ '^[am].* 70$'")
    # It is of the last of the made-up types.
    assert database.value(oldest) == 70
    assert clean(database) == (750 if others == "0" else 450)
    expected = {"m 20", "m 50"} | {f"{letter}{n} 20" for letter in "az" for n in range(1, 151) if others != "0"}
    assert keys(database) == expected and database.value(oldest) is None


# ── limits ───────────────────────────────────────────────────────────────────────────────────────

def test_a_limit_takes_what_is_over_then_what_is_stale_then_what_lives(database):
    keep(database, "tone", "1 hour")
    for number in range(2):
        # What is over has been used most, and has the highest priority.
        add(database, f"over{number}", 2 * HOUR, hit_count=100, priority_tier=1)
        add(database, f"stale{number}", HOUR / 2, hit_count=10, priority_tier=2)
        add(database, f"live{number}", -HOUR)
    left = {"over0", "over1", "stale0", "stale1", "live0", "live1"}
    for most, gone in [(4, {"over"}), (2, {"over", "stale"}), (1, {"over", "stale"})]:
        database.execute("UPDATE cache_content_policies SET max_entries = %s WHERE content_type = 'tone'", (most,))
        run(database)
        assert len(keys(database)) == most and keys(database) <= {key for key in left if key[:-1] not in gone}
    with database.connect() as connection:
        evictions, expirations = connection.execute("SELECT evictions, expirations FROM cache_statistics() WHERE content_type = 'tone'").fetchone()
    # What a lookup would have found has been evicted, and nothing else.
    assert (evictions, expirations) == (1, 4)


# ── months ───────────────────────────────────────────────────────────────────────────────────────

def test_a_month_is_dead_when_all_of_it_is_over(database):
    keep(database, "tone", "10000 days")
    for offset, content_type in [(-4, "setting"), (-3, "tone"), (-2, "setting")]:
        add_month(database, offset)
        add(database, f"k{offset}", timedelta(days=5), content_type, created_at=month(offset))
        age(database, name_of(offset))
    # It hides an older version that is kept.
    add(database, "k-3", timedelta(days=5), "tone", created_at=month(-2))
    keep(database, "tone", "1 day")
    keep(database, "tone", "10000 days")
    steps = run(database)
    assert steps["drop dead months"] == ["ok", 1, None] and name_of(-4) not in bounds(database)
    assert {name_of(-3), name_of(-2)} <= set(bounds(database))
    kept = database.execute("SELECT partition_name, dropped, live_entries, detail FROM drop_old_cache_partitions(1)")
    detail = "kept: it holds expired entries within their stale_ttl"
    assert kept == [(name_of(offset), False, 0, detail) for offset in (-3, -2)]
    keep(database, "tone", "1 day")
    assert run(database)["drop dead months"] == ["ok", 2, None]


def test_a_month_of_which_nothing_but_stale_entries_are_left_goes_when_it_is_asked_for(database):
    keep(database, "tone", "10000 days")
    add_month(database, -2)
    add(database, "k", timedelta(days=5), "tone", created_at=month(-2))
    assert database.execute("SELECT dropped, live_entries FROM drop_old_cache_partitions(1, include_live => true)") == [(True, 0)]


# ── reports ──────────────────────────────────────────────────────────────────────────────────────

@pytest.mark.parametrize("size", ["0", "100MB"], ids=["from the summary", "counted"])
def test_reports_call_expired_what_is_past_both(database, size):
    keep(database, "tone", "1 hour")
    for minutes in (30, 30, 90):
        add(database, f"{minutes} {time.monotonic_ns()}", timedelta(minutes=minutes))
    add(database, "other", HOUR / 2, "setting", user=BOB)
    add(database, "live", -HOUR)
    database.execute(f"ALTER DATABASE {database.name} SET infinite_pages_cache.exact_report_size = '{size}'")
    if size == "0":
        # Nothing is deleted by the run that counts.
        database.execute("""CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
            CREATE TRIGGER keep BEFORE DELETE ON {} FOR EACH ROW EXECUTE FUNCTION keep()""".format(CACHE))
        run(database)
        database.execute("DROP FUNCTION keep CASCADE")
    expected = {"tone": (4, 1), "setting": (1, 1)}
    rows = {row["content_type"]: (row["total_entries"], row["expired_entries"]) for row in report(database, "cache_performance_metrics")}
    assert rows == expected
    [alert] = [row for row in report(database, "cache_alerts") if row["rule"].startswith("expired entries")]
    assert alert["value"] == 40
    oldest = database.value("SELECT now() - oldest_expired_entry FROM cache_maintenance_status")
    assert timedelta(minutes=90) <= oldest < timedelta(minutes=100)
    clean(database)
    assert database.value("SELECT oldest_expired_entry FROM cache_maintenance_status") is None
    [alert] = [row for row in report(database, "cache_alerts") if row["rule"].startswith("expired entries")]
    assert alert["value"] == (0 if size != "0" else 40)


def test_a_monitor_sees_the_same(database):
    keep(database, "tone", "1 hour")
    for minutes in (30, 90):
        add(database, f"{minutes}", timedelta(minutes=minutes))
    with temporary_roles(database.cluster, "watcher"), database.connect() as connection:
        connection.execute("GRANT pg_monitor TO watcher; SET ROLE watcher")
        assert connection.execute("SELECT expired_entries FROM cache_performance_metrics WHERE content_type = 'tone'").fetchone() == (1,)
        age, = connection.execute("SELECT extract(epoch FROM now() - oldest_expired_entry) / 60 FROM cache_maintenance_status").fetchone()
        assert 90 <= age < 100


# ── how much is read ─────────────────────────────────────────────────────────────────────────────

def tuples_read(database, call, expected):
    """How many tuples the indexes of the cache's partitions give to a call, which must return what is expected."""
    read = f"""SELECT sum(pg_stat_get_tuples_fetched(i.indexrelid) + pg_stat_get_tuples_returned(i.indexrelid))
               FROM pg_index i JOIN pg_inherits h ON h.inhrelid = i.indrelid WHERE h.inhparent = '{CACHE}'::regclass"""

    def tuples():
        # Statistics of this session come to the others when it ends.
        with database.connect() as connection:
            connection.execute("SELECT pg_stat_clear_snapshot()")
            return connection.execute(read).fetchone()[0]

    before = tuples()
    assert call() == expected
    deadline = time.monotonic() + 10
    while (found := tuples() - before) == 0 and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def test_made_up_content_types_are_not_looked_at_one_by_one(database):
    """Any tenant can store entries of as many as it likes."""
    keep(database, "tone", "1 day")
    database.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, expires_at) "
                     "SELECT %s, 'type ' || n, 'k', '1', now() + interval '1 hour' FROM generate_series(1, 3000) n", (ALICE,))
    database.execute(f"ANALYZE {CACHE}")
    assert 0 < tuples_read(database, lambda: clean(database), 0) < 1000
    assert 0 < tuples_read(database, lambda: database.value("SELECT oldest_expired_entry FROM cache_maintenance_status"), None) < 1000


def test_cleanup_beside_many_stale_entries_reads_none_of_them(database):
    """By the tuples that the indexes give, not by time."""
    keep(database, "tone", "1 day")
    database.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, expires_at) "
                     "SELECT %s, 'tone', 'k' || n, '1', now() - interval '1 hour' FROM generate_series(1, 20000) n", (ALICE,))
    for number in range(50):
        add(database, f"over{number}", HOUR, "setting")
    database.execute(f"ANALYZE {CACHE}")
    assert 50 <= tuples_read(database, lambda: clean(database), 50) < 2000
