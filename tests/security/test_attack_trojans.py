"""What somebody plants - in a search_path, among temporary objects, in the extension's schema before or after CREATE EXTENSION, in the
tables themselves - is neither called with another's rights nor taken for the extension's own."""

import re

import psycopg
import pytest

from harness.entries import ALICE, BOB, CACHE
from harness.errors import sqlstate_of
from harness.months import add_audit_month, this_month
from harness.roles import acting, temporary_roles
from harness.tenants import fill_for_alice

ARCHIVE = "cache_audit_archive"


# ── what runs as another role ────────────────────────────────────────────────────────────────────

def tell_tale(connection, told):
    """An IMMUTABLE function of the current role that tells whose rights it has."""
    connection.add_notice_handler(lambda diag: told.append(diag.message_primary))
    connection.execute("CREATE FUNCTION public.tell_tale(integer) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS "
                       "$f$ BEGIN RAISE WARNING 'told as %', current_user; RETURN true; END $f$")


@pytest.mark.parametrize("call", ["cache_create_current_partition()", "create_monthly_cache_partition('2031-05-01')",
                                  "archive_audit_logs('60 days')"])
def test_checks_of_an_owner_have_its_rights_when_a_partition_is_attached(owned, call):
    """ATTACH PARTITION folds the constants of CHECK constraints, which runs functions in them; cache_create_current_partition() is
    SECURITY DEFINER, and its owner is a superuser."""
    told = []
    owned.execute(f"ALTER TABLE {add_audit_month(owned, -5)} OWNER TO cache_owner")
    with owned.connect() as connection:
        connection.execute("SET ROLE cache_owner")
        tell_tale(connection, told)
        connection.execute(f"DROP TABLE infinite_pages_cache_{this_month(connection)}")
        for table in (CACHE, "cache_audit_log"):
            connection.execute(f"ALTER TABLE {table} ADD CONSTRAINT told CHECK (public.tell_tale(1))")
        told.clear()
        if "current" not in call:
            connection.execute("RESET ROLE")
        assert len(connection.execute(f"SELECT * FROM {call}").fetchall()) == 1
    assert set(told) == {"told as cache_owner"}


def test_a_tenants_write_does_not_lend_the_owner_a_superusers_rights(owned):
    """The same, by way of a tenant's first write of a month."""
    told = []
    with temporary_roles(owned.cluster, "tenant"), owned.connect() as connection:
        connection.execute("SELECT cache_grant_tenant('tenant'); SET ROLE cache_owner")
        tell_tale(connection, told)
        connection.execute(f"DROP TABLE infinite_pages_cache_{this_month(connection)}, cache_audit_log_{this_month(connection)}")
        for table in (CACHE, "cache_audit_log"):
            connection.execute(f"ALTER TABLE {table} ADD CONSTRAINT told CHECK (public.tell_tale(1))")
        connection.execute("RESET ROLE")
        told.clear()
        with acting(connection, ALICE, "tenant"):
            connection.execute("SELECT cache_upsert(%s, 't', 'k', '1')", (ALICE,))
        # The row's own check is the tenant's, as for any INSERT.
        assert set(told) == {"told as cache_owner", "told as tenant"}


def test_where_a_partition_is_stored_is_not_a_tenants_choice(supabase):
    """A tenant's settings are in force while its first write of a month makes the partitions of everybody."""
    with supabase.connect() as connection:
        connection.execute("SET allow_in_place_tablespaces = on")
        connection.execute("CREATE TABLESPACE elsewhere LOCATION ''")
        try:
            connection.execute("CREATE ACCESS METHOD other TYPE TABLE HANDLER heap_tableam_handler")
            months = [f"{table}_{this_month(connection)}" for table in ("infinite_pages_cache", "cache_audit_log")]
            connection.execute(f"DROP TABLE {', '.join(months)}")
            # The setting is not checked again when the role changes.
            connection.execute("SET default_tablespace = elsewhere; SET default_table_access_method = other")
            with acting(connection, ALICE):
                connection.execute("SELECT cache_upsert(%s, 't', 'k', '1')", (ALICE,))
            connection.execute("RESET ALL")
            stored = connection.execute(
                "SELECT c.relname::text, c.reltablespace::text, a.amname::text FROM pg_class c JOIN pg_am a ON a.oid = c.relam "
                "WHERE c.oid = ANY (%s::regclass[]) OR c.oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = ANY (%s::regclass[]))",
                (months, months)).fetchall()
            assert len(stored) >= 6 and {space for _, space, _ in stored} == {"0"} and "other" not in {method for _, _, method in stored}
        finally:
            connection.execute(f"DROP TABLE IF EXISTS {', '.join(months)}")
            connection.execute("DROP TABLESPACE elsewhere")


