"""Set-up: it may run again at any time, adopts what serves, and refuses what does not."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.catalog import state
from harness.cluster import ROOT, Cluster
from harness.database import Database
from harness.dumps import dumped_as_script, same
from harness.entries import ALICE, BOB, CACHE, lookup, upsert
from harness.errors import sqlstate_of
from harness.months import LEGACY, bounds, legacy_month, name_of
from harness.reports import failed_checks
from harness.roles import temporary_roles
from harness.waiting import is_waiting, wait_until

EXTENSION = "CREATE EXTENSION infinite_pages_cache"

# ── again ────────────────────────────────────────────────────────────────────────────────────────

@pytest.mark.parametrize("with_roles", [False, True])
def test_a_second_set_up_changes_nothing(cluster, request, with_roles):
    if with_roles:
        request.getfixturevalue("roles")
    database = Database(cluster)
    with database.connect() as connection:
        upsert(connection, "1")
    before = state(database)
    database.execute("SELECT cache_setup()")
    database.execute("SELECT cache_setup()")
    after = state(database)
    for part, found in before.items():
        assert after[part] == found, part
    database.drop()


def test_set_up_repairs_what_is_missing(database):
    expected = state(database)
    database.execute(f"""
        DROP TABLE {name_of(1)};
        DROP POLICY tenant_isolation_cache_access ON {CACHE};
        ALTER TABLE {CACHE} DISABLE ROW LEVEL SECURITY;
        ALTER TABLE {name_of(0)} DISABLE ROW LEVEL SECURITY;
        DROP INDEX {name_of(0)}_user_id_cache_entry_digest_idx;
        DROP INDEX {CACHE}_user_id_content_type_idx;
        GRANT SELECT ON {name_of(0)} TO PUBLIC;
        ALTER TABLE {CACHE} DROP COLUMN token_cost""")
    assert {"row security is on", "policies exist", "each partition has its entry index", "searches have their index"} <= set(failed_checks(database))
    assert name_of(0) in failed_checks(database, "check_partition_health")
    database.execute("SELECT cache_setup()")
    assert failed_checks(database) == failed_checks(database, "check_partition_health") == []
    found = state(database)
    for part in ("policies", "table grants", "function grants", "relations"):
        assert found[part] == expected[part], part
    assert {row[:3] for row in found["columns"]} == {row[:3] for row in expected["columns"]}


def entry_indexes(database):
    """Of this month, and whether they are valid."""
    return database.execute("SELECT indisvalid FROM pg_index WHERE indrelid = %s::regclass AND indisunique AND indexprs IS NOT NULL ORDER BY 1", (name_of(0),))


def test_set_up_makes_an_entry_index_beside_an_invalid_one(database):
    """As an interrupted statement leaves it, with the name that it has always had."""
    database.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass", (f"{name_of(0)}_user_id_cache_entry_digest_idx",))
    assert "each partition has its entry index" in failed_checks(database)
    database.execute("SELECT cache_setup()")
    assert entry_indexes(database) == [(False,), (True,)]
    assert failed_checks(database) == ["all indexes are valid"]


def test_two_who_set_up_make_one_entry_index(database):
    database.execute(f"DROP INDEX {name_of(0)}_user_id_cache_entry_digest_idx")
    with database.connect() as writer, ThreadPoolExecutor() as pool, database.connect() as first, database.connect() as second:
        with writer.transaction():
            upsert(writer, "1")
            both = [pool.submit(session.execute, "SELECT cache_setup()") for session in (first, second)]
            wait_until(lambda: is_waiting(database, first) and is_waiting(database, second))
        for each in both:
            each.result(60)
    assert entry_indexes(database) == [(True,)]


@pytest.mark.parametrize("fixed", [140019, 150014, 160010, 170006, 180000])
def test_a_release_that_lets_statistics_past_row_security_is_reported(database, fixed):
    """Partition statistics obey row security since these releases (CVE-2025-8713). A server cannot be told to be another one,
    so the check is run with other numbers; that it has the server's is seen below."""
    check = (ROOT / "sql/reports/verify_production_cache.sql").read_text().split("UNION ALL")[-1].removesuffix(") checks\n")
    assert "'the server has its minimum release'" in check

    def check_of(number):
        return database.execute(f"WITH version AS (SELECT {number} AS number) {check}")

    [(name, ok, detail, hint)] = check_of(fixed)
    assert (ok, detail, hint) == (True, database.value("SHOW server_version"), None)
    assert database.execute("SELECT name, ok, detail, hint FROM verify_production_cache() WHERE name = %s", (name,)) == [(name, ok, detail, hint)]
    if fixed < 180000:
        [(_, ok, _, hint)] = check_of(fixed - 1)
        assert not ok and "Update" in hint


