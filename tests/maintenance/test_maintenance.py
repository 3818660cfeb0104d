"""Maintenance deletes what is over and nothing else, survives failures of its steps, and the views tell the truth."""

import os
from collections import defaultdict
from datetime import datetime, timedelta, timezone
from decimal import Decimal

import pytest

from harness.database import Database
from harness.entries import ALICE, BOB, CACHE, insert, lookup, upsert
from harness.errors import sqlstate_of
from harness.maintenance import STEPS, run
from harness.months import add_audit_month, add_month, age, bounds, month, name_of
from harness.reports import columns_of, report, rows_for_each_role
from harness.roles import temporary_roles
from harness.sample import grouped, mean, of
from harness.waiting import wait_until

# ── expiry ───────────────────────────────────────────────────────────────────────────────────────

@pytest.mark.parametrize("batch_size", [7, 100_000])
def test_cleanup_deletes_exactly_the_expired_entries(database, batch_size):
    add_month(database, -2)
    text = os.urandom(20_000).hex()
    expected = {name_of(-2): 20, name_of(0): 33}
    live = set()
    with database.connect() as connection:
        for offset, count in ((-2, 20), (0, 33)):
            for number in range(count + 12):
                key, expired = f"{offset}/{number}", number < count
                live |= set() if expired else {key}
                expires_at = datetime.now(timezone.utc) + (timedelta(days=-number) if expired else timedelta(minutes=number))
                connection.execute(
                    f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, created_at, expires_at) VALUES "
                    "(%s, 't', %s, to_jsonb(%s::text), %s, %s)", (ALICE, key, text, month(offset), expires_at))
        # An expiry in the same instant as cleanup's clock is over; for ever is not.
        insert(database, month(0), "for ever")
        live.add("for ever")
        connection.execute(f"SET infinite_pages_cache.cleanup_batch_size = {batch_size}")
        rows = columns_of(connection, "SELECT * FROM cleanup_expired_cache_entries_production()")
    assert {row["partition_cleaned"]: row["deleted_count"] for row in rows} == expected
    for row in rows:
        # 40,000 hexadecimal digits each, which no compression halves.
        assert Decimal("0.019") * row["deleted_count"] < row["freed_space_mb"] < Decimal("0.042") * row["deleted_count"]
        assert row["cleanup_duration_ms"] > 0
    assert {key for (key,) in database.execute(f"SELECT cache_key FROM {CACHE}")} == live


def test_cleanup_of_nothing_is_a_row_of_zeros(database):
    insert(database, month(0))
    [row] = report(database, "cleanup_expired_cache_entries_production()")
    assert (row["deleted_count"], row["freed_space_mb"], row["partition_cleaned"]) == (0, 0, None)
    assert row["cleanup_duration_ms"] >= 0


def test_cleanup_of_a_few_bytes_frees_more_than_nothing(database):
    insert(database, month(0), expires_at="2020-01-01")
    [row] = report(database, "cleanup_expired_cache_entries_production()")
    assert row["deleted_count"] == 1 and row["freed_space_mb"] > 0


# ── a run ────────────────────────────────────────────────────────────────────────────────────────

def test_a_run_reports_every_step_and_logs_it(database):
    rows = report(database, "cache_run_maintenance()")
    assert [row["step"] for row in rows] == STEPS
    assert {row["status"] for row in rows} == {"ok"}
    assert all(row["duration_ms"] >= 0 for row in rows)
    log = report(database, "cache_maintenance_log")
    assert {row["step"]: (row["status"], row["affected"], row["detail"], row["duration_ms"]) for row in log} == \
        {row["step"]: (row["status"], row["affected"], row["detail"], row["duration_ms"]) for row in rows}
    assert {row["role"] for row in log} == {"postgres"}
    [run_at] = {row["run_at"] for row in log}
    assert abs(run_at - datetime.now(timezone.utc)) < timedelta(seconds=60)


@pytest.mark.parametrize("premake, ahead", [(0, 0), (1, 1), (6, 6)])
def test_premake_months_are_kept_ready(database, premake, ahead):
    database.execute("DROP TABLE " + ", ".join(f"{name_of(offset)}, cache_audit_log_{month(offset):%Y_%m}" for offset in range(4)))
    steps = run(database, premake=premake)
    assert steps["premake partitions"][:2] == steps["premake audit partitions"][:2] == ["ok", ahead + 1]
    assert set(bounds(database)) == {name_of(offset) for offset in range(ahead + 1)}
    assert run(database, premake=premake)["premake partitions"][:2] == ["ok", 0]


