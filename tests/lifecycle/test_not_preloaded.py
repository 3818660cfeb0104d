"""Without the library preloaded there is no shared memory: nothing is counted, and everything else works."""

import pytest

from harness.cluster import Cluster
from harness.entries import ALICE, CACHE, lookup, upsert
from harness.errors import sqlstate_of
from harness.reports import report, rows_for_each_role
from harness.tally import GET, MANY, ONE

KEY = (ALICE, "tone", "k")


@pytest.fixture(scope="module")
def cluster():
    cluster = Cluster({"shared_preload_libraries": ""})
    yield cluster
    cluster.remove()


def test_who_installs_it_is_told(empty_database):
    notices = []
    with empty_database.connect() as connection:
        connection.add_notice_handler(lambda diag: notices.append(
            (diag.severity, diag.sqlstate, diag.message_primary, diag.message_detail, diag.message_hint)))
        connection.execute("CREATE EXTENSION infinite_pages_cache")
        [(severity, sqlstate, message, detail, hint)] = notices
        assert (severity, sqlstate) == ("WARNING", "01000")
        assert "not preloaded" in message and "not counted" in detail
        assert "shared_preload_libraries = 'infinite_pages_cache'" in hint
        # Once is enough.
        connection.execute("SELECT cache_setup()")
        assert len(notices) == 1
    [check] = [row for row in report(empty_database, "verify_production_cache()") if row["name"] == "the library is preloaded"]
    assert not check["ok"] and "shared_preload_libraries" in check["hint"]


def test_alerts_and_checks_are_the_same_for_every_role(database):
    database.cluster.execute(f"ALTER DATABASE {database.name} SET infinite_pages_cache.audit = 'all'")
    found = rows_for_each_role(database)
    alerts, checks = found["postgres"]
    assert len([what for rule, what in alerts if "hit rate" in rule and "shared_preload_libraries" in what]) == 2
    failed = {name: hint for name, ok, hint in checks if not ok}
    assert {"the library is preloaded", "lookups can be audited"} <= failed.keys()
    assert found["watcher"] == found["backend"] == found["postgres"]


def test_what_serves_a_preloaded_library_is_no_misspelt_setting(database):
    """Such lines may stand in postgresql.conf."""
    with database.connect(options="-c infinite_pages_cache.max_tracked_entries=300") as connection:
        notices = []
        connection.add_notice_handler(lambda diag: notices.append(diag.message_primary))
        connection.execute("LOAD 'infinite_pages_cache'")
        assert connection.execute("SHOW infinite_pages_cache.naptime").fetchone() == ("30s",)
        assert notices == []


def test_who_preloads_it_is_told_nothing():
    cluster = Cluster()
    try:
        with cluster.connect() as connection:
            notices = []
            connection.add_notice_handler(lambda diag: notices.append(diag.message_primary))
            connection.execute("CREATE EXTENSION infinite_pages_cache")
            assert notices == []
    finally:
        cluster.remove()


def test_nothing_is_counted_and_everything_works(database):
    with database.connect() as connection:
        upsert(connection, "1", KEY, token_cost=2)
        upsert(connection, "2", KEY, token_cost=2)
        for sql in (ONE, GET, MANY):
            assert connection.execute(sql, KEY).fetchall() == [(2,)]
        assert lookup(connection, (ALICE, "tone", "none")) is None
        assert connection.execute("SELECT cache_invalidate(%s, 'tone', 'none')", (ALICE,)).fetchone() == (0,)
        for empty in ("cache_statistics()", "cache_statistics(true)", "cache_pending_hits()", "cache_statistics_hourly"):
            assert connection.execute(f"SELECT * FROM {empty}").fetchall() == []
        assert connection.execute("SELECT * FROM cache_flush_statistics()").fetchall() == [(0, 0, 0, 0)]
        assert connection.execute("SELECT hit_count FROM cache_get(%s, %s, %s)", KEY).fetchone() == (0,)
        [(status, affected)] = connection.execute("SELECT status, affected FROM cache_run_maintenance() WHERE step = 'flush statistics'").fetchall()
        assert (status, affected) == ("ok", 0)
    [row] = report(database, "cache_performance_metrics")
    assert (row["total_entries"], row["cache_hits"], row["tokens_saved"]) == (1, 0, 0)
    unknown = ("hit_rate_percentage", "lookups", "hit_rate_last_hour", "hit_rate_last_day", "p50_ms", "p95_ms", "p99_ms",
               "tokens_spent_last_day", "tokens_saved_last_day", "cost_saved_percentage")
    assert {column: row[column] for column in unknown} == dict.fromkeys(unknown)
    [row] = report(database, "user_cache_analytics")
    assert (row["total_cache_entries"], row["total_cache_hits"]) == (1, 0)
    alerts = {row["rule"]: (row["value"], row["firing"]) for row in report(database, "cache_alerts") if "hit rate" in row["rule"] or "response" in row["rule"]}
    assert len(alerts) == 3 and set(alerts.values()) == {(None, False)}
    assert database.value("SELECT get_infinite_pages_analytics(%s)", (ALICE,))["total_cache_hits"] == 0


def test_hits_that_were_stored_before_still_show(database):
    """A server that was once started with the library, and now is not."""
    with database.connect() as connection:
        upsert(connection, "1", KEY, token_cost=2)
        connection.execute(f"UPDATE {CACHE} SET hit_count = 7, token_cost_saved = 14")
        connection.execute("INSERT INTO cache_statistics_hourly (hour, content_type, hits, misses, tokens_saved) "
                           "VALUES (date_trunc('hour', clock_timestamp(), 'UTC'), 'tone', 7, 3, 14)")
        assert connection.execute("SELECT hit_count FROM cache_get(%s, %s, %s)", KEY).fetchone() == (7,)
    [row] = report(database, "cache_performance_metrics")
    assert (row["cache_hits"], row["tokens_saved"], row["hit_rate_last_hour"], row["hit_rate_percentage"]) == (7, 14, 70, None)


def test_reads_are_not_audited_and_verify_says_so(database):
    with database.connect() as connection:
        connection.execute("SET infinite_pages_cache.audit = 'all'")
        upsert(connection, "1", KEY)
        assert lookup(connection, KEY) == 1
        assert connection.execute("SELECT * FROM cache_flush_statistics()").fetchall() == [(0, 0, 0, 0)]
        assert connection.execute("SELECT action FROM cache_audit_log").fetchall() == [("upsert",)]
        [check] = connection.execute("SELECT ok, hint FROM verify_production_cache() WHERE name = 'lookups can be audited'").fetchall()
        assert check[0] is False and "shared_preload_libraries" in check[1]


@pytest.mark.parametrize("setting", ["max_tracked_entries", "max_tracked_content_types", "audit_buffer_size"])
def test_settings_of_the_servers_start_are_absent(database, setting):
    with database.connect() as connection:
        connection.execute("SELECT cache_lookup(%s, 'tone', 'k')", (ALICE,))
        assert sqlstate_of(lambda: connection.execute(f"SHOW infinite_pages_cache.{setting}")).sqlstate == "42704"
        assert connection.execute("SHOW infinite_pages_cache.exact_report_size").fetchone() == ("32MB",)
