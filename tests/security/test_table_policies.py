"""Row security is on for every table of the extension, as platforms want it; on those that are no user's the privileges decide."""

import pytest

from harness.database import Database
from harness.dumps import dumped_as_script
from harness.entries import ALICE, CACHE, lookup, upsert
from harness.reports import columns_of
from harness.roles import acting, outcome, temporary_roles

COMMON = ["cache_content_policies", "cache_maintenance_runs", "cache_statistics_hourly", "cache_entry_summary", "cache_user_summary"]
# What a linter asks: an ordinary or partitioned table of an exposed schema without row security.
OPEN = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relrowsecurity"
ROW = "INSERT INTO cache_content_policies (content_type, ttl) VALUES ('poem', '3 days')"


@pytest.fixture
def granted(database):
    with temporary_roles(database.cluster, "app", "backend", "editor", "reader", "watcher", "app_owner"):
        database.execute("SELECT cache_grant_tenant('app'), cache_grant_service('backend'), cache_grant_monitor('watcher'); "
                         "GRANT SELECT ON cache_content_policies TO reader")
        yield database


def test_row_security_is_on_for_each_table(granted):
    assert granted.execute(OPEN) == []
    assert granted.execute("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relforcerowsecurity") == []
    # Nor is there a policy that lets everybody write whatever it likes.
    assert granted.execute("SELECT tablename, policyname FROM pg_policies WHERE schemaname = 'public' AND cmd <> 'SELECT' "
                           "AND 'public' = ANY (roles) AND (qual = 'true' OR with_check = 'true')") == []


def test_who_has_rights_on_content_policies_has_what_it_had(granted):
    granted.execute(ROW)
    with granted.connect() as connection:
        for role in ("app", "reader", "watcher", "backend", "pg_read_all_data"):
            assert outcome(connection, "SELECT count(*) FROM cache_content_policies", ALICE, role) == [(33,)], role
        changes = [ROW.replace("poem", "ode"), "UPDATE cache_content_policies SET ttl = '9 days' WHERE content_type = 'poem'",
                   "DELETE FROM cache_content_policies WHERE content_type = 'poem'"]
        for role in ("app", "reader", "watcher", "pg_read_all_data"):
            assert [outcome(connection, change, ALICE, role)[0] for change in changes] == ["42501"] * 3, role
        assert [outcome(connection, change, None, "backend") for change in changes] == [1, 1, 1]
        for table in COMMON[1:]:
            for role in ("backend", "watcher", "pg_read_all_data"):
                found = outcome(connection, f"SELECT * FROM {table}", None, role)
                # A monitor is not told what errors said.
                is_closed = (table, role) == ("cache_maintenance_runs", "watcher")
                assert found[0] == "42501" if is_closed else isinstance(found, list), (table, role)
            assert outcome(connection, f"SELECT * FROM {table}", None, "app")[0] == "42501"


def test_a_policy_of_content_is_followed_by_every_role(granted):
    """It is looked up with the caller's rights."""
    granted.execute(ROW)
    with granted.connect() as connection:
        for role in ("app", "backend"):
            with acting(connection, ALICE, role):
                upsert(connection, "1", (ALICE, "poem", role))
                assert lookup(connection, (ALICE, "poem", role)) == 1
        assert connection.execute(f"SELECT DISTINCT expires_at - created_at FROM {CACHE} WHERE content_type = 'poem'").fetchone()[0].days == 3


def test_maintenance_by_an_owner_that_is_no_superuser(granted):
    with granted.connect() as connection:
        connection.execute("GRANT CREATE ON SCHEMA public TO app_owner; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO app_owner")
        for (name,) in connection.execute("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')").fetchall():
            connection.execute(f"ALTER TABLE {name} OWNER TO app_owner")
        connection.execute("SET ROLE app_owner; SET infinite_pages_cache.exact_report_size = 0; "
                           "UPDATE cache_content_policies SET max_entries = 1 WHERE content_type = 'tone'")
        for key in "abc":
            upsert(connection, "1", (ALICE, "tone", key))
            lookup(connection, (ALICE, "tone", key))
        assert {row["status"] for row in columns_of(connection, "SELECT * FROM cache_run_maintenance()")} == {"ok"}
        assert connection.execute(f"SELECT count(*) FROM {CACHE}").fetchone() == (1,)
        for table in COMMON:
            assert connection.execute(f"SELECT count(*) > 0 FROM {table}").fetchone() == (True,), table