def test_dead_months_go_and_live_ones_stay(database):
    for offset in (-5, -4, -3, -2, -1):
        add_month(database, offset)
    insert(database, month(-5), "expired", expires_at="2020-01-01")
    insert(database, month(-4), "expired", expires_at="2020-01-01")
    insert(database, month(-4), "for ever", expires_at="infinity")
    insert(database, month(-2), "for a while", expires_at=datetime.now(timezone.utc) + timedelta(hours=1))
    steps = run(database)
    assert steps["delete expired entries"][:2] == ["ok", 2]
    assert steps["drop dead months"] == ["ok", 3, None]
    assert set(bounds(database)) == {name_of(offset) for offset in (-4, -2, 0, 1, 2, 3)}
    assert {key for (key,) in database.execute(f"SELECT cache_key FROM {CACHE}")} == {"for ever", "for a while"}


def make_month(database, offset):
    """As a user does, just now."""
    return database.value("SELECT create_monthly_cache_partition(%s::timestamp)", (month(offset).replace(tzinfo=None),))


def test_a_new_month_of_the_past_stays_for_a_day(database):
    """Somebody has made it to insert into it."""
    new, used, old = (make_month(database, offset) for offset in (-3, -2, -1))
    insert(database, month(-2), "expired", expires_at="2020-01-01")
    age(database, old, 1.1)
    assert run(database)["drop dead months"] == ["ok", 2, None]
    assert new in bounds(database) and not {used, old} & set(bounds(database))
    # A day later it goes; what somebody asks for goes at once.
    age(database, new, 0.9)
    assert run(database)["drop dead months"] == ["ok", 0, None]
    age(database, new, 1.1)
    assert run(database)["drop dead months"] == ["ok", 1, None]
    make_month(database, -9)
    assert database.execute("SELECT partition_name, dropped FROM drop_old_cache_partitions()") == [(name_of(-9), True)]


def test_a_new_month_with_partitions_of_its_own_stays_for_a_day(database):
    name = name_of(-3)
    database.execute(f"CREATE TABLE {name} PARTITION OF {CACHE} FOR VALUES FROM ('{month(-3)}') TO ('{month(-2)}') PARTITION BY HASH (user_id)")
    for number in range(2):
        database.execute(f"CREATE TABLE {name}_{number} PARTITION OF {name} FOR VALUES WITH (MODULUS 2, REMAINDER {number})")
    assert run(database)["drop dead months"][1] == 0
    age(database, f"{name}_0")
    assert run(database)["drop dead months"][1] == 0
    age(database, name)
    assert run(database)["drop dead months"][1] == 1 and name not in bounds(database)


def test_a_clock_that_was_put_back_keeps_no_empty_month(database):
    """Its file is of a time to come, by more than a clock is set right by."""
    age(database, make_month(database, -3), -0.5)
    age(database, make_month(database, -2), -3)
    assert run(database)["drop dead months"][1] == 1
    assert name_of(-3) in bounds(database)


def test_audit_months_are_kept_as_long_as_wanted_and_archived_ones_for_ever(database):
    names = {offset: add_audit_month(database, offset) for offset in (-14, -12, -11, -1)}
    database.execute("SELECT * FROM archive_audit_logs('400 days')")
    assert database.value("SELECT count(*) FROM cache_audit_archive") == 1
    assert run(database, audit_retention_months=0)["trim audit log"] == ["ok", 0, None]
    # Twelve months, the current one included: eleven before it.
    assert run(database)["trim audit log"] == ["ok", 1, None]
    exists = lambda name: database.value("SELECT to_regclass(%s) IS NOT NULL", (name,))
    assert {offset: exists(name) for offset, name in names.items()} == {-14: True, -12: False, -11: True, -1: True}
    assert run(database, audit_retention_months=1)["trim audit log"] == ["ok", 2, None]
    assert database.value("SELECT count(*) FROM cache_audit_archive") == 1