def test_an_index_of_something_else_is_no_entry_index(database):
    table = name_of(0)
    database.execute(f"DROP INDEX {table}_user_id_cache_entry_digest_idx")
    for number, (columns, found) in enumerate([("cache_key, content_type", False), ("content_type, cache_key", True)]):
        database.execute(f"CREATE UNIQUE INDEX index_{number} ON {table} (user_id, cache_entry_digest({columns}))")
        assert ("each partition has its entry index" not in failed_checks(database)) == found
        assert (database.value("SELECT count(*) FROM check_partition_health() WHERE NOT ok") == 0) == found


@pytest.mark.parametrize("table", [CACHE, "cache_audit_log", "cache_content_policies", "cache_maintenance_runs", "cache_statistics_hourly",
                                   "cache_entry_summary", "cache_user_summary"])
def test_a_missing_table_is_reported_and_made_again(database, table):
    database.execute(f"DROP TABLE {table}")
    [row] = [row for row in database.execute("SELECT name, ok, detail, hint FROM verify_production_cache()") if row[0] == "tables exist"]
    assert row[1] is False and table in row[2] and "cache_setup()" in row[3]
    database.execute("SELECT cache_setup()")
    # A tick that came when the table was dropped has failed; the next one does not.
    wait_until(lambda: failed_checks(database) in ([], ["the last tick succeeded"]))
    wait_until(lambda: failed_checks(database) == [], 120)


def test_what_an_operator_changed_stays_changed(database):
    database.execute(f"""
        ALTER POLICY analytics_readonly_access ON {CACHE} USING (priority_tier = 1);
        UPDATE cache_content_policies SET ttl = '1 hour' WHERE content_type = 'tone';
        DELETE FROM cache_content_policies WHERE content_type = 'setting';
        CREATE INDEX mine ON {CACHE} (story_id)""")
    before = state(database)
    database.execute("SELECT cache_setup()")
    assert state(database) == before


# ── beside clients ───────────────────────────────────────────────────────────────────────────────

# What is missing, and what a client has read.
READERS = {
    "an index and a policy": (f"DROP INDEX {CACHE}_expires_at_idx; DROP POLICY tenant_isolation_cache_access ON {CACHE}", CACHE),
    "an index of one table, a policy of another": (f"DROP INDEX cache_audit_log_timestamp_idx; DROP POLICY admin_maintenance_access ON {CACHE}", CACHE),
    "policies of two tables": (f"""
        DROP POLICY admin_maintenance_access ON cache_content_policies; DROP POLICY admin_maintenance_access ON {CACHE}""", "cache_content_policies"),
    "an index, and row security of a partition": (f"""
        DROP INDEX {CACHE}_expires_at_idx; ALTER TABLE {name_of(0)} DISABLE ROW LEVEL SECURITY""", CACHE),
    "the entry index and row security of a partition": (f"""
        DROP INDEX {name_of(0)}_user_id_cache_entry_digest_idx; ALTER TABLE {name_of(0)} DISABLE ROW LEVEL SECURITY""", CACHE),
}


@pytest.mark.parametrize("missing", READERS)
def test_set_up_and_a_transaction_that_reads_and_then_writes_do_not_deadlock(database, missing):
    """Set-up waits for the transaction before it locks anything that the transaction will want."""
    change, read = READERS[missing]
    database.execute(change)
    with database.connect(autocommit=False) as client, database.connect() as operator, ThreadPoolExecutor() as pool:
        client.execute(f"SELECT count(*) FROM {read}")
        set_up = pool.submit(operator.execute, "SELECT cache_setup()")
        wait_until(lambda: is_waiting(database, operator))
        upsert(client, "1")
        client.commit()
        set_up.result(60)
    assert failed_checks(database) == failed_checks(database, "check_partition_health") == []


