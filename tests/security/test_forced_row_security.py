"""FORCE ROW LEVEL SECURITY and policies that hide rows from maintenance: what is hidden is never taken for what is not there."""

import pytest

from harness.entries import ALICE, BOB, CACHE, add_entries, count, insert, lookup, upsert
from harness.errors import sqlstate_of
from harness.maintenance import STEPS, run
from harness.months import add_audit_month, add_month, bounds, month, name_of
from harness.roles import temporary_roles
from harness.waiting import wait_until
from harness.worker import log_of, status, without_worker

CHECK = "maintenance sees every row"
# Each table, and the steps that need to see, and to change, all that it holds.
NEEDED = {
    CACHE: {"flush statistics", "drop dead months", "delete expired entries", "enforce limits", "summarize"},
    "cache_content_policies": {"drop dead months", "delete expired entries", "enforce limits", "summarize"},
    "cache_statistics_hourly": {"flush statistics", "trim statistics"},
    "cache_entry_summary": {"flush statistics", "summarize"},
    "cache_user_summary": {"flush statistics", "summarize"},
}


def force(database, table=CACHE):
    """The policy that shows a table of figures to whoever has rights on it goes, too."""
    database.execute(f"DROP POLICY IF EXISTS privileged_readonly_access ON {table}; ALTER TABLE {table} ENABLE ROW LEVEL SECURITY; ALTER TABLE {table} FORCE ROW LEVEL SECURITY")


def fill(database):
    """A month of the past with an entry that lives on, and one that does not."""
    add_month(database, -8)
    insert(database, month(-8), "live")
    insert(database, month(-8), "expired", expires_at="2020-01-01")
    return name_of(-8)


def check_of(database):
    [row] = database.execute("SELECT ok, detail, hint FROM verify_production_cache() WHERE name = %s", (CHECK,))
    return row


@pytest.mark.parametrize("role", ["postgres", "cache_owner"])
@pytest.mark.parametrize("table", NEEDED)
def test_a_step_from_which_rows_are_hidden_fails_and_says_so(owned, table, role):  # noqa: F811
    fill(owned)
    with owned.connect() as connection:
        # A hit to be stored.
        assert lookup(connection, (ALICE, "t", "live")) == 1
    force(owned, table)
    before = owned.execute(f"SELECT cache_key FROM {CACHE} ORDER BY 1")
    with owned.connect() as connection:
        connection.execute(f"SET ROLE {role}")
        steps = {step: (status, detail) for step, status, detail in connection.execute("SELECT step, status, detail FROM cache_run_maintenance()")}
    assert {step for step, (status, _) in steps.items() if status == "failed"} == NEEDED[table], steps
    for step in NEEDED[table]:
        assert "FORCE ROW LEVEL SECURITY" in steps[step][1] and table in steps[step][1] and "cache_owner" in steps[step][1]
    if table == CACHE:
        assert owned.execute(f"SELECT cache_key FROM {CACHE} ORDER BY 1") == before
    assert name_of(-8) in bounds(owned)
    ok, detail, hint = check_of(owned)
    assert not ok and table in detail and "FORCE" in detail and "NO FORCE" in hint and "BYPASSRLS" in hint
    owned.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    assert {step[0] for step in run(owned).values()} == {"ok"}
    assert owned.execute(f"SELECT cache_key FROM {CACHE}") == [("live",)]
    assert check_of(owned)[0] and check_of(owned)[2] is None


@pytest.mark.parametrize("role", ["postgres", "cache_owner"])
@pytest.mark.parametrize("call", ["drop_old_cache_partitions()", "drop_old_cache_partitions(include_live => true)",
                                  "cleanup_expired_cache_entries_production()", "cache_flush_statistics()"])
def test_functions_for_owners_refuse_to_work_on_what_is_hidden(owned, call, role):  # noqa: F811
    month_of_past = fill(owned)
    with owned.connect() as connection:
        assert lookup(connection, (ALICE, "t", "live")) == 1
    force(owned)
    with owned.connect() as connection:
        connection.execute(f"SET ROLE {role}")
        # A superuser that calls drops with its own rights, and sees all.
        if role == "postgres" and call.startswith("drop"):
            [(live, detail)] = connection.execute(f"SELECT live_entries, detail FROM {call}").fetchall()
            assert live == 1 and ("live" in detail or "include_live" in call)
            return
        error = sqlstate_of(lambda: connection.execute(f"SELECT * FROM {call}"))
    assert error.sqlstate == "42501" and CACHE in error.message_primary and "FORCE" in error.message_primary, error.message_primary
    assert "cache_owner" in error.message_primary
    assert error.message_detail and "NO FORCE ROW LEVEL SECURITY" in error.message_hint and "BYPASSRLS" in error.message_hint
    assert count(owned) == 2 and month_of_past in bounds(owned)


