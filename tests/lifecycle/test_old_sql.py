"""The library of this version serves the SQL of a released one, until ALTER EXTENSION UPDATE."""

from datetime import timedelta
from decimal import Decimal

import pytest

from harness.entries import ALICE, BOB, CACHE
from harness.errors import sqlstate_of
from harness.maintenance import maintained
from harness.reports import checks
from harness.roles import temporary_roles
from harness.upgrade import LOG, RELEASES, ROLES, UPDATE, old
from harness.worker import is_served, status, wait_until

# Each function of 0.1.0 that is not a view's, in an order in which each has something to do, and its answer; ... is any.
CALLS = {
    "cache_ttl_in": ("SELECT '1 day'::cache_ttl::text", "1 day"),
    "cache_ttl_out": ("SELECT cache_ttl_out('1 day'::cache_ttl)::text", "1 day"),
    "cache_ttl_from_interval": ("SELECT ('2 days'::interval::cache_ttl)::text", "2 days"),
    # As `printf '{}' | sha256sum` says.
    "cache_key": ("SELECT cache_key('{}')", "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"),
    "cache_entry_digest": ("SELECT cache_entry_digest('a', 'b')", ...),
    "cache_current_user_id": ("SELECT cache_current_user_id()", None),
    "cache_lookup": (f"SELECT cache_lookup('{ALICE}', 'setting', 'k1') -> 'n'", 1),
    "cache_get": (f"SELECT token_cost::text FROM cache_get('{ALICE}', 'setting', 'k1')", "1.123456"),
    "cache_lookup_many": (f"SELECT array_agg(content -> 'n') FROM cache_lookup_many('{ALICE}', 'setting', '{{k1,k2,none}}')", [1, 2, None]),
    "cache_pending_hits": ("SELECT count(*) FROM cache_pending_hits()", 2),
    "cache_flush_statistics": ("SELECT entries_updated FROM cache_flush_statistics()", 2),
    "cache_upsert": (f"SELECT cache_upsert('{ALICE}', 't', 'new', '1', token_cost => 5) IS NOT NULL", True),
    "cache_upsert_many": (f"""SELECT cardinality(cache_upsert_many(
        '[{{"user_id": "{ALICE}", "content_type": "t", "cache_key": "many", "content": 1, "token_cost": 1.5}}]'))""", 1),
    "cache_touch": (f"SELECT cache_touch('{ALICE}', 't', 'new', 'infinity')::text", "infinity"),
    "cache_invalidate": (f"SELECT cache_invalidate('{ALICE}', 't', 'many')", 1),
    "cache_invalidate_content_type": (f"SELECT cache_invalidate_content_type('{ALICE}', 't')", 1),
    "cache_invalidate_where": (f"""SELECT cache_invalidate_where('{BOB}', '{{"x": 1}}')""", 0),
    "cache_invalidate_dependents": (f"SELECT cache_invalidate_dependents('{ALICE}', 'nothing')", 0),
    "create_monthly_cache_partition": ("SELECT create_monthly_cache_partition('2020-01-01')", "infinite_pages_cache_2020_01"),
    "cache_create_current_partition": ("SELECT cache_create_current_partition() LIKE 'inf%'", True),
    "drop_old_cache_partitions": ("SELECT count(*) FROM drop_old_cache_partitions(1) WHERE dropped", ...),
    "check_partition_health": ("SELECT count(*) > 0 FROM check_partition_health()", True),
    "cleanup_expired_cache_entries_production": ("SELECT sum(deleted_count) FROM cleanup_expired_cache_entries_production()", 1),
    "cache_grant_tenant": ("SELECT cache_grant_tenant('app_tenant')", ""),
    "cache_grant_service": ("SELECT cache_grant_service('app_service')", ""),
    "verify_production_cache": ("SELECT count(*) > 15 FROM verify_production_cache()", True),
    "archive_audit_logs": ("SELECT sum(audit_rows) > 0 FROM archive_audit_logs('30 days')", True),
    "cache_run_maintenance": (None, None),
    "get_infinite_pages_analytics": (f"SELECT get_infinite_pages_analytics('{ALICE}') -> 'total_cache_entries'", 21),
    "cache_statistics": ("SELECT count(*) > 0 FROM cache_statistics()", True),
    "cache_latency_ms": ("SELECT cache_latency_ms('{1}', 0.5) > 0", True),
    "cache_forget_user": (f"SELECT (entries_deleted, audit_rows_deleted)::text FROM cache_forget_user('{BOB}')", "(1,1)"),
    "cache_setup": ("SELECT cache_setup()", ""),
}
# What came later.
LATER = {
    "0.2.0": {
        "cache_search": (f"SELECT count(*) FROM cache_search('{ALICE}', 'setting', '{{\"genre\": \"noir\"}}', 100)", 20),
        "cache_pending_hits_by": ("SELECT hits FROM cache_pending_hits_by('user')", 4),
    },
}
VIEWS = ["cache_performance_metrics", "partition_health_metrics", "cache_connection_metrics", "user_cache_analytics", "cache_alerts",
         "cache_maintenance_log", "cache_maintenance_status", "cache_maintenance_progress"]


