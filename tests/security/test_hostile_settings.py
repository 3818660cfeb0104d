"""Settings of a session that change how statements and the catalogs' texts are read change nothing of what the extension does."""

import pytest

from harness.database import Database
from harness.entries import ALICE, BOB, CACHE, lookup, upsert
from harness.months import add_audit_month, add_month, bounds, name_of
from harness.reports import columns_of
from harness.roles import temporary_roles

SETTINGS = {
    "quoted names": {"quote_all_identifiers": "on"},
    "backslashes": {"standard_conforming_strings": "off", "backslash_quote": "on", "escape_string_warning": "on"},
    "both": {"quote_all_identifiers": "on", "standard_conforming_strings": "off"},
}


@pytest.fixture(params=SETTINGS)
def hostile(request, cluster):
    """A database that has such settings from the beginning."""
    database = Database(cluster, extension=False)
    for name, value in SETTINGS[request.param].items():
        cluster.execute(f"ALTER DATABASE {database.name} SET {name} = '{value}'")
    yield database
    database.drop()


def failed(connection, report):
    return [row for row in columns_of(connection, f"SELECT * FROM {report}") if not row["ok"]]


def test_everything_works(hostile, database):
    with temporary_roles(hostile.cluster, "tenant", "backend"), hostile.connect() as connection:
        notices = []
        connection.add_notice_handler(lambda diag: notices.append(diag.message_primary))
        connection.execute("CREATE EXTENSION infinite_pages_cache")
        for _ in range(2):
            connection.execute("SELECT cache_setup(), cache_grant_tenant('tenant'), cache_grant_service('backend')")

        # Clients.
        key = (ALICE, "it's", "back\\slash \"and\" 'quotes'")
        upsert(connection, '{"a": "b\\\\c"}', key, token_cost=2)
        assert lookup(connection, key) == {"a": "b\\c"}
        assert connection.execute("SELECT content FROM cache_get(%s, %s, %s)", key).fetchone() == ({"a": "b\\c"},)
        assert connection.execute("SELECT cache_touch(%s, %s, %s, '3 days') IS NOT NULL", key).fetchone() == (True,)
        for user in (ALICE, BOB):
            connection.execute("SELECT cache_upsert_many(%s)", (f'[{{"user_id": "{user}", "content_type": "t", "cache_key": "k\\\\1", "content": 1}}]',))
        connection.execute("SET ROLE tenant")
        connection.execute("SELECT set_config('infinite_pages_cache.user_id', %s, false)", (ALICE,))
        assert lookup(connection, key) == {"a": "b\\c"}
        assert connection.execute(f"SELECT count(*) FROM {CACHE}").fetchone() == (2,)
        connection.execute("RESET ROLE")
        assert connection.execute("SELECT cache_invalidate(%s, 't', E'k\\\\1')", (ALICE,)).fetchone() == (1,)

        # Partitions, also one that was made by hand and lacks everything.
        connection.execute(f"DROP TABLE {name_of(3)}")
        connection.execute(f"CREATE TABLE {name_of(3)} PARTITION OF {CACHE} FOR VALUES FROM ('{first(3)} 00:00:00+00') TO ('{first(4)} 00:00:00+00')")
        connection.execute(f"GRANT SELECT ON {name_of(3)} TO tenant")
        assert [row["name"] for row in failed(connection, "verify_production_cache()")] == ["row security is on", "each partition has its entry index"]
        assert [row["partition_name"] for row in failed(connection, "check_partition_health()")] == [name_of(3)]
        add_month(hostile, -3)
        add_audit_month(hostile, -20)
        add_audit_month(hostile, -5)
        steps = {row["step"]: row for row in columns_of(connection, "SELECT * FROM cache_run_maintenance()")}
        assert {row["status"] for row in steps.values()} == {"ok"}, steps
        done = {step: row["affected"] for step, row in steps.items() if row["affected"]}
        # That of a month long ago goes before its index is missed.
        assert done.keys() >= {"secure partitions", "drop dead months", "trim audit log"}, done
        assert failed(connection, "verify_production_cache()") == failed(connection, "check_partition_health()") == []
        assert connection.execute("SELECT create_monthly_cache_partition('2031-05-01'), cache_create_current_partition()").fetchone() == (
            "infinite_pages_cache_2031_05", name_of(0))
        assert len(connection.execute("SELECT * FROM archive_audit_logs('60 days')").fetchall()) == 1
        add_month(hostile, -9)
        assert connection.execute("SELECT partition_name, dropped FROM drop_old_cache_partitions(6)").fetchall() == [(name_of(-9), True)]
        assert name_of(-9) not in bounds(hostile)

        # Reports, the same as elsewhere.
        for view in ("cache_alerts", "partition_health_metrics", "cache_maintenance_status", "cache_performance_metrics", "user_cache_analytics",
                     "cache_connection_metrics", "cache_maintenance_log", "cache_maintenance_progress", "cache_statistics()"):
            connection.execute(f"SELECT * FROM {view}")
        [status] = columns_of(connection, "SELECT * FROM cache_maintenance_status")
        assert status["months_ahead"] == 4
        assert [row["partition_name"] for row in columns_of(connection, "SELECT * FROM partition_health_metrics")] == [
            name_of(number) for number in range(4)] + ["infinite_pages_cache_2031_05"]
        assert connection.execute("SELECT get_infinite_pages_analytics(%s)->>'total_cache_entries'", (ALICE,)).fetchone() == ("1",)
        connection.execute("SELECT * FROM cache_flush_statistics()")
        assert connection.execute("SELECT * FROM cleanup_expired_cache_entries_production()").fetchone()[0] == 0

        # Again over the tables that are there: nobody else has got rights of a service role.
        connection.execute("DROP EXTENSION infinite_pages_cache CASCADE")
        connection.execute("CREATE EXTENSION infinite_pages_cache")
        assert failed(connection, "verify_production_cache()") == []
        assert lookup(connection, key) == {"a": "b\\c"}
        granted = connection.execute("SELECT pg_get_userbyid(a.grantee) FROM pg_proc p, aclexplode(p.proacl) a WHERE p.proname = 'cache_forget_user'")
        assert {role for (role,) in granted} == {"postgres", "backend", "pg_database_owner"}
        assert connection.execute("SELECT * FROM cache_forget_user(%s)", (ALICE,)).fetchone()[0] == 1
        assert not [notice for notice in notices if "escape" in notice or "nonstandard" in notice], notices


def first(number):
    """The first day of a month, in UTC, so many months from now."""
    year, month = name_of(number).rsplit("_", 2)[1:]
    return f"{year}-{month}-01"