def test_hits_of_hidden_entries_stay_counted(owned):  # noqa: F811
    with owned.connect() as connection:
        upsert(connection, "1", (ALICE, "t", "k"))
        for _ in range(3):
            lookup(connection, (ALICE, "t", "k"))
    force(owned)
    assert run(owned)["flush statistics"][0] == "failed"
    owned.execute(f"ALTER TABLE {CACHE} NO FORCE ROW LEVEL SECURITY")
    assert owned.value("SELECT entries_updated FROM cache_flush_statistics()") == 1
    assert owned.value(f"SELECT hit_count FROM {CACHE}") == 3


def test_an_owner_that_may_bypass_row_security_or_that_a_policy_shows_all_goes_on(owned):  # noqa: F811
    for grant, revoke in [("ALTER ROLE cache_owner BYPASSRLS", "ALTER ROLE cache_owner NOBYPASSRLS"),
                          ("ALTER POLICY admin_maintenance_access ON {table} TO cache_owner", "ALTER POLICY admin_maintenance_access ON {table} TO pg_database_owner")]:
        dead = fill(owned)
        force(owned)
        owned.execute(grant.format(table=CACHE))
        owned.execute(f"UPDATE {CACHE} SET expires_at = '2020-01-01'")
        assert {step[0] for step in run(owned).values()} == {"ok"}
        assert count(owned) == 0 and dead not in bounds(owned)
        assert check_of(owned)[0]
        owned.execute(revoke.format(table=CACHE))
        assert not check_of(owned)[0]
        assert run(owned)["drop dead months"][0] == "failed"


def test_an_owner_that_may_read_all_and_delete_nothing_is_told(owned):  # noqa: F811
    fill(owned)
    force(owned)
    owned.execute("GRANT pg_read_all_data TO cache_owner")
    steps = run(owned)
    assert steps["delete expired entries"][0] == "failed"
    assert count(owned) == 2


def test_the_worker_drops_nothing_that_is_hidden_from_it(served):
    with temporary_roles(served.cluster, "cache_owner"):
        with without_worker(served.cluster):
            dead = fill(served)
            served.execute("""
                GRANT CREATE ON SCHEMA public TO cache_owner;
                DO $$ DECLARE t regclass; BEGIN
                    FOR t IN SELECT c.oid FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') LOOP
                        EXECUTE format('ALTER TABLE %s OWNER TO cache_owner', t);
                    END LOOP;
                END $$""")
            force(served)
        wait_until(lambda: log_of(served, "drop dead months") and log_of(served, "delete expired entries"))
        assert dead in bounds(served) and count(served) == 2
        assert {row["status"] for row in log_of(served, "drop dead months")} == {"failed"}
        assert "FORCE ROW LEVEL SECURITY" in log_of(served, "drop dead months")[0]["detail"]
        assert status(served)["consecutive_failures"] > 0
        served.execute(f"ALTER TABLE {CACHE} NO FORCE ROW LEVEL SECURITY")
        wait_until(lambda: count(served) == 1, 30)
        assert dead in bounds(served)


def test_cleanup_by_a_service_from_which_entries_are_hidden_is_refused(database):
    """Behind the expired version that it sees stands one that lives, which would come back."""
    add_month(database, -2)
    insert(database, month(-2), "k")
    insert(database, month(0), "k", expires_at="2020-01-01")
    with temporary_roles(database.cluster, "backend"):
        database.execute("SELECT cache_grant_service('backend')")
        database.execute(f"CREATE POLICY only_new ON {CACHE} AS RESTRICTIVE FOR SELECT TO backend USING (created_at >= '{month(0)}')")
        with database.connect() as connection:
            connection.execute("SET ROLE backend")
            error = sqlstate_of(lambda: connection.execute("SELECT * FROM cleanup_expired_cache_entries_production()"))
            assert error.sqlstate == "42501" and CACHE in error.message_primary and "backend" in error.message_primary
            assert error.message_detail and error.message_hint
            assert lookup(connection, (ALICE, "t", "k")) is None
        assert count(database) == 2
        # What restricts its deletions alone is no reason: it sees what it decides by.
        database.execute(f"DROP POLICY only_new ON {CACHE}")
        add_entries(database, 3, user=BOB)
        database.execute(f"CREATE POLICY keep ON {CACHE} AS RESTRICTIVE FOR DELETE TO backend USING (user_id <> '{BOB}')")
        insert(database, month(0), "gone", expires_at="2020-01-01")
        with database.connect() as connection:
            connection.execute("SET ROLE backend")
            assert connection.execute("SELECT deleted_count FROM cleanup_expired_cache_entries_production()").fetchall() == [(1,)]
        assert count(database) == 5