def test_the_maintenance_log_is_trimmed(database):
    database.execute("INSERT INTO cache_maintenance_runs (run_at, step, status, role) "
                     "SELECT now() - d * interval '1 day', 'analyze', 'ok', 'postgres' FROM unnest(ARRAY[1, 29, 31, 400]) d")
    assert run(database)["trim maintenance log"] == ["ok", 2, None]
    assert run(database, maintenance_log_retention="2d")["trim maintenance log"] == ["ok", 1, None]
    assert run(database, maintenance_log_retention=0)["trim maintenance log"] == ["ok", 0, None]
    assert database.value("SELECT count(*) FROM cache_maintenance_log") == 1 + 3 * len(STEPS)


def test_limits_evict_what_is_worth_least(database):
    """Expired ones first, then low priority, few hits, long unused."""
    database.execute("UPDATE cache_content_policies SET max_entries = 3 WHERE content_type = 'tone'")
    database.execute("INSERT INTO cache_content_policies (content_type, ttl) VALUES ('free', '1 day')")
    insert_entry = (f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, expires_at, priority_tier, hit_count, last_accessed) "
                    "VALUES (%s, %s, %s, '1', %s, %s, %s, now() - %s * interval '1 hour')")
    soon = datetime.now(timezone.utc) + timedelta(hours=1)
    with database.connect() as connection:
        for key, tier, hits, hours in [("high priority", 1, 0, 90), ("most hits", 2, 9, 90), ("used lately", 2, 5, 1),
                                       ("used before", 2, 5, 2), ("few hits", 2, 1, 0), ("low priority", 3, 99, 0)]:
            connection.execute(insert_entry, (ALICE, "tone", key, soon, tier, hits, hours))
        for number in range(3):
            connection.execute(insert_entry, (BOB, "tone", f"{number}", soon, 3, 0, 0))
        for number in range(10):
            connection.execute(insert_entry, (ALICE, "free", f"{number}", soon, 3, 0, 0))
            connection.execute(insert_entry, (ALICE, "of no policy", f"{number}", soon, 3, 0, 0))
    assert run(database)["enforce limits"] == ["ok", 3, "over max_entries: tone 3"]
    kept = defaultdict(set)
    for user, content_type, key in database.execute(f"SELECT user_id::text, content_type, cache_key FROM {CACHE}"):
        kept[user, content_type].add(key)
    assert kept[ALICE, "tone"] == {"high priority", "most hits", "used lately"}
    assert {name: len(keys) for name, keys in kept.items()} == {
        (ALICE, "tone"): 3, (BOB, "tone"): 3, (ALICE, "free"): 10, (ALICE, "of no policy"): 10}
    # The row * limits those types, and only those, that have no policy of their own.
    database.execute("UPDATE cache_content_policies SET max_entries = 4 WHERE content_type = '*'")
    assert run(database)["enforce limits"] == ["ok", 6, "over max_entries: of no policy 6"]
    assert database.value(f"SELECT count(*) FROM {CACHE} WHERE content_type = 'of no policy'") == 4


def analyzed_rows(database):
    return database.value(f"SELECT reltuples FROM pg_class WHERE oid = '{CACHE}'::regclass")


def add_rows(database, prefix, count):
    database.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content) "
                     "SELECT %s, 't', %s || n, '1' FROM generate_series(1, %s) n", (ALICE, prefix, count))
    # The server counts changes a little later.
    total = database.value(f"SELECT count(*) FROM {CACHE}")
    wait_until(lambda: database.value("SELECT sum(n_live_tup) FROM pg_stat_user_tables WHERE relname LIKE 'infinite_pages_cache_2%%'") >= total)


def test_analyze_runs_when_it_is_due(database):
    assert run(database)["analyze"] == ["ok", 0, "not due"]
    add_rows(database, "a", 1000)
    assert run(database)["analyze"][:2] == ["ok", 1]
    assert analyzed_rows(database) == 1000
    assert run(database)["analyze"] == ["ok", 0, "not due"]
    add_rows(database, "b", 20)
    assert run(database)["analyze"] == ["ok", 0, "not due"]
    add_rows(database, "c", 980)
    assert run(database)["analyze"][:2] == ["ok", 1]
    assert analyzed_rows(database) == 2000


