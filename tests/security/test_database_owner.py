"""The owner of a database and of the cache's tables, who is no superuser, looks after the cache; services make and drop months."""

import pytest

from harness.entries import ALICE, BOB, CACHE, upsert
from harness.errors import sqlstate_of
from harness.months import name_of
from harness.reports import columns_of
from harness.roles import acting, default_privileges, outcome, temporary_roles
from harness.upgrade import RELEASES, ROLES, UPDATE, old


def give_tables_to(database, role):
    with database.connect() as connection:
        connection.execute(f"GRANT CREATE ON SCHEMA public TO {role}")
        for (name,) in connection.execute("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')").fetchall():
            connection.execute(f"ALTER TABLE {name} OWNER TO {role}")


@pytest.fixture
def owned(database):
    """A database of a role that owns the tables, too. Superusers have made it, and given it away."""
    with temporary_roles(database.cluster, "app_owner", "bystander", "backend", "app"):
        database.execute("SELECT cache_grant_service('backend'), cache_grant_tenant('app')")
        give_tables_to(database, "app_owner")
        database.execute(f"ALTER DATABASE {database.name} OWNER TO app_owner; ALTER ROLE app_owner LOGIN")
        yield database
        # So that the role can be dropped.
        database.execute(f"ALTER DATABASE {database.name} OWNER TO postgres; REASSIGN OWNED BY app_owner TO postgres")


CALLS = ["cache_setup()", "cache_run_maintenance()", "cache_flush_statistics()", "create_monthly_cache_partition('2031-05-01')",
         "drop_old_cache_partitions(1)", "archive_audit_logs('1 day')", "cleanup_expired_cache_entries_production()",
         "verify_production_cache()", "check_partition_health()", "cache_statistics()", "cache_alerts", "cache_performance_metrics",
         "cache_maintenance_status", "partition_health_metrics", "cache_maintenance_log", "cache_invalidate_content_type_for_all_users('t')",
         f"cache_forget_user('{ALICE}')"]


@pytest.mark.parametrize("call", CALLS)
def test_the_owner_of_the_database_and_the_tables_runs_what_owners_run(owned, call):
    with owned.connect("app_owner") as connection:
        warnings = []
        connection.add_notice_handler(lambda notice: warnings.append(notice.message_primary))
        rows = connection.execute(f"SELECT * FROM {call}").fetchall()
        assert warnings == []
        if call == "cache_run_maintenance()":
            assert {status for _, status, *_ in rows} == {"ok"}
        if call == "verify_production_cache()":
            assert {name for name, ok, *_ in rows if not ok} <= {"content is compressed with lz4"}


def test_the_owner_sets_up_what_is_missing(owned):
    owned.execute(f"DROP TABLE cache_statistics_hourly, {name_of(3)}; DROP POLICY admin_maintenance_access ON {CACHE}")
    with owned.connect("app_owner") as connection:
        connection.execute("SELECT cache_setup()")
    assert owned.value("SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 'cache_statistics_hourly'") == "app_owner"
    assert owned.execute("SELECT name FROM verify_production_cache() WHERE NOT ok AND name <> 'content is compressed with lz4'") == []


def test_the_owner_of_the_database_gets_nothing_of_tables_that_are_anothers(database):
    """What it may execute acts for the owner of the tables only."""
    with temporary_roles(database.cluster, "app_owner"):
        upsert(database.connect(), "1", (ALICE, "t", "k"))
        database.execute(f"ALTER DATABASE {database.name} OWNER TO app_owner; ALTER ROLE app_owner LOGIN; "
                         "SELECT create_monthly_cache_partition('2020-01-01')")
        before = database.contents()
        with database.connect("app_owner") as connection:
            for call in [*CALLS, f"cache_lookup('{ALICE}', 't', 'k')"]:
                if call in ("cache_statistics()", "check_partition_health()"):
                    continue
                error = sqlstate_of(lambda: connection.execute(f"SELECT * FROM {call}"))
                assert error.sqlstate == "42501", call
        assert database.contents() == before
        assert database.value("SELECT to_regclass('infinite_pages_cache_2020_01') IS NOT NULL")
        database.execute(f"ALTER DATABASE {database.name} OWNER TO postgres")