@pytest.mark.parametrize("version", RELEASES)
def test_this_library_serves_the_sql_of_an_old_version(cluster, known, version):
    database = old(cluster, version)
    names = list(CALLS)
    after_lookups = names.index("cache_pending_hits")
    calls = {**{name: CALLS[name] for name in names[:after_lookups]}, **LATER.get(version, {}), **{name: CALLS[name] for name in names[after_lookups:]}}
    members = {name for (name,) in database.execute(
        "SELECT proname FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid AND d.classid = 'pg_proc'::regclass WHERE "
        "d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'infinite_pages_cache')")}
    assert members == set(calls) | set(VIEWS)
    assert "ALTER EXTENSION infinite_pages_cache UPDATE" in checks(database)["the SQL is that of the library"]
    with database.connect() as connection:
        def views_answer():
            for view in VIEWS:
                for source in (view, f"{view}()"):
                    rows = connection.execute(f"SELECT * FROM {source}").fetchall()
                    assert rows or view in ("cache_maintenance_progress", "cache_maintenance_log"), source

        connection.execute("SET infinite_pages_cache.audit = 'all'")
        views_answer()
        for name, (sql, answer) in calls.items():
            if name == "cache_run_maintenance":
                assert {status for _, status, _ in maintained(connection)} == {"ok"}
            else:
                [(found,)] = connection.execute(sql).fetchall()
                assert answer is ... or found == answer, name
        # cache_setup(), the last of them, has brought the tables to the shape of this version.
        views_answer()
        # A cost over this version's limit is refused, also where the table would take it.
        refused = sqlstate_of(lambda: connection.execute(f"SELECT cache_upsert('{ALICE}', 't', 'new', '1', token_cost => 5e12)"))
        assert refused.sqlstate == "22023"
    database.drop()


def test_signatures_that_have_changed_since_0_2_0_are_served(empty_database):
    empty_database.execute("CREATE EXTENSION infinite_pages_cache VERSION '0.2.0'")
    search = f"SELECT * FROM cache_search('{ALICE}', 't', '{{}}')"
    with empty_database.connect() as connection:
        types = "SELECT pg_get_function_identity_arguments('cache_upsert'::regproc) LIKE '%token_cost numeric%reuse_score numeric%'"
        assert connection.execute(types).fetchone() == (True,)
        for version in ("0.2.0", "this one"):
            connection.execute(f"SELECT cache_upsert('{ALICE}', 't', 'k', '1', ttl => '3600', token_cost => 0.0123, reuse_score => 7.55)")
            connection.execute(f"SELECT cache_lookup('{ALICE}', 't', 'k')")
            found = connection.execute(search)
            [row] = found.fetchall()
            names = [column.name for column in found.description]
            assert names[:2] + names[11:] == ["id", "cache_key", "foundation_dependency"] + ["hit_count"] * (version == "this one")
            row = dict(zip(names, row))
            assert (row["token_cost"], row["reuse_score"]) == (Decimal("0.0123"), Decimal("7.6")) and row["expires_at"] - row["created_at"] == timedelta(hours=1)
            assert row.get("hit_count", 2) == 2
            connection.execute(UPDATE)
        # The same session, with the new signature.
        connection.execute(f"SELECT cache_upsert('{ALICE}', 't', 'k', '1', ttl => 3600::smallint, token_cost => 0.5::float8)")
        assert connection.execute(types).fetchone() == (False,)