def test_analyze_waits_for_nobody_who_vacuums(database):
    """Autovacuum above all; what it leaves out is told, and is no failure."""
    add_rows(database, "a", 1000)
    lock = "LOCK TABLE ONLY {} IN SHARE UPDATE EXCLUSIVE MODE"
    with database.connect(autocommit=False) as vacuum:
        vacuum.execute(lock.format(CACHE))
        status, affected, detail = run(database)["analyze"]
        assert (status, affected) == ("ok", 0) and "put off" in detail
        assert analyzed_rows(database) <= 0
        vacuum.rollback()
        vacuum.execute(lock.format(name_of(0)))
        status, affected, detail = run(database)["analyze"]
        assert (status, affected) == ("ok", 1) and detail.endswith(f": {name_of(0)}"), detail
        # The whole was analyzed, by samples of all partitions.
        assert analyzed_rows(database) == 1000
        assert database.value(f"SELECT reltuples FROM pg_class WHERE relname = '{name_of(0)}'") == -1
        vacuum.rollback()
        # A partition that is locked against readers.
        add_rows(database, "b", 1000)
        vacuum.execute(f"LOCK TABLE ONLY {name_of(2)} IN ACCESS EXCLUSIVE MODE")
        status, affected, detail = run(database)["analyze"]
        assert status == "ok" and affected == 0 and "put off" in detail, detail
        vacuum.rollback()
    assert run(database)["analyze"] == ["ok", 1, None]
    assert analyzed_rows(database) == 2000


def test_analyze_is_due_also_when_autovacuum_has_analyzed_the_partitions(database):
    add_rows(database, "a", 1000)
    run(database)
    add_rows(database, "b", 9000)
    database.execute(f"ANALYZE {name_of(0)}")
    assert run(database)["analyze"][:2] == ["ok", 1]
    assert analyzed_rows(database) == 10_000


def test_a_failing_step_does_not_stop_the_others(database):
    database.execute(f"DROP TABLE {name_of(2)}; CREATE TABLE {name_of(2)} (mine text)")
    add_month(database, -3)
    insert(database, month(0), "expired", expires_at="2020-01-01")
    steps = run(database)
    status, _, detail = steps.pop("premake partitions")
    assert status == "failed" and name_of(2) in detail
    assert {step[0] for step in steps.values()} == {"ok"}
    assert steps["delete expired entries"][1] == 1 and steps["drop dead months"][1] == 1
    [failed] = [row for row in report(database, "cache_maintenance_log") if row["status"] != "ok"]
    assert (failed["step"], failed["status"], failed["detail"]) == ("premake partitions", "failed", detail)
    [rule] = [row for row in report(database, "cache_alerts") if "failed maintenance steps" in row["rule"]]
    assert (rule["severity"], rule["value"], rule["firing"]) == ("warning", 1, True)
    assert [row["name"] for row in report(database, "verify_production_cache()") if not row["ok"]] == ["no maintenance step failed lately"]
    assert database.execute(f"SELECT * FROM {name_of(2)}") == []


def test_trouble_with_a_later_month_does_not_keep_the_next_one_from_its_partition(database):
    database.execute(f"DROP TABLE {name_of(1)}, {name_of(3)}; CREATE TABLE {name_of(3)} (mine text)")
    assert run(database)["premake partitions"][0] == "failed"
    assert name_of(1) in bounds(database)


def test_a_second_run_at_the_same_time_is_skipped(database):
    with database.connect(autocommit=False) as first:
        first.execute("SELECT * FROM cache_run_maintenance()")
        assert [(row["step"], row["status"]) for row in report(database, "cache_run_maintenance()")] == [("run", "skipped")]
    assert run(database)["analyze"][0] == "ok"


def test_two_runs_in_one_transaction_are_both_logged(database):
    with database.connect() as connection, connection.transaction():
        for _ in range(2):
            assert len(connection.execute("SELECT * FROM cache_run_maintenance()").fetchall()) == len(STEPS)
    assert database.value("SELECT count(DISTINCT run_at) FROM cache_maintenance_log") == 2


