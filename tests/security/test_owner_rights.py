"""What a superuser runs by hand over tables of somebody else's runs that owner's code with the owner's rights, as REINDEX does."""

import pytest

from harness.entries import ALICE, CACHE, add_entries, expired, lookup, upsert
from harness.errors import sqlstate_of
from harness.months import bounds, name_of
from harness.reports import columns_of
from harness.roles import ESCAPES, temporary_roles

LATER = "CONSTRAINT TRIGGER {name} AFTER {event} ON {table} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"


def spy(database, *triggers):
    """Has the owner's triggers try to take more rights, and to change the session."""
    statements = "\n".join(
        f"BEGIN EXECUTE $s${statement}$s$; INSERT INTO public.seen VALUES ($s${statement}$s$, current_user, NULL); "
        f"EXCEPTION WHEN OTHERS THEN INSERT INTO public.seen VALUES ($s${statement}$s$, current_user, SQLSTATE); END;"
        for statement in ESCAPES)
    with database.connect() as connection:
        connection.execute(f"""
            SET ROLE cache_owner;
            CREATE TABLE public.seen (statement text, who name, sqlstate text);
            CREATE FUNCTION public.spy() RETURNS trigger LANGUAGE plpgsql AS $f$
            BEGIN
                INSERT INTO public.seen VALUES ('on ' || tg_table_name, current_user, NULL);
                PERFORM set_config('search_path', 'evil', false), set_config('check_function_bodies', 'off', false);
                {statements}
                RETURN coalesce(NEW, OLD);
            END $f$;
            CREATE FUNCTION public.told(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $f$
            BEGIN RAISE WARNING 'told as %', current_user; RETURN $1; END $f$""")
        for number, (trigger, table) in enumerate(triggers):
            connection.execute(f"CREATE {trigger.format(name=f'spy_{number}', table=table)} EXECUTE FUNCTION public.spy()")


def check_seen(database, *tables):
    seen = database.execute("SELECT statement, who, sqlstate FROM seen")
    assert {statement for statement, _, _ in seen if statement.startswith("on ")} >= {f"on {table}" for table in tables}, seen
    assert {who for _, who, _ in seen} == {"cache_owner"}, seen
    assert None not in {sqlstate for statement, _, sqlstate in seen if statement in ESCAPES}
    assert database.execute("SELECT rolname FROM pg_roles WHERE rolsuper") == [("postgres",)]


EACH = "TRIGGER {name} BEFORE INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW"


def work(database):
    """Something to do for every step that can run an owner's code."""
    add_entries(database, 1)
    with database.connect() as connection:
        upsert(connection, "1", (ALICE, "t", "live"))
        lookup(connection, (ALICE, "t", "live"))
        connection.execute("INSERT INTO cache_maintenance_runs (run_at, step, status, role) VALUES ('2020-01-01', 'x', 'ok', 'x')")
        connection.execute("INSERT INTO cache_statistics_hourly (hour, content_type) VALUES ('2020-01-01', 'x')")
        connection.execute("INSERT INTO cache_user_summary (user_id, entries, content_types, hits, tokens_saved, measured_at) VALUES (gen_random_uuid(), 1, 1, 1, 1, '2020-01-01')")


@pytest.mark.parametrize("role", ["postgres", "deputy"])
def test_a_run_by_hand_has_no_more_rights_than_the_owner(owned, role):
    work(owned)
    spy(owned, *[(EACH, table) for table in (name_of(0), "cache_maintenance_runs", "cache_statistics_hourly", "cache_user_summary")])
    with owned.connect() as connection:
        connection.execute("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO deputy")
        connection.execute(f"SET ROLE {role}")
        before = connection.execute("SELECT current_setting('search_path'), current_setting('check_function_bodies')").fetchone()
        steps = {row["step"]: row for row in columns_of(connection, "SELECT * FROM cache_run_maintenance()")}
        assert {row["status"] for row in steps.values()} == {"ok"}, steps
        for step in ("delete expired entries", "flush statistics", "trim maintenance log", "trim statistics", "summarize"):
            assert steps[step]["affected"] > 0, (step, steps)
        assert connection.execute("SELECT current_setting('search_path'), current_setting('check_function_bodies')").fetchone() == before
        assert connection.execute("SELECT current_user").fetchone() == (role,)
    check_seen(owned, name_of(0), "cache_maintenance_runs", "cache_statistics_hourly", "cache_user_summary")