def test_set_up_and_the_maker_of_a_month_do_not_deadlock(database):
    """Set-up makes a missing month, too. The maker is held up before it attaches its month to the table."""
    table = name_of(4)
    database.execute(f"DROP TABLE {name_of(1)}; DROP INDEX {CACHE}_expires_at_idx")
    with database.connect(autocommit=False) as third, database.connect(autocommit=False) as maker, database.connect() as operator, ThreadPoolExecutor() as pool:
        third.execute(f"CREATE TABLE {table} ()")
        made = pool.submit(maker.execute, "SELECT create_monthly_cache_partition(now()::timestamp + '4 months')")
        wait_until(lambda: is_waiting(database, maker))
        set_up = pool.submit(operator.execute, "SELECT cache_setup()")
        wait_until(lambda: is_waiting(database, operator))
        third.rollback()
        assert made.result(60).fetchone() == (table,)
        maker.commit()
        set_up.result(60)
    assert failed_checks(database) == failed_checks(database, "check_partition_health") == []


def test_set_up_without_anything_to_do_waits_for_nobody(database):
    with database.connect(autocommit=False) as client, database.connect(options="-c lock_timeout=1s") as operator:
        client.execute(f"LOCK TABLE {CACHE}, cache_audit_log, cache_content_policies IN ROW EXCLUSIVE MODE")
        operator.execute("SELECT cache_setup()")


def test_set_up_with_an_index_to_make_lets_readers_go_on(database):
    database.execute(f"DROP INDEX {CACHE}_expires_at_idx, {name_of(0)}_user_id_cache_entry_digest_idx")
    with database.connect(autocommit=False) as client, database.connect(autocommit=False, options="-c lock_timeout=1s") as operator:
        assert lookup(client) is None
        operator.execute("SELECT cache_setup()")
        assert lookup(client) is None
        operator.commit()
    assert failed_checks(database) == []


def test_set_up_with_a_lock_timeout_gives_up_and_changes_nothing(database):
    database.execute(READERS["an index and a policy"][0])
    before = state(database)
    with database.connect(autocommit=False) as client, database.connect(options="-c lock_timeout=100ms") as operator:
        assert lookup(client) is None
        assert sqlstate_of(lambda: operator.execute("SELECT cache_setup()")).sqlstate == "55P03"
    assert state(database) == before


# ── a table that exists ──────────────────────────────────────────────────────────────────────────

def test_a_legacy_partitioned_table_is_adopted(empty_database):
    database = empty_database
    database.execute(LEGACY + legacy_month(-1) + legacy_month(0) + EXTENSION)
    assert failed_checks(database) in ([], ["content is compressed with lz4"])
    assert failed_checks(database, "check_partition_health") == []
    assert set(bounds(database)) == {name_of(offset) for offset in range(-1, 4)}
    assert database.value(f"SELECT attname FROM pg_attribute WHERE attrelid = '{CACHE}'::regclass AND attname = 'token_cost'")
    with database.connect() as connection:
        assert lookup(connection, (ALICE, "tone", "k-1")) == -1
        # A new version takes over what the old one, a month back, had counted.
        upsert(connection, '"new"', (ALICE, "tone", "k-1"))
        assert lookup(connection, (ALICE, "tone", "k-1")) == "new"
        assert connection.execute(f"SELECT hit_count FROM {CACHE} WHERE cache_key = 'k-1'").fetchall() == [(7,)]
        for view in ("cache_performance_metrics", "user_cache_analytics", "partition_health_metrics", "cache_alerts"):
            assert connection.execute(f"SELECT * FROM {view}").fetchall()
        assert {status for (status,) in connection.execute("SELECT status FROM cache_run_maintenance()")} == {"ok"}


def test_an_entry_of_a_legacy_table_can_be_got_whole(empty_database):
    """Its counters are integers, not bigints."""
    empty_database.execute(LEGACY + legacy_month(0) + EXTENSION)
    assert empty_database.execute("SELECT content, hit_count, token_cost, priority_tier FROM cache_get(%s, 'tone', 'k0')", (ALICE,)) == [(0, 7, None, 3)]