def test_six_months_without_maintenance(clock_cluster):
    """The months ahead are long used up: a tenant's upsert makes the current one, maintenance does the rest."""
    start = datetime(2026, 1, 31, 23, tzinfo=timezone.utc)
    now = datetime(2026, 8, 15, 12, tzinfo=timezone.utc)
    clock_cluster.set_clock(start)
    database = Database(clock_cluster)
    with temporary_roles(clock_cluster, "tenant"), database.connect() as connection:
        connection.execute("SELECT cache_grant_tenant('tenant')")
        upsert(connection, '"short"', (ALICE, "t", "short"), ttl="1 day")
        upsert(connection, '"long"', (ALICE, "t", "long"), ttl="infinity")
        upsert(connection, '"rewritten"', (ALICE, "t", "rewritten"), ttl="infinity")
        clock_cluster.set_clock(now)
        assert lookup(connection, (ALICE, "t", "short")) is None
        assert lookup(connection, (ALICE, "t", "long")) == "long"
        checks = {row["partition_name"]: row["ok"] for row in columns_of(connection, "SELECT * FROM check_partition_health()")}
        assert (checks["current month"], checks["months ahead"]) == (False, False)

        with database.connect() as tenant:
            tenant.execute("SET ROLE tenant")
            tenant.execute("SELECT set_config('infinite_pages_cache.user_id', %s, false)", (ALICE,))
            upsert(tenant, '"new"', (ALICE, "t", "rewritten"))
            assert lookup(tenant, (ALICE, "t", "rewritten")) == "new"
        assert connection.execute(f"SELECT count(*) FROM {CACHE} WHERE cache_key = 'rewritten'").fetchone() == (1,)

        # Files keep the true time.
        for name in bounds(database):
            age(database, name, 10_000)
        steps = run(database)
        assert {step[0] for step in steps.values()} == {"ok"}
        assert steps["premake partitions"][1] == 3
        assert steps["delete expired entries"][1] == 1
        # January holds what is kept for ever; February to April were made ahead and stayed empty.
        months = {date: offset for date, offset in connection.execute("SELECT from_month::text, months_ahead FROM partition_health_metrics")}
        assert months == {"2026-01-01": -7, "2026-08-01": 0, "2026-09-01": 1, "2026-10-01": 2, "2026-11-01": 3}
        assert steps["drop dead months"][1] == 3
        assert lookup(connection, (ALICE, "t", "long")) == "long"
        assert columns_of(connection, "SELECT * FROM check_partition_health() WHERE NOT ok") == []
        assert columns_of(connection, "SELECT * FROM verify_production_cache() WHERE NOT ok") == []
    database.drop()


def test_maintenance_belongs_to_the_owner(database, cluster):
    with temporary_roles(cluster, "someone") as [role], database.connect() as connection:
        connection.execute(f"GRANT EXECUTE ON FUNCTION cache_run_maintenance() TO {role}; SET ROLE {role}")
        refused = sqlstate_of(lambda: connection.execute("SELECT * FROM cache_run_maintenance()"))
        assert refused.sqlstate == "42501" and refused.message_detail and refused.message_hint


# ── views ────────────────────────────────────────────────────────────────────────────────────────

def test_cache_performance_metrics(used):
    rows = {row.pop("content_type"): row for row in report(used, "cache_performance_metrics")}
    expected = {}
    for content_type, group in grouped(used.entries, "content_type").items():
        expected[content_type] = {
            "total_entries": len(group), "cache_hits": sum(of(group, "hit_count")), "avg_hit_count": mean(of(group, "hit_count")),
            "avg_tokens_saved": mean(of(group, "token_cost_saved")), "tokens_saved": sum(of(group, "token_cost_saved")),
            "expired_entries": sum(entry["expires_at"] <= used.now for entry in group),
            "high_priority_entries": of(group, "priority_tier").count(1),
            "last_activity": max(max(entry["created_at"], entry["last_accessed"] or entry["created_at"]) for entry in group),
        }
    assert {name: {column: row[column] for column in expected[name]} for name, row in rows.items()} == expected


def test_user_cache_analytics(used):
    rows = {str(row.pop("user_id")): row for row in report(used, "user_cache_analytics")}
    assert rows == {user: {
        "total_cache_entries": len(group), "content_types_used": len(set(of(group, "content_type"))),
        "total_cache_hits": sum(of(group, "hit_count")), "total_tokens_saved": sum(of(group, "token_cost_saved")),
        "avg_reuse_score": mean(of(group, "reuse_score")), "avg_hits_per_entry": mean(of(group, "hit_count")),
        "last_cache_access": max(time for time in of(group, "last_accessed") if time),
    } for user, group in grouped(used.entries, "user_id").items()}