@pytest.mark.parametrize("setting", ["search_path = evil, pg_temp, pg_catalog", "check_function_bodies = off", "default_transaction_deferrable = on",
                                     "default_toast_compression = pglz", "row_security = off", "quote_all_identifiers = on",
                                     "DateStyle = 'SQL, DMY'", "IntervalStyle = sql_standard", "TimeZone = 'Pacific/Kiritimati'",
                                     "xmloption = document",
                                     "bytea_output = escape", "extra_float_digits = -15", "enable_partition_pruning = off",
                                     "constraint_exclusion = on", "client_encoding = LATIN1", "standard_conforming_strings = off"])
def test_a_tenants_settings_do_not_change_what_a_new_partition_is(supabase, setting):
    def shape(connection):
        return connection.execute(
            "SELECT c.relname::text, pg_get_expr(c.relpartbound, c.oid), c.relrowsecurity, pg_get_userbyid(c.relowner)::text, c.relacl::text, "
            "       (SELECT array_agg(pg_get_indexdef(indexrelid) ORDER BY 1) FROM pg_index WHERE indrelid = c.oid), c.reloptions "
            "FROM pg_class c WHERE c.relname = ANY (%s) ORDER BY 1", (months,)).fetchall()

    with supabase.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'; CREATE SCHEMA evil; GRANT ALL ON SCHEMA evil TO authenticated")
        months = [f"{table}_{this_month(connection)}" for table in ("infinite_pages_cache", "cache_audit_log")]
        before = shape(connection)
        connection.execute(f"DROP TABLE {', '.join(months)}")
        with acting(connection, ALICE):
            connection.execute(f"SET LOCAL {setting}")
            if setting.startswith("row_security"):
                # It has row security raise an error; the partition can be made all the same.
                connection.execute("SELECT cache_create_current_partition()")
            else:
                connection.execute("SELECT public.cache_upsert(%s, 't', 'k', '1')", (ALICE,))
        if len(shape(connection)) == 1:
            connection.execute("SELECT cache_upsert(%s, 't', 'k', '1')", (ALICE,))
        assert len(before) == 2 and shape(connection) == before


# ── search_path and pg_temp ──────────────────────────────────────────────────────────────────────

def test_types_casts_and_closer_operators_in_the_path(supabase):
    """Operators that fit the operands better than PostgreSQL's own (numeric < integer), types of the names of its own, and casts: none
    is found by what the extension runs."""
    fill_for_alice(supabase)
    with supabase.connect() as connection:
        told = []
        connection.add_notice_handler(lambda diag: told.append(diag.message_primary))
        connection.execute("CREATE SCHEMA evil; GRANT ALL ON SCHEMA evil TO authenticated; SET ROLE authenticated")
        kinds = ["integer", "bigint", "numeric", "text", "name", "uuid", "jsonb", "timestamptz", "date", "interval", "double precision", '"char"']
        for left in kinds:
            for right in kinds:
                function = re.sub(r"\W", "_", f"{left}_{right}")
                connection.execute(f"CREATE FUNCTION evil.{function}(a {left}, b {right}) RETURNS boolean LANGUAGE plpgsql AS "
                                   "$$BEGIN RAISE NOTICE 'evil operator as %', current_user; RETURN true; END$$")
                for operator in ("=", "<>", "<", "<=", ">", ">="):
                    connection.execute(f"CREATE OPERATOR evil.{operator} (FUNCTION = evil.{function}, LEFTARG = {left}, RIGHTARG = {right})")
        for name in ("uuid", "text", "jsonb", "interval", "timestamptz", "int4", "int8", "bool", "numeric", "cache_ttl"):
            connection.execute(f"CREATE DOMAIN evil.{name} AS pg_catalog.text CHECK (false)")
        connection.execute("RESET ROLE")
        calls = [f"cache_upsert('{ALICE}', 't', 'k', '7', '1 day')", f"cache_lookup('{ALICE}', 't', 'k')", f"cache_get('{ALICE}', 't', 'k')",
                 f"cache_lookup_many('{ALICE}', 't', '{{k}}')", f"cache_search('{ALICE}', 't', '{{}}', 5)",
                 f"cache_touch('{ALICE}', 't', 'k', '1 day')",
                 f"cache_invalidate_where('{ALICE}', '{{\"x\": 1}}')", f"get_infinite_pages_analytics('{ALICE}')", "cache_pending_hits()",
                 "user_cache_analytics()", f"cache_invalidate('{ALICE}', 't', 'k')"]
        reports = ["cache_performance_metrics()", "partition_health_metrics()", "cache_alerts()", "cache_maintenance_log()",
                   "cache_maintenance_status()",
                   "cache_maintenance_progress()", "cache_connection_metrics()", "verify_production_cache()", "check_partition_health()",
                   "cache_statistics()", "cleanup_expired_cache_entries_production()", f"cache_forget_user('{BOB}')"]
        for path in ("evil, public", "evil, pg_catalog, public", "public, evil", "pg_catalog, evil"):
            connection.execute(f"SET search_path = {path}")
            # The trap works.
            connection.execute("SELECT 1.5::pg_catalog.numeric OPERATOR(evil.<) 1::pg_catalog.int4")
            assert told.pop() == "evil operator as postgres"
            for role, wanted in (("authenticated", calls), ("service_role", calls + reports), ("postgres", calls + reports + [
                    "cache_setup()", "cache_run_maintenance()", "create_monthly_cache_partition('2031-05-01')", "archive_audit_logs('1000 days')"])):
                with acting(connection, ALICE, role, keep=False):
                    for call in wanted:
                        connection.execute(f"SELECT * FROM public.{call}")
        assert told == []


