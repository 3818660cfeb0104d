"""The audit log: who changed which entry, from where; nobody writes unseen, and erasure reaches all of it."""

import ipaddress
import json
import socket

import psycopg
import pytest

from harness.cluster import Cluster
from harness.entries import ALICE, BOB
from harness.errors import sqlstate_of
from harness.roles import acting


@pytest.fixture
def tenants(roles, database):
    """Two entries of Alice's, and one of Bob's; a log that begins after them."""
    database.execute("SELECT cache_grant_tenant('authenticated'), cache_grant_service('service_role')")
    for user, key in ((ALICE, "k1"), (ALICE, "k2"), (BOB, "k1")):
        database.execute("SELECT cache_upsert(%s, 't', %s, '1', metadata => '{\"tag\": \"a\"}', foundation_dependency => 'f')", (user, key))
    database.execute("DELETE FROM cache_audit_log")
    return database


def log(database, columns="action, cache_key", table="cache_audit_log"):
    return database.execute(f"SELECT {columns} FROM {table} ORDER BY id")


BATCH = json.dumps([{"user_id": ALICE, "content_type": "t", "cache_key": key, "content": 2} for key in ("k1", "k3")])


@pytest.mark.parametrize("call, action, keys", [
    (f"cache_upsert('{ALICE}', 't', 'k3', '2')", "upsert", ["k3"]),
    (f"cache_upsert('{ALICE}', 't', 'k1', '2')", "upsert", ["k1"]),
    (f"cache_upsert_many('{BATCH}')", "upsert", ["k1", "k3"]),
    (f"cache_touch('{ALICE}', 't', 'k1', '1 day')", "touch", ["k1"]),
    (f"cache_touch('{ALICE}', 't', 'none', '1 day')", "touch", []),
    (f"cache_invalidate('{ALICE}', 't', 'k1')", "invalidate", ["k1"]),
    (f"cache_invalidate('{ALICE}', 't', 'none')", "invalidate", []),
    (f"cache_invalidate_content_type('{ALICE}', 't')", "invalidate_content_type", ["k1", "k2"]),
    (f"cache_invalidate_where('{ALICE}', '{{\"tag\": \"a\"}}')", "invalidate_where", ["k1", "k2"]),
    (f"cache_invalidate_dependents('{ALICE}', 'f')", "invalidate_dependents", ["k1", "k2"]),
    (f"cache_lookup('{ALICE}', 't', 'k1')", "", []),
    (f"cache_get('{ALICE}', 't', 'k1')", "", []),
    (f"cache_lookup_many('{ALICE}', 't', '{{k1,k2}}')", "", []),
])
@pytest.mark.parametrize("role", ["authenticated", "service_role", "postgres"])
def test_each_change_leaves_a_row_for_each_entry(tenants, role, call, action, keys):
    with tenants.connect() as connection:
        with acting(connection, ALICE, role):
            connection.execute(f"SELECT * FROM {call}")
            moment = connection.execute("SELECT now()").fetchone()[0]
    rows = tenants.execute("SELECT action, user_id::text, content_type, cache_key, role::text, success, ip_address, user_agent "
                           "FROM cache_audit_log ORDER BY cache_key")
    assert rows == [(action, ALICE, "t", key, role, True, None, None) for key in keys]
    assert tenants.value("SELECT count(*) FROM cache_audit_log WHERE timestamp NOT BETWEEN %s AND clock_timestamp()", (moment,)) == 0


@pytest.mark.parametrize("user, role", [(ALICE, "authenticated"), (BOB, "service_role"), (None, "service_role"), ("Bob", "postgres")])
def test_a_row_says_who_acted_and_whose_entry_it_was(tenants, user, role):
    with tenants.connect() as connection:
        for call in ("cache_upsert(%s, 't', 'k3', '2')", "cache_touch(%s, 't', 'k1', '1 day')", "cache_invalidate(%s, 't', 'k1')"):
            with acting(connection, user, role):
                connection.execute(f"SELECT {call}", (ALICE,))
    acted = user if user != "Bob" else None
    assert log(tenants, "action, user_id::text, acting_user_id::text, role::text") == [
        (action, ALICE, acted, role) for action in ("upsert", "touch", "invalidate")]