def test_alerts_do_not_count_what_is_hidden(owned):  # noqa: F811
    add_entries(owned, 10)
    owned.execute("INSERT INTO cache_audit_log (user_id, action) SELECT %s, 'upsert' FROM generate_series(1, 1000)", (ALICE,))
    owned.execute("INSERT INTO cache_maintenance_runs (run_at, step, status, role) VALUES (clock_timestamp(), 'analyze', 'failed', 'x')")
    rules = "SELECT value FROM cache_alerts() WHERE rule ~ '{}'"
    tables = {CACHE: "expired entries", "cache_audit_log": "unusual access", "cache_maintenance_runs": "failed maintenance steps"}
    values = {CACHE: 100, "cache_audit_log": 100, "cache_maintenance_runs": 1}
    with owned.connect() as connection:
        connection.execute("SET ROLE cache_owner")
        for table, rule in tables.items():
            assert connection.execute(rules.format(rule)).fetchone() == (values[table],)
            force(owned, table)
            [(value, told)] = connection.execute(f"SELECT value, what_to_do FROM cache_alerts() WHERE rule ~ '{rule}'").fetchall()
            assert value is None and "row security" in told.lower() and table in told
        # No finding is not what the check says of what it cannot see.
        [(ok, detail)] = connection.execute("SELECT ok, detail FROM verify_production_cache() WHERE name = 'no maintenance step failed lately'").fetchall()
        assert not ok and "row security" in detail


def test_an_archived_month_is_counted_whole(owned):  # noqa: F811
    partition = add_audit_month(owned, -6, rows=7)
    owned.execute(f"ALTER TABLE {partition} OWNER TO cache_owner")
    force(owned, partition)
    with owned.connect() as connection:
        connection.execute("SET ROLE cache_owner")
        error = sqlstate_of(lambda: connection.execute("SELECT * FROM archive_audit_logs()"))
        assert error.sqlstate == "42501" and partition in error.message_primary and "FORCE" in error.message_primary
    owned.execute(f"ALTER TABLE {partition} NO FORCE ROW LEVEL SECURITY")
    assert owned.execute("SELECT archived_partition, audit_rows FROM archive_audit_logs()") == [(partition, 7)]


def test_every_step_is_accounted_for():
    assert set().union(*NEEDED.values()) <= set(STEPS)


def test_a_run_that_cannot_be_logged_is_done_and_told(owned):  # noqa: F811
    name = fill(owned)
    owned.execute(f"DELETE FROM {CACHE} WHERE cache_key = 'live'")
    force(owned, "cache_maintenance_runs")
    notices = []
    with owned.connect() as connection:
        connection.add_notice_handler(lambda notice: notices.append((notice.severity, notice.message_primary, notice.message_detail)))
        steps = {step: status for step, status in connection.execute("SELECT step, status FROM cache_run_maintenance()")}
    assert steps["drop dead months"] == "ok" and name not in bounds(owned)
    assert [notice for notice in notices if notice[0] == "WARNING" and "not logged" in notice[1] and "42501" in notice[2]]


def test_an_erasure_from_which_audit_rows_are_hidden_is_none(database):
    """A service erases with its own rights; what a policy hides from it would stay."""
    with temporary_roles(database.cluster, "eraser"):
        database.execute("SELECT cache_grant_service('eraser')")
        database.execute("SELECT cache_upsert(%s, 't', 'k', '1')", (ALICE,))
        database.execute("CREATE POLICY part ON cache_audit_log AS RESTRICTIVE USING (action <> 'upsert')")
        with database.connect() as connection:
            connection.execute("SET ROLE eraser")
            error = sqlstate_of(lambda: connection.execute("SELECT * FROM cache_forget_user(%s)", (ALICE,)))
            assert error.sqlstate == "42501" and "cache_audit_log" in error.message_primary and error.message_hint
        assert database.value(f"SELECT count(*) FROM {CACHE}") == 1
        database.execute("DROP POLICY part ON cache_audit_log")
        with database.connect() as connection:
            connection.execute("SET ROLE eraser")
            assert connection.execute("SELECT * FROM cache_forget_user(%s)", (ALICE,)).fetchone() == (1, 1)