@pytest.mark.parametrize("call", ["cleanup_expired_cache_entries_production()", f"cache_forget_user('{ALICE}')", "cache_flush_statistics()"])
def test_nor_has_any_other_function_for_owners(owned, call):
    work(owned)
    spy(owned, (EACH, name_of(0)))
    with owned.connect() as connection:
        [row] = connection.execute(f"SELECT * FROM {call}").fetchall()
        assert row[0] >= 1
        assert connection.execute("SHOW check_function_bodies").fetchone() == ("on",)
    check_seen(owned, name_of(0))


def test_what_an_owner_puts_off_to_the_end_of_the_transaction_is_refused(owned):
    """It would run as whoever ends it."""
    work(owned)
    spy(owned, (LATER.replace("{event}", "DELETE"), CACHE))
    steps = {step: (status, detail) for step, status, detail in owned.execute("SELECT step, status, detail FROM cache_run_maintenance()")}
    assert steps["delete expired entries"][0] == "failed" and "security-restricted" in steps["delete expired entries"][1]
    assert {status for step, (status, _) in steps.items() if step != "delete expired entries"} == {"ok"}
    for call in ("cleanup_expired_cache_entries_production()", f"cache_forget_user('{ALICE}')"):
        assert sqlstate_of(lambda: owned.execute(f"SELECT * FROM {call}")).sqlstate == "42501"
    assert owned.execute("SELECT * FROM seen") == [] and expired(owned) == 1
    # The owner's own run works.
    owned.execute("ALTER ROLE cache_owner LOGIN")
    with owned.connect("cache_owner") as connection:
        assert {status for (status,) in connection.execute("SELECT status FROM cache_run_maintenance()")} == {"ok"}
    assert expired(owned) == 0
    seen = owned.execute("SELECT statement, who FROM seen")
    assert (f"on {name_of(0)}", "cache_owner") in seen and {who for _, who in seen} == {"cache_owner"}


def test_the_log_of_a_run_by_hand_refuses_it_too(owned):
    """The run goes on without its log, and says so."""
    spy(owned, (LATER.replace("{event}", "INSERT"), "cache_maintenance_runs"))
    told = []
    with owned.connect() as connection:
        connection.add_notice_handler(lambda notice: told.append((notice.severity, notice.message_detail)))
        assert {status for (status,) in connection.execute("SELECT status FROM cache_run_maintenance()")} == {"ok"}
    [detail] = [detail for severity, detail in told if severity == "WARNING"]
    assert "security-restricted" in detail and "42501" in detail
    assert owned.execute("SELECT * FROM seen") == owned.execute("SELECT * FROM cache_maintenance_runs") == []


def test_index_expressions_of_the_owner_have_its_rights(owned):
    work(owned)
    spy(owned)
    with owned.connect() as connection:
        told = set()
        connection.execute(f"SET ROLE cache_owner; CREATE INDEX ON {CACHE} (public.told(cache_key)); RESET ROLE; DROP TABLE {name_of(3)}")
        # A new version of a row that does not fit into its page gets new entries in all indexes.
        connection.execute(f"UPDATE {CACHE} SET hit_count = 0; CREATE INDEX ON {CACHE} (hit_count)")
        lookup(connection, (ALICE, "t", "live"))
        connection.add_notice_handler(lambda diag: told.add(diag.message_primary))
        connection.execute("SELECT * FROM cache_run_maintenance()").fetchall()
    assert name_of(3) in bounds(owned)
    assert told == {"told as cache_owner"}


def test_a_service_role_keeps_its_own_rights(owned):
    """It has not those of the owner."""
    with temporary_roles(owned.cluster, "backend"):
        work(owned)
        owned.execute("SELECT cache_grant_service('backend')")
        spy(owned, (EACH, name_of(0)))
        owned.execute("GRANT INSERT ON seen TO backend; ALTER ROLE backend LOGIN")
        with owned.connect("backend") as connection:
            assert connection.execute("SELECT deleted_count FROM cleanup_expired_cache_entries_production()").fetchone() == (1,)
            assert connection.execute("SELECT entries_deleted FROM public.cache_forget_user(%s)", (ALICE,)).fetchone() == (1,)
        assert {who for (who,) in owned.execute("SELECT who FROM seen")} == {"backend"}


def test_statistics_are_not_stored_in_tables_of_different_owners(owned):
    work(owned)
    owned.execute("ALTER TABLE cache_user_summary OWNER TO postgres")
    error = sqlstate_of(lambda: owned.execute("SELECT * FROM cache_flush_statistics()"))
    assert error.sqlstate == "55000" and "cache_user_summary" in error.message_primary