def test_get_infinite_pages_analytics(used):
    mine = [entry for entry in used.entries if entry["user_id"] == ALICE]
    found = used.value("SELECT get_infinite_pages_analytics(%s)", (ALICE,))

    def totals(group):
        live = sum(entry["expires_at"] > used.now for entry in group)
        return len(group), live, sum(of(group, "hit_count")), sum(of(group, "token_cost_saved")), sum(of(group, "token_cost"))

    assert (found["total_cache_entries"], found["live_entries"], found["total_cache_hits"], found["total_tokens_saved"],
            Decimal(str(found["total_tokens_spent"]))) == totals(mine)
    assert found["expired_entries"] == found["total_cache_entries"] - found["live_entries"]
    assert Decimal(str(found["avg_reuse_score"])) == mean(of(mine, "reuse_score"))
    for name, group in grouped(mine, "content_type").items():
        one = found["content_types"][name]
        assert (one["entries"], one["live_entries"], one["hits"], one["tokens_saved"], Decimal(str(one["tokens_spent"]))) == totals(group)
    assert set(found["content_types"]) == set(of(mine, "content_type"))


def test_partition_health_metrics(used):
    # Before the first ANALYZE and after it.
    for _ in range(2):
        rows = {row["partition_name"]: row for row in report(used, "partition_health_metrics")}
        assert set(rows) == {name_of(offset) for offset in range(-2, 4)}
        for offset in range(-2, 4):
            row, first = rows[name_of(offset)], month(offset)
            group = [entry for entry in used.entries if month(offset) <= entry["created_at"] < month(offset + 1)]
            expired = sum(entry["expires_at"] <= used.now for entry in group)
            assert (row["live_entries"], row["expired_entries"], row["row_count_estimate"]) == (len(group) - expired, expired, len(group))
            assert (row["schemaname"], row["from_month"], row["months_ahead"]) == ("public", first.date(), offset)
            assert row["partition_age_days"] == max(0, (datetime.now(timezone.utc) - first).days)
            assert (row["size_bytes"], row["size"]) == used.execute(
                "SELECT pg_total_relation_size(%s), pg_size_pretty(pg_total_relation_size(%s))", (row["partition_name"],) * 2)[0]
        used.execute(f"ANALYZE {CACHE}")


def test_cache_connection_metrics(database):
    with database.connect(), database.connect(), database.connect(autocommit=False) as in_transaction, database.connect() as watcher:
        in_transaction.execute("SELECT 1")

        def metrics():
            [row] = [row for row in columns_of(watcher, "SELECT * FROM cache_connection_metrics") if row["database_name"] == database.name]
            return row

        wait_until(lambda: metrics()["total_connections"] == 4)
        row = metrics()
        assert (row["active_connections"], row["idle_connections"], row["idle_in_transaction"]) == (1, 2, 1)
        assert 0 <= row["avg_query_duration_seconds"] < 5
        assert (row["max_connections"], row["percent_of_max_connections"]) == (120, Decimal("3.3"))


def test_views_of_an_empty_cache(database):
    assert report(database, "cache_performance_metrics") == report(database, "user_cache_analytics") == []
    assert report(database, "cache_maintenance_log") == []
    assert [row["rule"] for row in report(database, "cache_alerts") if row["firing"]] == []
    assert database.value("SELECT get_infinite_pages_analytics(%s)", (ALICE,))["total_cache_entries"] == 0


# ── alerts ───────────────────────────────────────────────────────────────────────────────────────

def alert(database, words):
    [row] = [row for row in report(database, "cache_alerts") if words in row["rule"]]
    assert row["what_to_do"]
    return row["value"], row["firing"]


@pytest.mark.parametrize("expired, value, firing", [(2, 20, False), (3, 30, True)])
def test_alert_on_expired_entries(database, expired, value, firing):
    for number in range(10):
        insert(database, month(0), f"k{number}", expires_at="2020-01-01" if number < expired else "infinity")
    assert alert(database, "expired entries") == (value, firing)


def test_alert_on_months_ahead(database):
    assert alert(database, "partitions ready") == (3, False)
    database.execute(f"DROP TABLE {name_of(2)}, {name_of(3)}")
    assert alert(database, "partitions ready") == (1, False)
    database.execute(f"DROP TABLE {name_of(1)}")
    assert alert(database, "partitions ready") == (0, True)


@pytest.mark.parametrize("alice, bob, value, firing", [
    (998, 1, 0, False), (500, 500, 50, False), (1000, 0, 100, True), (1500, 500, 75, True)])