@pytest.mark.parametrize("acting", [None, ALICE])
def test_audit_and_erasure_with_a_log_that_does_not_know_who_acted(cluster, known, acting):
    database = old(cluster, "0.1.0")
    with database.connect() as connection:
        connection.execute("SET infinite_pages_cache.audit = 'all'")
        if acting:
            connection.execute("SELECT set_config('infinite_pages_cache.user_id', %s, false)", (acting,))
        connection.execute("SELECT cache_upsert(%s, 't', 'k', '1')", (ALICE,))
        connection.execute("SELECT cache_lookup(%s, 't', 'k')", (ALICE,))
        connection.execute("SELECT * FROM cache_flush_statistics()")
        log = f"SELECT action, cache_key, role FROM {LOG} WHERE content_type = 't' ORDER BY 1"
        assert connection.execute(log).fetchall() == [("lookup", "k", "postgres"), ("upsert", "k", "postgres")]
        # The same session after the update knows it.
        connection.execute(UPDATE)
        connection.execute("SELECT cache_upsert(%s, 't', 'k', '2')", (ALICE,))
        connection.execute("SELECT cache_lookup(%s, 't', 'k')", (ALICE,))
        connection.execute("SELECT * FROM cache_flush_statistics()")
        assert connection.execute(f"SELECT acting_user_id::text, count(*) FROM {LOG} WHERE content_type = 't' GROUP BY 1 ORDER BY 1").fetchall() == (
            [(ALICE, 2), (None, 2)] if acting else [(None, 4)])
        assert connection.execute("SELECT * FROM cache_forget_user(%s)", (ALICE,)).fetchone() == (22, 6)
        assert connection.execute(f"SELECT count(*) FROM {LOG} WHERE user_id = '{ALICE}'").fetchone() == (0,)
    database.drop()


def test_hits_in_memory_show_in_the_reports_of_an_old_version(cluster, known):
    database = old(cluster, "0.1.0")
    with database.connect() as connection:
        before = connection.execute(f"SELECT total_cache_hits FROM user_cache_analytics WHERE user_id = '{ALICE}'").fetchone()[0]
        for _ in range(3):
            connection.execute("SELECT cache_lookup(%s, 'setting', 'k1')", (ALICE,))
        assert connection.execute(f"SELECT total_cache_hits FROM user_cache_analytics WHERE user_id = '{ALICE}'").fetchone()[0] == before + 3
        assert connection.execute("SELECT cache_hits FROM cache_performance_metrics WHERE content_type = 'setting'").fetchone()[0] == before + 3
        assert connection.execute("SELECT hits FROM cache_pending_hits()").fetchall() == [(3,)]
        connection.execute("SELECT * FROM cache_flush_statistics()")
        assert connection.execute(f"SELECT hit_count FROM {CACHE} WHERE cache_key = 'k1'").fetchone() == (4,)
    database.drop()


@pytest.mark.parametrize("version", RELEASES)
def test_the_worker_serves_a_database_of_an_old_version(worker_cluster, version):
    with temporary_roles(worker_cluster, *ROLES):
        database = old(worker_cluster, version)
        for sql in ("SELECT 1", UPDATE):
            database.execute(sql)
            # A step that met the locks of the restore or the update is tried again.
            worker_cluster.execute("SELECT pg_reload_conf()")
            is_served(database)
            wait_until(lambda: status(database)["consecutive_failures"] == 0, 60)
        database.drop()