@pytest.mark.parametrize("headers, agent", [
    ('{"host": "h", "user-agent": "curl/8 ☕"}', "curl/8 ☕"), ('{"User-Agent": "Mozilla/5.0 (\\"x\\")"}', 'Mozilla/5.0 ("x")'),
    ('{"user-agent": "a\\u0000b"}', "ab"), ('{"user-agent": ""}', ""),
    ('{"host": "h"}', None), ('{"user-agent": 7}', None), ('{"user-agent": null}', None), ("[]", None), ("{", None), ("", None), (" ", None),
])
def test_the_user_agent_is_that_of_the_request(tenants, headers, agent):
    with tenants.connect() as connection, acting(connection, ALICE, headers=headers):
        connection.execute("SELECT cache_upsert(%s, 't', 'k3', '2')", (ALICE,))
    assert log(tenants, "user_agent") == [(agent,)]


def test_a_huge_user_agent_is_cut(tenants):
    with tenants.connect() as connection, acting(connection, ALICE, headers=json.dumps({"user-agent": "é" * 1_000_000})):
        connection.execute("SELECT cache_upsert(%s, 't', 'k3', '2')", (ALICE,))
    agent = log(tenants, "user_agent")[0][0]
    assert agent == "é" * len(agent) and 100 <= len(agent) <= 2000


def test_a_row_is_rolled_back_with_its_change(tenants):
    with tenants.connect(autocommit=False) as connection:
        connection.execute("SELECT cache_upsert(%s, 't', 'gone', '2')", (ALICE,))
        connection.rollback()
        connection.execute("SELECT cache_upsert(%s, 't', 'kept', '2')", (ALICE,))
        connection.execute("SAVEPOINT s")
        connection.execute("SELECT cache_invalidate(%s, 't', 'kept')", (ALICE,))
        connection.execute("ROLLBACK TO s")
        connection.commit()
    assert log(tenants) == [("upsert", "kept")]
    # One refused entry, and nothing of the batch is logged.
    batch = json.dumps(json.loads(BATCH) + [{"user_id": BOB, "content_type": "t", "cache_key": "k", "content": 1}])
    with tenants.connect() as connection, pytest.raises(psycopg.errors.InsufficientPrivilege), acting(connection, ALICE):
        connection.execute("SELECT cache_upsert_many(%s)", (batch,))
    assert log(tenants) == [("upsert", "kept")]


def test_auditing_is_a_superusers_to_switch_off(tenants):
    with tenants.connect() as connection:
        connection.execute("SET infinite_pages_cache.audit = off")
        connection.execute("SELECT cache_upsert(%s, 't', 'unseen', '2'), cache_touch(%s, 't', 'k1')", (ALICE, ALICE))
        assert log(tenants) == []
        connection.execute("SET infinite_pages_cache.audit = write")
        connection.execute("SELECT cache_upsert(%s, 't', 'seen', '2')", (ALICE,))
        assert log(tenants) == [("upsert", "seen")]
        for role in ("authenticated", "service_role"):
            for attempt in ("SET infinite_pages_cache.audit = off", "SET LOCAL infinite_pages_cache.audit = off",
                            "SELECT set_config('infinite_pages_cache.audit', 'off', true)",
                            f"ALTER ROLE {role} SET infinite_pages_cache.audit = off",
                            f"ALTER DATABASE {tenants.name} SET infinite_pages_cache.audit = off",
                            "UPDATE pg_settings SET setting = 'off' WHERE name = 'infinite_pages_cache.audit'",
                            "CREATE FUNCTION pg_temp.f() RETURNS uuid LANGUAGE sql SET infinite_pages_cache.audit = off AS 'SELECT NULL::uuid'; "
                            "SELECT pg_temp.f()"):
                def run():
                    with acting(connection, ALICE, role):
                        connection.execute(attempt)
                assert (attempt, sqlstate_of(run).sqlstate) == (attempt, "42501")
                with acting(connection, ALICE, role):
                    assert connection.execute("SHOW infinite_pages_cache.audit").fetchone() == ("write",)