def test_an_adopted_table_isolates_tenants(empty_database, roles):
    """Grants of old on the partitions and a policy of the name that does nothing of the kind."""
    database = empty_database
    database.execute(LEGACY + legacy_month(0) + f"GRANT ALL ON {CACHE}, {name_of(0)} TO authenticated, anon;" + EXTENSION)
    database.execute("SELECT cache_upsert(%s, 'tone', 'b', '1')", (BOB,))
    with database.connect() as connection:
        connection.execute("SET ROLE authenticated")
        assert sqlstate_of(lambda: connection.execute(f"SELECT * FROM {name_of(0)}")).sqlstate == "42501"
        assert sqlstate_of(lambda: connection.execute(f"TRUNCATE {CACHE}")).sqlstate == "42501"
        # The policy is the user's: it lets nobody see anything, and set-up has not changed it.
        connection.execute("SELECT set_config('infinite_pages_cache.user_id', %s, false)", (ALICE,))
        assert connection.execute(f"SELECT count(*) FROM {CACHE}").fetchone() == (0,)


def test_a_legacy_table_that_holds_a_key_twice_is_refused_with_a_way_out(empty_database):
    """No unique index kept legacy clients from storing a key twice in a month."""
    database = empty_database
    database.execute(LEGACY + legacy_month(0) + f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content) VALUES ('{ALICE}', 'tone', 'k0', '2')")
    refused = sqlstate_of(lambda: database.execute(EXTENSION))
    assert refused.sqlstate == "23505"
    assert "k0" in refused.message_detail and refused.message_hint
    assert database.value(f"SELECT count(*) FROM {CACHE}") == 2


@pytest.mark.parametrize("table, found", [
    (f"CREATE TABLE {CACHE} (id uuid, created_at timestamptz)", "not partitioned"),
    (f"CREATE TABLE {CACHE} (id uuid, created_at timestamptz) PARTITION BY RANGE (id)", "RANGE (id)"),
    (f"CREATE TABLE {CACHE} (id uuid, created_at timestamptz) PARTITION BY LIST (created_at)", "LIST (created_at)"),
    ("CREATE TABLE cache_audit_log (id bigint)", "not partitioned"),
])
def test_a_table_that_cannot_serve_is_refused(empty_database, table, found):
    empty_database.execute(table)
    refused = sqlstate_of(lambda: empty_database.execute(EXTENSION))
    assert refused.sqlstate == "55000" and found in refused.message_detail and refused.message_hint
    assert empty_database.value("SELECT count(*) FROM pg_extension WHERE extname = 'infinite_pages_cache'") == 0
    assert empty_database.value("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v')") == 1


@pytest.mark.parametrize("kind", ["VIEW", "MATERIALIZED VIEW", "SEQUENCE"])
def test_something_else_of_the_name_is_refused(empty_database, kind):
    empty_database.execute(f"CREATE {kind} {CACHE}" + (" AS SELECT 1 AS id" if "VIEW" in kind else ""))
    refused = sqlstate_of(lambda: empty_database.execute(EXTENSION))
    assert refused.sqlstate in ("55000", "42809") and refused.message_detail and refused.message_hint


@pytest.mark.parametrize("table", [CACHE, "cache_audit_log", "cache_content_policies", "cache_maintenance_runs", name_of(0)])
def test_a_table_planted_by_another_role_is_refused(empty_database, cluster, table):
    with temporary_roles(cluster, "mallory"):
        empty_database.execute("GRANT CREATE ON SCHEMA public TO mallory")
        definition = {CACHE: LEGACY, "cache_audit_log": 'CREATE TABLE cache_audit_log (id bigint, "timestamp" timestamptz) PARTITION BY RANGE ("timestamp")'
                      }.get(table, f"CREATE TABLE {table} (content_type text, ttl interval)")
        with empty_database.connect() as connection:
            connection.execute("SET ROLE mallory")
            connection.execute(definition)
        refused = sqlstate_of(lambda: empty_database.execute(EXTENSION))
        assert refused.sqlstate == ("42P07" if table == name_of(0) else "42501") and refused.message_hint
        assert empty_database.value("SELECT count(*) FROM pg_extension WHERE extname = 'infinite_pages_cache'") == 0