def old_month(database):
    database.execute("SELECT create_monthly_cache_partition('2020-01-01')")
    database.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, created_at, expires_at) "
                     "VALUES (%s, 't', 'old', '1', '2020-01-05', 'infinity')", (ALICE,))


@pytest.mark.parametrize("tables", ["a superuser's", "an owner's"])
def test_a_service_makes_and_drops_months(database, tables):
    with temporary_roles(database.cluster, "backend", "cache_owner"):
        database.execute("SELECT cache_grant_service('backend')")
        if tables == "an owner's":
            give_tables_to(database, "cache_owner")
        old_month(database)
        with database.connect() as connection:
            connection.execute("SET ROLE backend; SET default_table_access_method = heap")
            assert connection.execute("SELECT create_monthly_cache_partition('2031-05-01')").fetchone() == ("infinite_pages_cache_2031_05",)
            assert connection.execute("SELECT create_monthly_cache_partition('2031-05-09')").fetchone() == ("infinite_pages_cache_2031_05",)
            dropped = "SELECT partition_name, dropped, live_entries FROM drop_old_cache_partitions(6%s)"
            assert connection.execute(dropped % "").fetchall() == [("infinite_pages_cache_2020_01", False, 1)]
            assert connection.execute(dropped % ", true").fetchall() == [("infinite_pages_cache_2020_01", True, 1)]
            assert connection.execute("SELECT current_user").fetchone() == ("backend",)
            # It has nothing of the month itself.
            for statement in ("SELECT * FROM infinite_pages_cache_2031_05", "DROP TABLE infinite_pages_cache_2031_05"):
                assert sqlstate_of(lambda: connection.execute(statement)).sqlstate == "42501"
        made = database.execute("SELECT pg_get_userbyid(c.relowner) = pg_get_userbyid(p.relowner), c.relrowsecurity, c.relacl::text FROM pg_class c, pg_class p "
                                f"WHERE c.relname = 'infinite_pages_cache_2031_05' AND p.relname = '{CACHE}'")
        assert made == [(True, True, None)] or made[0][:2] == (True, True) and "backend" not in made[0][2]
        assert database.value("SELECT to_regclass('infinite_pages_cache_2020_01')") is None


def test_the_right_to_execute_alone_lets_nobody_drop_or_make_a_month(database):
    """As GRANT … ON ALL FUNCTIONS gives it to a tenant: who may not delete every entry is no service."""
    with temporary_roles(database.cluster, "app", "reader", "bystander"):
        old_month(database)
        database.execute("SELECT cache_grant_tenant('app'); GRANT pg_read_all_data, pg_write_all_data TO reader; "
                         "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO app, reader, bystander")
        with database.connect() as connection:
            for role in ("app", "reader", "bystander"):
                for call in ("create_monthly_cache_partition('2031-05-01')", "drop_old_cache_partitions(1, true)"):
                    found = outcome(connection, f"SELECT * FROM {call}", ALICE, role)
                    assert found[:2] == ("42501", f"must be owner of table public.{CACHE}"), (role, call, found)
                    assert "service role" in found[3]
        assert database.value("SELECT to_regclass('infinite_pages_cache_2020_01') IS NOT NULL")


def test_a_service_that_a_policy_restricts_drops_no_month(database):
    with temporary_roles(database.cluster, "backend"):
        old_month(database)
        database.execute(f"SELECT cache_grant_service('backend'); CREATE POLICY bob ON {CACHE} AS RESTRICTIVE FOR DELETE TO backend USING (user_id = '{BOB}')")
        with database.connect() as connection:
            found = outcome(connection, "SELECT * FROM drop_old_cache_partitions(1, true)", None, "backend")
            assert found[0] == "42501"