def test_no_tenant_reads_or_writes_the_log(tenants):
    tenants.execute("SELECT cache_upsert(%s, 't', 'k1', '2')", (ALICE,))
    with tenants.connect() as connection:
        for table in ("cache_audit_log", f"cache_audit_log_{this_month(connection)}"):
            for role, statements in {
                "authenticated": ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"],
                "anon": ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"],
                "service_role": ["INSERT", "UPDATE", "TRUNCATE"],
            }.items():
                for statement in statements:
                    def run():
                        with acting(connection, ALICE, role):
                            connection.execute({
                                "SELECT": f"SELECT count(*) FROM {table}", "INSERT": f"INSERT INTO {table} (action) VALUES ('forged')",
                                "UPDATE": f"UPDATE {table} SET action = 'forged'", "DELETE": f"DELETE FROM {table}",
                                "TRUNCATE": f"TRUNCATE {table}"}[statement])
                    assert (table, role, statement, sqlstate_of(run).sqlstate) == (table, role, statement, "42501")
        with acting(connection, None, "service_role"):
            assert connection.execute("SELECT action, cache_key FROM cache_audit_log").fetchall() == [("upsert", "k1")]


def this_month(connection):
    return connection.execute("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')").fetchone()[0]


# ── erasure ──────────────────────────────────────────────────────────────────────────────────────

def old_month(database, months_ago, users=(ALICE, BOB)):
    """A month of the log as it was some months ago, with a row of each user; returns its name."""
    name, start, end = database.execute(
        "SELECT to_char(start, '\"cache_audit_log_\"YYYY_MM'), to_char(start, 'YYYY-MM-DD'), to_char(start + interval '1 month', 'YYYY-MM-DD') "
        "FROM (SELECT date_trunc('month', now() AT TIME ZONE 'UTC') - make_interval(months => %s) AS start) s", (months_ago,))[0]
    database.execute(f"CREATE TABLE {name} PARTITION OF cache_audit_log FOR VALUES FROM ('{start} 00:00+00') TO ('{end} 00:00+00')")
    for user in users:
        database.execute("INSERT INTO cache_audit_log (user_id, cache_key, content_type, action, timestamp) VALUES (%s, 'k', 't', 'upsert', %s)",
                         (user, f"{start} 00:00+00"))
    database.execute("SELECT cache_setup()")
    return name


def traces(database, user):
    """Rows, in whatever table of the database, in which the user's id stands."""
    tables = [table for (table,) in database.execute(
        "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace")]
    return sum(database.value(f"SELECT count(*) FROM {table} t WHERE t::text ~ %s", (user,)) for table in tables)


@pytest.mark.parametrize("role", ["service_role", "postgres"])
def test_a_forgotten_user_is_gone_from_entries_log_and_archive(tenants, role):
    old_month(tenants, 9), old_month(tenants, 1)
    tenants.execute("SELECT archive_audit_logs('180 days')")
    tenants.execute("SELECT cache_upsert(%s, 't', 'k3', '2')", (ALICE,))
    assert log(tenants, "user_id::text", "cache_audit_archive") == [(ALICE,), (BOB,)]
    assert (traces(tenants, ALICE), traces(tenants, BOB)) == (3 + 1 + 1 + 1, 1 + 1 + 1)
    with tenants.connect() as connection, acting(connection, None, role):
        # Entries k1, k2, k3; audit rows of now, of last month and of the archive. The emergency switch does not stop it.
        connection.execute("SET LOCAL infinite_pages_cache.enabled = off")
        assert connection.execute("SELECT entries_deleted, audit_rows_deleted FROM cache_forget_user(%s)", (ALICE,)).fetchone() == (3, 3)
        assert connection.execute("SELECT entries_deleted, audit_rows_deleted FROM cache_forget_user(%s)", (ALICE,)).fetchone() == (0, 0)
    assert (traces(tenants, ALICE), traces(tenants, BOB)) == (0, 3)


def test_a_tenant_cannot_forget_anybody(tenants):
    for user in (ALICE, BOB):
        def run():
            with tenants.connect() as connection, acting(connection, ALICE):
                connection.execute("SELECT cache_forget_user(%s)", (user,))
        assert sqlstate_of(run).sqlstate == "42501"
    assert (traces(tenants, ALICE), traces(tenants, BOB)) == (2, 1)


# ── archive ──────────────────────────────────────────────────────────────────────────────────────