def test_a_table_of_the_databases_owner_is_adopted(empty_database, cluster):
    with temporary_roles(cluster, "landlord"):
        empty_database.execute(f"ALTER DATABASE {empty_database.name} OWNER TO landlord; GRANT CREATE ON SCHEMA public TO landlord")
        with empty_database.connect() as connection:
            connection.execute("SET ROLE landlord")
            connection.execute(LEGACY + legacy_month(0))
        empty_database.execute(EXTENSION)
        assert {owner for (owner,) in empty_database.execute(
            "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relname LIKE 'infinite_pages_cache%%' AND relkind IN ('r', 'p')")} == {"landlord"}
        # Its owner, no superuser, keeps it, and can be given the rest.
        empty_database.execute("SELECT cache_grant_service('landlord'); GRANT EXECUTE ON FUNCTION "
                               "drop_old_cache_partitions(integer, boolean), create_monthly_cache_partition(timestamp) TO landlord")
        with empty_database.connect() as connection:
            connection.execute("SET ROLE landlord")
            upsert(connection, "1", (ALICE, "tone", "new"))
            assert lookup(connection, (ALICE, "tone", "new")) == 1
            assert connection.execute("SELECT create_monthly_cache_partition('2020-01-01')").fetchone() == ("infinite_pages_cache_2020_01",)
            assert connection.execute("SELECT dropped FROM drop_old_cache_partitions()").fetchall() == [(True,)]
        empty_database.execute(f"ALTER DATABASE {empty_database.name} OWNER TO postgres")
        empty_database.execute("DROP EXTENSION infinite_pages_cache CASCADE")


# ── what is installed ────────────────────────────────────────────────────────────────────────────

def test_everything_has_a_comment_and_no_table_is_a_member(database):
    members = "SELECT objid FROM pg_depend WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e' AND classid = '{}'::regclass " \
              "AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'infinite_pages_cache')"
    functions = database.execute(f"SELECT oid::regprocedure::text, obj_description(oid, 'pg_proc') FROM pg_proc WHERE oid IN ({members.format('pg_proc')})")
    views = database.execute(f"SELECT relname, obj_description(oid, 'pg_class') FROM pg_class WHERE oid IN ({members.format('pg_class')}) AND relkind = 'v'")
    types = database.execute(f"SELECT typname, obj_description(oid, 'pg_type') FROM pg_type WHERE oid IN ({members.format('pg_type')}) AND typtype = 'b' AND typcategory <> 'A'")
    tables = database.execute("SELECT relname, obj_description(oid, 'pg_class') FROM pg_class "
                              "WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition")
    assert (len(functions) > 25, len(views), len(types), len(tables)) == (True, 9, 1, 7)
    assert [name for name, comment in functions + views + types + tables if not comment] == []
    assert database.execute(f"SELECT relname FROM pg_class WHERE oid IN ({members.format('pg_class')}) AND relkind NOT IN ('v', 'c')") == []
    assert database.value("SELECT obj_description(oid, 'pg_extension') FROM pg_extension WHERE extname = 'infinite_pages_cache'")


def test_content_policies_are_those_of_the_specification(database):
    # content-policies.csv: type, ttl in days, cost, threshold, most entries of a user.
    assert database.value("SELECT count(*) FROM cache_content_policies") == 32
    assert database.execute("SELECT content_type, ttl::text, token_cost::float, similarity_threshold::float, max_entries FROM cache_content_policies "
                            "WHERE content_type IN ('story_foundation', 'foreshadowing', 'improvement_grammar', 'export_txt', 'setting') ORDER BY 1") == [
        ("export_txt", "7 days", 0.5, 0.95, 50), ("foreshadowing", "3 days", 0.5, 0.70, 200),
        ("improvement_grammar", "1 day", 1, 0.90, 200), ("setting", "21 days", 1.5, 0.65, 400), ("story_foundation", "30 days", 8, 0.75, 200)]