def test_alert_on_unusual_access(database, alice, bob, value, firing):
    database.execute("INSERT INTO cache_audit_log (user_id, action) SELECT %s, 'upsert' FROM generate_series(1, %s)", (ALICE, alice))
    database.execute("INSERT INTO cache_audit_log (user_id, action) SELECT %s, 'upsert' FROM generate_series(1, %s)", (BOB, bob))
    # What lies longer back than an hour does not count.
    add_audit_month(database, -1, rows=5000)
    assert alert(database, "unusual access") == (value, firing)


def test_alert_on_connections(database):
    with database.connect() as watcher:
        count = lambda: watcher.execute("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'").fetchone()[0]

        def found():
            [row] = [row for row in columns_of(watcher, "SELECT * FROM cache_alerts") if "max_connections" in row["rule"]]
            return row["value"], row["firing"]

        wait_until(lambda: count() <= 5)
        others = [database.connect() for _ in range(108 - count())]
        assert found() == (90, False)  # 108 of 120
        others += [database.connect() for _ in range(2)]
        assert found() == (Decimal("91.7"), True)
        for other in others:
            other.close()
        wait_until(lambda: count() <= 5)
    assert alert(database, "max_connections")[1] is False


@pytest.mark.parametrize("audit", ["write", "all"])
def test_alerts_and_checks_are_the_same_for_every_role(database, audit):
    database.cluster.execute(f"ALTER DATABASE {database.name} SET infinite_pages_cache.audit = '{audit}'")
    found = rows_for_each_role(database)
    alerts, checks = found["postgres"]
    assert len([rule for rule, _ in alerts if "hit rate" in rule]) == 2
    assert ("the library is preloaded", True, None) in checks
    assert (("lookups can be audited", True, None) in checks) == (audit == "all")
    assert found["watcher"] == found["backend"] == found["postgres"]


def test_alert_on_failed_steps(database):
    failed = ("INSERT INTO cache_maintenance_runs (run_at, step, status, role) VALUES (clock_timestamp() - %s * interval '1 minute', 'analyze', %s, 'x')")
    database.execute(failed, (5, "ok"))
    database.execute(failed, (24 * 60 + 1, "failed"))
    assert alert(database, "failed maintenance steps") == (0, False)
    database.execute(failed, (24 * 60 - 1, "failed"))
    assert alert(database, "failed maintenance steps") == (1, True)


def test_alert_on_slow_queries(database):
    """It fires on lookups that were slow, as the roll-up of this hour tells, and on no other statement."""
    assert alert(database, "response time") == (None, False)
    database.execute("SELECT pg_sleep(0.5)")
    lookups = ("INSERT INTO cache_statistics_hourly (hour, content_type, hits, lookup_us) VALUES "
               "(date_trunc('hour', clock_timestamp(), 'UTC'), %s, %s, array_append(array_fill(0::bigint, ARRAY[%s]), %s))")
    # Buckets 60 to 63 hold 65,536 to 131,071 microseconds, a quarter each; 68 to 71 hold four times as much.
    database.execute(lookups, ("tone", 94, 60, 94))
    assert alert(database, "response time") == (Decimal("81.101"), False)  # 65.536 + 16.384 * 0.95
    database.execute(lookups, ("setting", 6, 68, 6))
    value, firing = alert(database, "response time")
    assert firing and value == Decimal("273.067")  # 262.144 + 65.536 * 1 / 6


def test_alert_on_a_huge_partition(database):
    assert alert(database, "largest partition")[1] is False
    path = database.value("SELECT pg_relation_filepath(reltoastrelid) FROM pg_class WHERE relname = %s", (name_of(0),))
    # A hole in the file of its TOAST table takes no space, and nobody reads it.
    size = database.value("SELECT pg_total_relation_size(%s)", (name_of(0),))
    os.truncate(database.cluster.data / path, (1 << 30) - size)
    assert alert(database, "largest partition") == (1, False)
    os.truncate(database.cluster.data / path, 3 << 29)
    value, firing = alert(database, "largest partition")
    assert Decimal("1.5") <= value < Decimal("1.51") and firing
    [row] = [row for row in report(database, "check_partition_health()") if not row["ok"]]
    assert row["partition_name"] == name_of(0) and "1536 MB" in row["detail"]