SESSIONS = [{}, {"DateStyle": "German", "TimeZone": "Asia/Kolkata"}, {"DateStyle": "SQL, DMY", "TimeZone": "America/St_Johns",
                                                                      "IntervalStyle": "sql_standard"}]


@pytest.mark.parametrize("settings", SESSIONS)
def test_old_months_move_to_the_archive_and_stay_readable(tenants, settings):
    names = [old_month(tenants, months) for months in (14, 9, 2)]
    rows = log(tenants, "id, user_id, cache_key, content_type, action, timestamp")
    assert len(rows) == 6
    bounds = "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = ANY (%s) ORDER BY relname"
    bounds_before = tenants.execute(bounds, (names,))
    with tenants.connect() as connection:
        for name, value in settings.items():
            connection.execute(f"SET {name} = '{value}'")
        found = connection.execute("SELECT archived_partition, audit_rows, bytes > 0 FROM archive_audit_logs('90 days')").fetchall()
        assert found == [(names[0], 2, True), (names[1], 2, True)]
        assert connection.execute("SELECT * FROM archive_audit_logs('90 days')").fetchall() == []
        # The month that ended a month ago at least, and later than 90 days ago.
        assert connection.execute("SELECT archived_partition, audit_rows FROM archive_audit_logs('1 second')").fetchall() == [(names[2], 2)]
    assert log(tenants, "id, user_id, cache_key, content_type, action, timestamp", "cache_audit_archive") == rows
    assert log(tenants) == []
    assert tenants.execute(bounds, (names,)) == bounds_before
    tenants.execute("SELECT cache_upsert(%s, 't', 'k1', '2')", (ALICE,))
    assert log(tenants) == [("upsert", "k1")]


def test_the_archive_survives_retention_and_is_closed_to_tenants(tenants):
    archived, dropped, kept = old_month(tenants, 20), old_month(tenants, 13), old_month(tenants, 3)
    tenants.execute("SELECT archive_audit_logs('500 days')")
    tenants.execute("SET infinite_pages_cache.audit_retention_months = 12; SELECT cache_run_maintenance()")
    assert [row[0] for row in log(tenants, "tableoid::regclass::text")] == [kept] * 2
    assert [row[0] for row in log(tenants, "tableoid::regclass::text", "cache_audit_archive")] == [archived] * 2
    assert tenants.value("SELECT to_regclass(%s)", (dropped,)) is None
    with tenants.connect() as connection:
        for table in ("cache_audit_archive", archived):
            for role in ("authenticated", "anon"):
                def run():
                    with acting(connection, ALICE, role):
                        connection.execute(f"SELECT * FROM {table}")
                assert sqlstate_of(run).sqlstate == "42501"
        with acting(connection, None, "service_role"):
            assert connection.execute("SELECT count(*) FROM cache_audit_archive").fetchone() == (2,)


def test_a_month_made_by_hand_is_closed_when_it_is_archived(roles, empty_database):
    """Default privileges open what is created by hand; the archive must not stay open."""
    empty_database.execute("ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO anon, authenticated")
    empty_database.execute("CREATE EXTENSION infinite_pages_cache")
    empty_database.execute(
        "CREATE TABLE cache_audit_log_2001_01 PARTITION OF cache_audit_log FOR VALUES FROM ('2001-01-01 00:00+00') TO ('2001-02-01 00:00+00')")
    empty_database.execute("SELECT archive_audit_logs('90 days')")
    assert empty_database.execute(
        "SELECT relrowsecurity, (SELECT count(*) FROM aclexplode(relacl) WHERE grantee NOT IN (relowner, 'service_role'::regrole)) FROM pg_class "
        "WHERE oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'cache_audit_archive'::regclass) OR relname = 'cache_audit_archive'"
    ) == [(True, 0)] * 2


def test_a_month_that_cannot_be_locked_in_time_stays_where_it_is(tenants):
    name = old_month(tenants, 9)
    with tenants.connect(autocommit=False) as reader, tenants.connect() as connection:
        reader.execute("SELECT count(*) FROM cache_audit_log")
        connection.execute("SET infinite_pages_cache.lock_timeout = '100ms'")
        assert sqlstate_of(lambda: connection.execute("SELECT * FROM archive_audit_logs()")).sqlstate == "55P03"
        assert connection.execute("SHOW lock_timeout").fetchone() == ("0",)
        reader.rollback()
        assert connection.execute("SELECT archived_partition, audit_rows FROM archive_audit_logs()").fetchall() == [(name, 2)]