def test_a_temporary_schema_holds_nothing_that_is_called(supabase):
    """Functions and operators there are found by a qualified name only, but types, tables and views stand before all others."""
    with supabase.connect() as connection:
        told = []
        connection.add_notice_handler(lambda diag: told.append(diag.message_primary))
        views = connection.execute("SELECT relname FROM pg_class WHERE relkind = 'v' AND relnamespace = 'pg_catalog'::regnamespace").fetchall()
        for (view,) in views:
            connection.execute(f"CREATE TEMP VIEW {view} AS SELECT 1 / (random() * 0)::integer AS evil")
        connection.execute("CREATE FUNCTION pg_temp.evil() RETURNS trigger LANGUAGE plpgsql AS "
                           "$$BEGIN RAISE NOTICE 'evil as %', current_user; RETURN NEW; END$$")
        for name in (CACHE, "cache_audit_log", "cache_content_policies", f"infinite_pages_cache_{this_month(connection)}"):
            connection.execute(f"CREATE TEMP TABLE {name} (LIKE public.{name}); "
                               f"CREATE TRIGGER evil BEFORE INSERT OR UPDATE OR DELETE ON pg_temp.{name} FOR EACH ROW "
                               "EXECUTE FUNCTION pg_temp.evil()")
        connection.execute("GRANT ALL ON ALL TABLES IN SCHEMA pg_temp TO PUBLIC")
        connection.execute(f"DROP TABLE public.infinite_pages_cache_{this_month(connection)}, public.cache_audit_log_{this_month(connection)}")
        with acting(connection, ALICE):
            connection.execute("SELECT public.cache_upsert(%s, 't', 'k', '7')", (ALICE,))
            assert connection.execute("SELECT public.cache_lookup(%s, 't', 'k')", (ALICE,)).fetchone() == (7,)
        for report in ("verify_production_cache()", "check_partition_health()", "cache_alerts()", "cache_connection_metrics()",
                       "partition_health_metrics()"):
            connection.execute(f"SELECT * FROM public.{report}")
        assert connection.execute(f"SELECT count(*) FROM public.{CACHE} WHERE user_id = %s", (ALICE,)).fetchone() == (1,)
        assert connection.execute(f"SELECT count(*) FROM pg_temp.{CACHE}").fetchone() == (0,)
        assert told == []


# ── planted in the schema ────────────────────────────────────────────────────────────────────────