def test_the_owners_code_runs_with_the_owners_rights_when_a_service_makes_a_month(database):
    with temporary_roles(database.cluster, "backend", "cache_owner"):
        database.execute("SELECT cache_grant_service('backend')")
        give_tables_to(database, "cache_owner")
        database.execute(f"""
            SET ROLE cache_owner;
            CREATE TABLE seen (who name, path text);
            CREATE FUNCTION spy(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
                RAISE WARNING 'as %', current_user; PERFORM set_config('search_path', 'evil', false); RETURN true; END $$;
            ALTER TABLE {CACHE} ADD CHECK (spy(content_type)) NOT VALID""")
        with database.connect() as connection:
            told = []
            connection.add_notice_handler(lambda notice: told.append(notice.message_primary))
            connection.execute("SET ROLE backend")
            connection.execute("SELECT create_monthly_cache_partition('2031-05-01')")
            assert set(told) <= {"as cache_owner"}
            assert connection.execute("SHOW search_path").fetchone() != ("evil",)


@pytest.mark.parametrize("version", RELEASES)
def test_an_update_brings_the_rights_of_owners_and_services(cluster, version):
    with temporary_roles(cluster, *ROLES):
        database = old(cluster, version)
        may = "SELECT has_function_privilege(%s, %s::regprocedure, 'EXECUTE')"
        rights = [("pg_database_owner", "cache_run_maintenance()"), ("pg_database_owner", "cache_setup()"), ("app_service", "drop_old_cache_partitions(int, boolean)"),
                  ("service_role", "create_monthly_cache_partition(timestamp)"), ("pg_monitor", "cache_alerts()")]
        assert [database.value(may, right) for right in rights] == [False] * 5
        database.execute(UPDATE)
        assert [database.value(may, right) for right in rights] == [True] * 5
        assert not database.value(may, ("app_tenant", "drop_old_cache_partitions(int, boolean)"))
        assert not database.value(may, ("authenticated", "cache_grant_monitor(text)"))
        database.drop()


@pytest.mark.parametrize("version", RELEASES)
def test_default_privileges_open_nothing_that_an_update_brings(cluster, version):
    with temporary_roles(cluster, *ROLES):
        database = old(cluster, version)
        database.execute(default_privileges("IN SCHEMA public"))
        database.execute(UPDATE)
        assert database.value("SELECT proacl::text FROM pg_proc WHERE proname = 'cache_grant_monitor'") == "{postgres=X/postgres}"
        database.drop()


def test_where_a_service_makes_a_month_is_not_its_choice(database):
    with temporary_roles(database.cluster, "backend"):
        database.execute("SELECT cache_grant_service('backend')")
        with database.connect() as connection:
            connection.execute("SET allow_in_place_tablespaces = on")
            connection.execute("CREATE TABLESPACE elsewhere LOCATION ''")
            try:
                connection.execute("GRANT CREATE ON TABLESPACE elsewhere TO backend; SET ROLE backend; SET default_tablespace = elsewhere")
                connection.execute("SELECT create_monthly_cache_partition('2031-05-01'); RESET ROLE")
                assert connection.execute("SELECT reltablespace::text FROM pg_class WHERE relname = 'infinite_pages_cache_2031_05'").fetchone() == ("0",)
            finally:
                connection.execute("RESET ROLE; REVOKE ALL ON TABLESPACE elsewhere FROM backend")
                connection.execute("DROP TABLESPACE elsewhere")


def test_tables_that_are_given_away_again_keep_what_was_granted(owned):
    """By ALTER TABLE OWNER TO and by REASSIGN OWNED: services go on, and months are the new owner's."""
    with temporary_roles(owned.cluster, "next_owner"):
        owned.execute("GRANT CREATE ON SCHEMA public TO next_owner; REASSIGN OWNED BY app_owner TO next_owner")
        with owned.connect() as connection, acting(connection, None, "backend"):
            connection.execute("SELECT create_monthly_cache_partition('2031-06-01')")
            assert columns_of(connection, "SELECT * FROM cache_alerts")
        assert owned.value("SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 'infinite_pages_cache_2031_06'") == "next_owner"
        # REASSIGN gives the database away, too.
        owned.execute("ALTER ROLE next_owner LOGIN")
        with owned.connect("next_owner") as connection:
            assert {row["status"] for row in columns_of(connection, "SELECT * FROM cache_run_maintenance()")} == {"ok"}
        owned.execute(f"ALTER DATABASE {owned.name} OWNER TO app_owner; REASSIGN OWNED BY next_owner TO app_owner")