def test_archiving_is_the_owners_to_do(tenants):
    old_month(tenants, 9)
    tenants.execute("GRANT EXECUTE ON FUNCTION archive_audit_logs TO service_role")
    def run():
        with tenants.connect() as connection, acting(connection, None, "service_role"):
            connection.execute("SELECT archive_audit_logs()")
    error = sqlstate_of(run)
    assert error.sqlstate == "42501" and error.message_detail and error.message_hint
    assert len(log(tenants)) == 2


# ── over TCP, with the library loaded by the first call ──────────────────────────────────────────

@pytest.fixture(scope="module")
def tcp():
    """A cluster that listens on 127.0.0.1 and does not preload the library; returns what connects to it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cluster = Cluster({"listen_addresses": "127.0.0.1", "port": port, "shared_preload_libraries": ""})

    def connect(user="postgres", **options):
        return psycopg.connect(host="127.0.0.1", port=port, dbname="postgres", user=user, autocommit=True, **options)

    with connect() as connection:
        connection.execute("CREATE EXTENSION infinite_pages_cache; CREATE ROLE tenant LOGIN; SELECT cache_grant_tenant('tenant')")
    yield connect
    cluster.remove()


def last_row(tcp):
    with tcp() as connection:
        return connection.execute("SELECT cache_key, role::text, ip_address FROM cache_audit_log ORDER BY id DESC LIMIT 1").fetchone()


def test_the_address_of_the_client_is_recorded(tcp):
    for user in ("tenant", "postgres"):
        with tcp(user) as connection:
            connection.execute("SELECT set_config('infinite_pages_cache.user_id', %s, false)", (ALICE,))
            connection.execute("SELECT cache_upsert(%s, 't', %s, '1')", (ALICE, f"by {user}"))
        assert last_row(tcp) == (f"by {user}", user, ipaddress.ip_address("127.0.0.1"))


def test_a_setting_made_before_the_library_is_loaded_does_not_hide_a_tenant(tcp):
    with tcp("tenant", options="-c infinite_pages_cache.audit=off") as connection:
        connection.execute("SELECT set_config('infinite_pages_cache.user_id', %s, false)", (ALICE,))
        connection.execute("SELECT cache_upsert(%s, 't', 'startup option', '1')", (ALICE,))
    assert last_row(tcp)[0] == "startup option"
    with tcp("tenant") as connection:
        connection.execute("SET infinite_pages_cache.audit = off")
        connection.execute("SELECT set_config('infinite_pages_cache.user_id', %s, false)", (ALICE,))
        connection.execute("SELECT cache_upsert(%s, 't', 'placeholder', '1')", (ALICE,))
    assert last_row(tcp)[0] == "placeholder"
    with tcp("tenant") as connection:
        connection.execute("SET infinite_pages_cache.max_content_bytes = 200000000")
        connection.execute("SELECT cache_lookup(%s, 't', 'k')", (ALICE,))
        assert connection.execute("SHOW infinite_pages_cache.max_content_bytes").fetchone() == ("16MB",)


def test_a_log_without_a_column_is_adopted_with_its_archive(tenants):
    old_month(tenants, 9), old_month(tenants, 8)
    tenants.execute("SELECT archive_audit_logs('250 days')")
    tenants.execute("ALTER TABLE cache_audit_log DROP COLUMN acting_user_id; ALTER TABLE cache_audit_archive DROP COLUMN acting_user_id; SELECT cache_setup()")
    tenants.execute("SELECT cache_upsert(%s, 't', 'k3', '2')", (ALICE,))
    assert tenants.value("SELECT count(*) FROM archive_audit_logs('180 days')") == 1
    assert log(tenants, "user_id::text", "cache_audit_archive") == [(ALICE,), (BOB,)] * 2
    assert tenants.execute("SELECT audit_rows_deleted FROM cache_forget_user(%s)", (ALICE,)) == [(3,)]