def plants(connection):
    """What somebody could have made before, by the names of all that the extension makes: each a statement, the overloads all in one."""
    statements, overloads = [], []
    for name, kind in connection.execute("SELECT relname::text, relkind::text FROM pg_class WHERE relnamespace = 'public'::regnamespace "
                                         "AND relkind IN ('r', 'p', 'v')").fetchall():
        statements += [f'CREATE TABLE public."{name}" (user_id uuid, "timestamp" timestamptz, created_at timestamptz)',
                       f'CREATE VIEW public."{name}" AS SELECT 1 AS evil']
        if kind in "rp":
            statements.append(f'CREATE TABLE public."{name}_template" (a integer)')
    for name, arguments in connection.execute("SELECT p.proname::text, oidvectortypes(p.proargtypes) FROM pg_proc p "
                                              "WHERE p.pronamespace = 'public'::regnamespace AND p.proname NOT LIKE 'cache\\_ttl\\_%'").fetchall():
        body = "RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'evil'; END$$"
        # The type cache_ttl is not there yet, so this one is an overload.
        statements.append(f"CREATE FUNCTION public.{name}({arguments.replace('cache_ttl', 'interval')}) {body}")
        overloads.append(f"CREATE FUNCTION public.{name}(VARIADIC text[]) {body}")
    return statements + ["; ".join(dict.fromkeys(overloads)), "CREATE DOMAIN public.cache_ttl AS text", "CREATE TYPE public._cache_ttl AS (a text)",
                         "CREATE FUNCTION public.cache_ttl_from_interval(interval) RETURNS text LANGUAGE sql AS $$SELECT 'evil'$$",
                         "CREATE SEQUENCE public.cache_audit_log_id_seq", f"CREATE TABLE public.{ARCHIVE} (user_id uuid, acting_user_id uuid)"]


def test_nothing_planted_before_create_extension_becomes_part_of_it(mallory, database, empty_database):
    """Either CREATE EXTENSION refuses, and leaves nothing; or all that it has made is its own, and none of the plants is called."""
    with database.connect() as connection:
        statements = plants(connection)
    refused = stood = 0
    empty_database.execute("GRANT CREATE ON SCHEMA public TO mallory")
    with empty_database.connect() as connection:
        for statement in statements:
            with connection.transaction(force_rollback=True):
                with connection.transaction():
                    connection.execute(f"SET LOCAL ROLE mallory; {statement}")
                connection.execute("SET ROLE postgres")
                planted = connection.execute("SELECT oid FROM pg_class WHERE relowner = 'mallory'::regrole UNION ALL "
                                             "SELECT oid FROM pg_proc WHERE proowner = 'mallory'::regrole UNION ALL "
                                             "SELECT oid FROM pg_type WHERE typowner = 'mallory'::regrole").fetchall()
                assert planted, statement
                try:
                    with connection.transaction():
                        connection.execute("CREATE EXTENSION infinite_pages_cache")
                except psycopg.Error as error:
                    # Whoever installs it is told that the name is taken, or whose table it is.
                    told = statement, error.diag.message_primary
                    assert error.diag.sqlstate in ("42501", "42P07", "42723", "42710", "42809", "42P13", "42846"), told
                    refused += 1
                    assert connection.execute("SELECT count(*) FROM pg_extension WHERE extname = 'infinite_pages_cache'").fetchone() == (0,)
                    continue
                stood += 1
                members = connection.execute("SELECT objid FROM pg_depend d "
                                             "JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'infinite_pages_cache' "
                                             "WHERE d.deptype = 'e'").fetchall()
                partitions = connection.execute("SELECT inhrelid FROM pg_inherits").fetchall()
                assert not set(planted) & set(members + partitions), statement
                # It is used as it is meant to be, with arguments of their types.
                connection.execute("SELECT cache_upsert(%s::uuid, 't'::text, 'k'::text, '1'::jsonb)", (ALICE,))
                assert connection.execute("SELECT cache_lookup(%s::uuid, 't'::text, 'k'::text)", (ALICE,)).fetchone() == (1,), statement
                for report in ("verify_production_cache()", "cache_performance_metrics", "cache_run_maintenance()"):
                    connection.execute(f"SELECT * FROM {report}")
    assert refused > 60 and stood > 10, (refused, stood)