def test_creation_in_a_schema_of_its_own_and_refusal_to_move(empty_database):
    empty_database.execute("CREATE SCHEMA cache")
    empty_database.execute(EXTENSION + " SCHEMA cache")
    assert empty_database.value("SELECT count(*) FROM cache.verify_production_cache() WHERE NOT ok") == 0
    # Its tables would stay behind.
    assert sqlstate_of(lambda: empty_database.execute("ALTER EXTENSION infinite_pages_cache SET SCHEMA public")).sqlstate == "0A000"


def test_a_refused_creation_leaves_nothing(empty_database):
    empty_database.execute("CREATE TABLE cache_maintenance_runs (x int)")
    before = state(empty_database)
    with empty_database.connect(autocommit=False) as connection:
        connection.execute(EXTENSION)
        connection.rollback()
    assert state(empty_database) == before


@pytest.mark.parametrize("check", ["verify_production_cache", "check_partition_health"])
def test_what_is_in_order_has_no_hint_and_what_is_not_has_one(database, check):
    rows = database.execute(f"SELECT ok, hint FROM {check}()")
    assert {hint for ok, hint in rows if ok} == {None}
    database.execute("DROP TABLE " + ", ".join(f"{name_of(offset)}" for offset in range(4)) + "; DROP POLICY admin_maintenance_access ON infinite_pages_cache_partitioned")
    rows = database.execute(f"SELECT ok, hint FROM {check}()")
    assert {hint for ok, hint in rows if ok} <= {None}
    assert len([hint for ok, hint in rows if not ok]) >= 2 and all(hint for ok, hint in rows if not ok)


# ── other servers ────────────────────────────────────────────────────────────────────────────────

def test_a_server_that_does_not_preload_the_library():
    cluster = Cluster({"shared_preload_libraries": ""})
    try:
        database = Database(cluster)
        with database.connect() as connection:
            upsert(connection, "1")
            assert lookup(connection) == 1
        with database.connect() as connection:
            # Its settings can be set before the library is loaded.
            connection.execute("SET infinite_pages_cache.enabled = off")
            assert lookup(connection) is None
        checks = {name: (ok, hint) for name, ok, _, hint in database.execute("SELECT * FROM verify_production_cache()")}
        assert [name for name, (ok, _) in checks.items() if not ok] == ["the library is preloaded", "leases can be granted", "the worker runs"]
        assert "shared_preload_libraries" in checks["the library is preloaded"][1]
        assert {status for (status,) in database.execute("SELECT status FROM cache_run_maintenance()")} == {"ok"}
        # A dump of it restores.
        cluster.client("pg_dump", "-Fc", "-d", database.name, "-f", cluster.directory / "dump")
        target = Database(cluster, extension=False)
        cluster.client("pg_restore", "--exit-on-error", "-d", target.name, cluster.directory / "dump")
        with target.connect() as connection:
            assert lookup(connection) == 1
    finally:
        cluster.remove()