def without_policies(database):
    """As earlier versions have made it."""
    for table in COMMON:
        database.execute(f"DROP POLICY IF EXISTS privileged_readonly_access ON {table}; DROP POLICY IF EXISTS admin_maintenance_access ON {table}; "
                         f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")


def test_who_was_granted_to_edit_content_policies_still_may_after_an_update(granted):
    without_policies(granted)
    granted.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON cache_content_policies TO editor; SELECT cache_setup()")
    assert granted.execute(OPEN) == []
    with granted.connect() as connection:
        for role in ("editor", "backend"):
            for change in (ROW, "UPDATE cache_content_policies SET ttl = '9 days' WHERE content_type = 'tone'",
                           "DELETE FROM cache_content_policies WHERE content_type = 'tone'"):
                assert outcome(connection, change, None, role) == 1, (role, change)


def test_a_table_that_everybody_may_edit_still_is_after_an_update(granted):
    without_policies(granted)
    granted.execute("GRANT SELECT, INSERT ON cache_content_policies TO PUBLIC; SELECT cache_setup(), cache_grant_service('backend')")
    with granted.connect() as connection:
        assert outcome(connection, ROW, None, "editor") == 1


def test_policies_of_an_operator_stay(granted):
    granted.execute("CREATE POLICY ours ON cache_content_policies AS RESTRICTIVE FOR SELECT TO app USING (content_type <> 'tone'); "
                    "ALTER POLICY privileged_readonly_access ON cache_content_policies TO app, backend")
    before = granted.execute("SELECT * FROM pg_policies ORDER BY tablename, policyname")
    granted.execute("SELECT cache_setup()")
    assert granted.execute("SELECT * FROM pg_policies ORDER BY tablename, policyname") == before
    with granted.connect() as connection:
        assert outcome(connection, "SELECT count(*) FROM cache_content_policies", ALICE, "app") == [(31,)]


def test_a_dump_has_the_policies_and_its_rows(granted, tmp_path):
    granted.execute(ROW)
    target = Database(granted.cluster, extension=False)
    dumped_as_script(granted, target, tmp_path / "dump")
    everything = "SELECT tablename, policyname, roles::text, cmd, qual, with_check FROM pg_policies ORDER BY 1, 2"
    assert target.execute(everything) == granted.execute(everything) and target.execute(OPEN) == []
    assert target.value("SELECT count(*) FROM cache_content_policies") == 33
    target.drop()


def test_verification_tells_of_a_table_without_row_security(granted):
    without_policies(granted)
    [(ok, detail, hint)] = granted.execute("SELECT ok, detail, hint FROM verify_production_cache() WHERE name = 'row security is on'")
    assert (ok, detail[:11]) == (False, "2 of 7 tabl") and "cache_setup()" in hint
    # A grant to a service, and a tenant's upsert, need no policies there.
    granted.execute("SELECT cache_grant_service('backend')")
    with granted.connect() as connection, acting(connection, ALICE, "app"):
        upsert(connection, "1", (ALICE, "tone", "k"))
    granted.execute("SELECT cache_setup()")
    assert granted.execute("SELECT * FROM verify_production_cache() WHERE name = 'row security is on' AND NOT ok") == []


def test_a_role_that_is_granted_more_later_is_told_by_the_server(granted):
    """The privilege alone does not suffice for writing."""
    granted.execute("GRANT SELECT, INSERT ON cache_content_policies TO editor")
    with granted.connect() as connection:
        assert outcome(connection, ROW, None, "editor")[0] == "42501"
    granted.execute("ALTER POLICY admin_maintenance_access ON cache_content_policies TO backend, editor")
    with granted.connect() as connection:
        assert outcome(connection, ROW, None, "editor") == 1