@pytest.fixture
def planted(mallory, database):
    """An archive that is not the extension's: a table whose trigger tells what it is run as, with a partition."""
    add_audit_month(database, -5)
    database.execute("GRANT CREATE ON SCHEMA public TO mallory")
    with database.connect(mallory) as connection:
        connection.execute(f"""
            CREATE TABLE {ARCHIVE} (user_id uuid, acting_user_id uuid, action text, "timestamp" timestamptz) PARTITION BY RANGE ("timestamp");
            CREATE TABLE planted_2000 PARTITION OF {ARCHIVE} FOR VALUES FROM ('2000-01-01') TO ('2001-01-01');
            GRANT SELECT ON planted_2000 TO PUBLIC;
            GRANT ALL ON {ARCHIVE} TO PUBLIC;
            CREATE TABLE stolen (who name, content text);
            GRANT INSERT ON stolen TO PUBLIC;
            CREATE FUNCTION steal() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN
                INSERT INTO public.stolen SELECT current_user, (SELECT max(content::text) FROM public.{CACHE}); RETURN NULL; END $f$;
            CREATE TRIGGER steal BEFORE DELETE ON {ARCHIVE} FOR EACH STATEMENT EXECUTE FUNCTION steal()""")
    yield database


def test_a_planted_archive_is_not_taken_for_the_extensions_own(planted):
    """Until a month is first archived its name is free."""
    database = planted
    with temporary_roles(database.cluster, "backend"):
        # No rows are hidden from it, which would be refused before.
        database.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {CACHE}, cache_audit_log TO backend; ALTER ROLE backend BYPASSRLS; "
                         f"SELECT cache_upsert('{ALICE}', 't', 'k', '\"secret\"')")
        audited = database.value("SELECT count(*) FROM cache_audit_log")
        assert audited >= 2
        for role in ("postgres", "backend"):
            with database.connect() as connection:
                connection.execute("GRANT EXECUTE ON FUNCTION cache_forget_user(uuid) TO backend; "
                                   "GRANT CREATE ON SCHEMA public TO PUBLIC")
                connection.execute(f"SET ROLE {role}")
                error = sqlstate_of(lambda: connection.execute("SELECT cache_forget_user(%s)", (BOB,)))
                assert error.sqlstate == "42501" and ARCHIVE in error.message_primary and error.message_detail and error.message_hint
        for call in ("archive_audit_logs('60 days')", "cache_grant_service('backend')", "cache_setup()"):
            error = sqlstate_of(lambda: database.execute(f"SELECT * FROM {call}"))
            assert (call, error.sqlstate) == (call, "42501") and ARCHIVE in error.message_primary and error.message_hint
        assert database.execute("SELECT * FROM stolen") == []
        # No month of the log has gone to it, and nothing of it has been changed.
        assert database.value("SELECT count(*) FROM cache_audit_log") == audited
        steps = dict(database.execute("SELECT step, status FROM cache_run_maintenance()"))
        assert steps["secure partitions"] == "ok"
        assert database.execute("SELECT relacl IS NOT NULL, relrowsecurity FROM pg_class WHERE relname = 'planted_2000'") == [(True, False)]
        # What the error says to do helps.
        database.execute(f"ALTER TABLE {ARCHIVE} RENAME TO away")
        assert len(database.execute("SELECT * FROM archive_audit_logs('60 days')")) == 1
        assert database.value("SELECT audit_rows_deleted FROM cache_forget_user(%s)", (ALICE,)) >= 1
        assert database.value(f"SELECT relowner::regrole::text FROM pg_class WHERE relname = '{ARCHIVE}'") == "postgres"


def test_the_archive_belongs_to_the_owner_of_the_log(owned):
    """Whoever archives, and then also cache_forget_user() knows it for its own."""
    add_audit_month(owned, -20)
    assert len(owned.execute("SELECT * FROM archive_audit_logs('60 days')")) == 1
    assert owned.execute("SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relname ~ 'cache_audit_(log|archive)'") == [("cache_owner",)]
    owned.execute("SELECT * FROM cache_forget_user(%s)", (ALICE,))
    # One that a superuser has made is as good.
    owned.execute(f"ALTER TABLE {ARCHIVE} OWNER TO postgres")
    owned.execute("SELECT * FROM cache_forget_user(%s)", (ALICE,))


def test_a_planted_name_of_a_coming_month_is_refused(mallory, database):
    database.execute("GRANT CREATE ON SCHEMA public TO mallory")
    with database.connect(mallory) as connection:
        connection.execute("CREATE TABLE infinite_pages_cache_2031_05 (id uuid)")
    error = sqlstate_of(lambda: database.execute("SELECT create_monthly_cache_partition('2031-05-01')"))
    assert error.sqlstate == "42P07" and "infinite_pages_cache_2031_05" in error.message_primary and error.message_hint