@pytest.mark.parametrize("encoding", ["LATIN1", "WIN1252", "EUC_JP", "SQL_ASCII"])
def test_a_database_of_another_encoding_is_refused(cluster, encoding):
    """JSON is UTF-8: elsewhere the same request would have another key."""
    database = Database(cluster, extension=False)
    database.drop()
    with cluster.connect() as connection:
        connection.execute(f"CREATE DATABASE {database.name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    refused = sqlstate_of(lambda: database.execute(EXTENSION))
    assert refused.sqlstate == "0A000" and encoding in refused.message_detail and "UTF8" in refused.message_hint
    assert database.value("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == 0
    database.drop()


# ── names and texts beyond ASCII ─────────────────────────────────────────────────────────────────

KEY = (ALICE, "Öde", "Übergröße 物語")


@pytest.mark.parametrize("client_encoding", ["UTF8", "EUC_JP"])
def test_keys_and_content_are_the_same_for_clients_of_every_encoding(database, client_encoding):
    with database.connect() as writer, database.connect(client_encoding=client_encoding) as reader:
        upsert(writer, '{"物": "語"}', (ALICE, "設定", "鍵"), prompt_template="物")
        assert reader.execute("SELECT cache_lookup(%s, '設定', '鍵')::text", (ALICE,)).fetchone() == ('{"物": "語"}',)
        assert reader.execute("SELECT cache_key, content::text FROM cache_lookup_many(%s, '設定', '{鍵, 語}')", (ALICE,)).fetchall() == [
            ("鍵", '{"物": "語"}'), ("語", None)]
        upsert(reader, '"語"', (ALICE, "設定", "鍵"))
        assert lookup(writer, (ALICE, "設定", "鍵")) == "語"
        assert writer.execute(f"SELECT count(*) FROM {CACHE}").fetchone() == (1,)


def test_batches_invalidation_and_audit_beyond_ascii(database):
    entry = {"user_id": ALICE, "content_type": KEY[1], "cache_key": KEY[2], "content": "ÿ", "metadata": {"é": "è"},
             "foundation_dependency": "Maß"}
    with database.connect() as connection:
        for call, argument in (("cache_invalidate_where(%s, %s::jsonb)", '{"é": "è"}'), ("cache_invalidate_dependents(%s, %s)", "Maß")):
            connection.execute("SELECT cache_upsert_many(%s::jsonb)", (json.dumps([entry], ensure_ascii=False),))
            assert lookup(connection, KEY) == "ÿ"
            assert connection.execute(f"SELECT {call}", (ALICE, argument)).fetchone() == (1,)
        assert set(connection.execute("SELECT content_type, cache_key FROM cache_audit_log")) == {KEY[1:]}


def test_a_request_has_the_key_of_its_canonical_json(database):
    """RFC 8785 hashes UTF-8."""
    assert database.value("SELECT cache_key(%s::jsonb)", ('{"title": "Café"}',)) == \
        hashlib.sha256('{"title":"Café"}'.encode()).hexdigest()


def test_names_of_roles_and_schemas_may_be_anything(empty_database, cluster):
    role, schema = 'größe "1"', "Müll; DROP"
    quoted = lambda name: '"' + name.replace('"', '""') + '"'
    with temporary_roles(cluster, quoted(role)), empty_database.connect() as connection:
        connection.execute(f"CREATE SCHEMA {quoted(schema)}; CREATE EXTENSION infinite_pages_cache SCHEMA {quoted(schema)}")
        connection.execute(f"SET search_path = {quoted(schema)}")
        connection.execute("SELECT cache_setup(), cache_grant_tenant(%s), cache_grant_service(%s)", (role, role))
        connection.execute(f"SET ROLE {quoted(role)}")
        upsert(connection, "1", KEY)
        assert lookup(connection, KEY) == 1
        assert connection.execute("SELECT role FROM cache_audit_log").fetchall() == [(role,)]
        connection.execute("RESET ROLE")
        connection.execute("SELECT cache_run_maintenance()")
        assert connection.execute("SELECT * FROM verify_production_cache() WHERE NOT ok").fetchall() == []
        assert connection.execute("SELECT * FROM check_partition_health() WHERE NOT ok").fetchall() == []


def test_roles_that_were_dropped_are_not_in_a_dump(cluster, tmp_path):
    """The extension provided for them when it was created."""
    with temporary_roles(cluster, "authenticated", "service_role"):
        database = Database(cluster)
        assert database.value("SELECT has_function_privilege('authenticated', 'cache_current_user_id()', 'EXECUTE')")
    before, target = state(database), Database(cluster, extension=False)
    dumped_as_script(database, target, tmp_path / "dump")
    same(state(target), before)
    for one in (database, target):
        one.drop()


def test_what_the_extension_says_is_ascii(database):
    """So that it is legible in every encoding."""
    texts = database.execute("SELECT description FROM pg_description JOIN pg_proc p ON objoid = p.oid AND classoid = 'pg_proc'::regclass "
                             "WHERE pronamespace = 'public'::regnamespace UNION ALL "
                             "SELECT description FROM pg_description JOIN pg_class c ON objoid = c.oid AND classoid = 'pg_class'::regclass "
                             "WHERE relnamespace = 'public'::regnamespace UNION ALL "
                             "SELECT what_to_do FROM cache_alerts UNION ALL SELECT concat(detail, hint) FROM verify_production_cache()")
    assert len(texts) > 60
    assert [text for (text,) in texts if not text.isascii()] == []
