"""From a released version to this one: an updated extension is a fresh one, an old dump restores, and the library of this version
serves the SQL of an old one. tests/released has, of each released version, dumps of a database that fill.sql has filled: as a script,
as an archive, and as a script from after its roles were dropped."""

import hashlib
import re
import tomllib

import pytest

from catalog import state
from conftest import ALICE, BOB, ROOT, Database, sqlstate_of, temporary_roles
from test_restore import maintained, same
from worker import is_served, status, wait_until

RELEASED = ROOT / "tests/released"
VERSION = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
ROLES = ("anon", "authenticated", "service_role", "app_tenant", "app_service", "app_reader")
CACHE, LOG = "infinite_pages_cache_partitioned", "cache_audit_log"
UPDATE = "ALTER EXTENSION infinite_pages_cache UPDATE"
CREATED = "CREATE EXTENSION IF NOT EXISTS infinite_pages_cache WITH SCHEMA public"
# What a client of 0.1.0 can see of the rows.
ROWS = {
    CACHE: "id, cache_key, content, content_type, user_id, story_id, metadata, reuse_score, created_at, expires_at, hit_count, adaptation_count, "
           "token_cost_saved, last_accessed, access_frequency, priority_tier, compression_applied, trim_scale(token_cost)",
    "cache_content_policies": "content_type, ttl, stale_ttl, token_cost, similarity_threshold, max_entries, priority_tier",
    LOG: 'id, user_id, cache_key, content_type, action, "timestamp", ip_address, user_agent, success, role',
    "cache_audit_archive": 'id, user_id, cache_key, content_type, action, "timestamp", ip_address, user_agent, success, role',
    "cache_statistics_hourly": "hour, content_type, hits, misses",
}


def digests():
    lines = (RELEASED / "SHA256SUMS").read_text().splitlines()
    return {path: digest for digest, path in (line.split("  ") for line in lines)}


def numbers(version):
    return [int(part) for part in version.split(".")]


def rows(database, schema="public"):
    with database.connect() as connection:
        connection.execute(f"SET search_path = {schema}; SET TimeZone = 'UTC'")
        return {table: sorted(connection.execute(f"SELECT ({columns})::text FROM {table}").fetchall()) for table, columns in ROWS.items()}


def with_lz4(cluster):
    return cluster.execute("SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'") == [(True,)]


def without_lz4(text):
    """A server without it refuses a column that has it."""
    return re.sub(r"^.* SET COMPRESSION lz4;\n", "", text, flags=re.M)


def script(database, name="0.1.0.sql", version=None, schema="public"):
    """The text of a dump, for this server, an extension of some version, and a schema."""
    text = (RELEASED / name).read_text()
    if version:
        assert text.count(CREATED) == 1
        text = text.replace(CREATED, f"{CREATED} VERSION '{version}'")
    if not with_lz4(database.cluster):
        text = without_lz4(text)
    if schema != "public":
        text = f"CREATE SCHEMA {schema};\n" + text.replace("public.", f"{schema}.").replace("SCHEMA public", f"SCHEMA {schema}")
    return text


def play(database, text):
    database.cluster.client("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database.name, "-f", "-", input=text)


def old(cluster, **options):
    """A database of the released version, with the library of this one."""
    database = Database(cluster, extension=False)
    play(database, script(database, version="0.1.0", **options))
    return database


def fresh(cluster, like, schema="public"):
    """A database of this version that has come to the same by other means, with the months of another one."""
    database = Database(cluster, extension=False)
    database.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}; CREATE EXTENSION infinite_pages_cache SCHEMA {schema}")
    play(database, f"SET search_path = {schema};" + (RELEASED / "fill.sql").read_text())
    bounds = "SELECT i.inhparent::regclass::text, c.relname, pg_get_expr(c.relpartbound, c.oid) FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid " \
             "WHERE c.relkind = 'r' ORDER BY 2"
    with like.connect() as connection, database.connect() as target:
        for one in (connection, target):
            one.execute(f"SET search_path = {schema}; SET TimeZone = 'UTC'")
        there = target.execute(bounds).fetchall()
        for parent, name, values in connection.execute(bounds):
            if (parent, name, values) not in there:
                if parent == CACHE:
                    target.execute(f"SELECT create_monthly_cache_partition('{values[18:28]}'::date)")
                else:
                    target.execute(f"CREATE TABLE {name} PARTITION OF {parent} {values}")
        target.execute("SELECT cache_setup()")
    return database


def catalog(database, schema="public"):
    found = state(database, schema)
    del found["rows"]
    found["first privileges"] = sorted(database.execute(
        "SELECT pg_describe_object(classoid, objoid, objsubid), initprivs::text FROM pg_init_privs WHERE objoid >= 16384"))
    found["sequences"] = [name for name, _ in found["sequences"]]
    found["version"] = database.value("SELECT extversion FROM pg_extension WHERE extname = 'infinite_pages_cache'")
    return found


def checks(database, schema="public"):
    return {name: hint for name, hint in database.execute(f"SELECT name, hint FROM {schema}.verify_production_cache() WHERE NOT ok")}


def works(database):
    with database.connect() as connection:
        one = lambda sql, *arguments: connection.execute(sql, arguments).fetchone()[0]
        assert [one("SELECT cache_lookup(%s, 'setting', %s) -> 'n'", ALICE, f"k{n}") for n in range(20)] == list(range(20))
        assert one("SELECT cache_lookup(%s, 'tone', 'bob')", BOB) == "his"
        assert one("SELECT cache_lookup(%s, 'setting', 'expired')", BOB) is None
        assert one("SELECT cache_upsert(%s, 'setting', 'k5', '55', token_cost => 0.5)", ALICE)
        assert one("SELECT cache_lookup(%s, 'setting', 'k5')", ALICE) == 55
        assert one(f"SELECT count(*) FROM {CACHE} WHERE cache_key = 'k5'") == 1
        assert {status for _, status, _ in maintained(connection)} == {"ok"}


@pytest.fixture(scope="module")
def known(cluster):
    with temporary_roles(cluster, *ROLES):
        yield


# ── the update ───────────────────────────────────────────────────────────────────────────────────

@pytest.mark.parametrize("schema", ["public", '"Größe 1"'])
def test_an_updated_extension_is_a_fresh_one(cluster, known, schema):
    database = old(cluster, schema=schema)
    before = rows(database, schema)
    assert [len(before[table]) for table in ROWS] == [23, 32, 2, 1, 1]
    # Whatever the caller's path is.
    with database.connect() as connection:
        connection.execute("CREATE SCHEMA other; SET search_path = other")
        connection.execute(UPDATE)
    assert rows(database, schema) == before
    expected = fresh(cluster, database, schema)
    same(catalog(database, schema), catalog(expected, schema))
    assert checks(database, schema) == {}
    assert database.execute(f"SELECT * FROM {schema}.check_partition_health() WHERE NOT ok") == []
    if schema == "public":
        works(database)
    for one in (database, expected):
        one.drop()


def test_what_was_granted_before_an_update_is_in_a_dump_after_it(cluster, known, tmp_path):
    database, target = old(cluster), Database(cluster, extension=False)
    database.execute(UPDATE)
    cluster.client("pg_dump", "-d", database.name, "-f", tmp_path / "dump")
    play(target, (tmp_path / "dump").read_text())
    same(catalog(target), catalog(database))
    for one in (database, target):
        one.drop()


def test_grants_that_0_1_0_gave_as_it_was_created_are_in_a_dump_after_the_update(cluster, known, tmp_path):
    """It had them recorded as the first privileges of functions and views, of which a dump has the changes only. This library does
    not, so the record is made here as that one made it."""
    database, target = old(cluster), Database(cluster, extension=False)
    database.execute("""
        CREATE TEMPORARY VIEW member AS SELECT d.classid, d.objid, coalesce(p.proacl, c.relacl, t.typacl) AS acl FROM pg_depend d
            LEFT JOIN pg_proc p ON p.oid = d.objid AND d.classid = 'pg_proc'::regclass LEFT JOIN pg_class c ON c.oid = d.objid AND d.classid = 'pg_class'::regclass
            LEFT JOIN pg_type t ON t.oid = d.objid AND d.classid = 'pg_type'::regclass
            WHERE d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'infinite_pages_cache');
        SELECT cache_setup();
        DELETE FROM pg_init_privs i USING member m WHERE m.classid = i.classoid AND m.objid = i.objoid;
        INSERT INTO pg_init_privs SELECT objid, classid, 0, 'e', ARRAY(
            SELECT '=X/postgres'::aclitem WHERE objid = 'cache_lookup_many(uuid,text,text[])'::regprocedure UNION ALL SELECT a FROM unnest(acl) a WHERE a::text !~ '^app_')
        FROM member WHERE EXISTS (SELECT FROM unnest(acl) a WHERE a::text ~ '^(authenticated|service_role)=')""")
    recorded = "SELECT count(*) FROM pg_init_privs WHERE initprivs::text ~ 'authenticated|service_role'"
    assert database.value(recorded) > 30
    before = {part: catalog(database)[part] for part in ("table grants", "function grants")}
    database.execute(UPDATE)
    assert database.value(recorded) == 0
    after = catalog(database)
    for part, grants in before.items():
        assert [grant for grant in after[part] if "cache_search" not in grant[0] and "cache_pending_hits_by" not in grant[0]] == grants
    expected = fresh(cluster, database)
    wanted = catalog(expected)
    for part in ("table grants", "function grants", "members", "functions"):
        assert after[part] == wanted[part], part
    cluster.client("pg_dump", "-d", database.name, "-f", tmp_path / "dump")
    play(target, (tmp_path / "dump").read_text())
    found = catalog(target)
    for part in ("table grants", "function grants"):
        assert found[part] == after[part], part
    for one in (database, target, expected):
        one.drop()


def test_there_is_a_way_from_every_released_version(cluster):
    paths = cluster.execute("SELECT source, path FROM pg_extension_update_paths('infinite_pages_cache') WHERE target = %s", (VERSION,))
    released = {re.fullmatch(r"sql/infinite_pages_cache--([0-9.]+)\.sql", path)[1] for path in digests() if re.fullmatch(r"sql/\w+--[0-9.]+\.sql", path)}
    assert "0.1.0" in released and {source for source, path in paths if path} == released


def insert(database, **columns):
    names = ", ".join(columns)
    database.execute(f"INSERT INTO {CACHE} (user_id, cache_key, content, created_at, expires_at, {names}) "
                     f"VALUES ('{BOB}', 'odd', '1', '2026-02-02', 'infinity', {', '.join(['%s'] * len(columns))})", tuple(columns.values()))


def test_values_that_constraints_refuse_become_the_nearest_that_they_allow(cluster, known):
    database = old(cluster)
    insert(database, content_type="odd", hit_count=-5, adaptation_count=-1, token_cost_saved=-7, access_frequency=-2, token_cost=5 * 10 ** 14)
    insert(database, content_type="fine", token_cost="0.1234567")
    database.execute("UPDATE cache_content_policies SET token_cost = 1e12 WHERE content_type = 'tone'")
    database.execute(UPDATE)
    columns = "hit_count, adaptation_count, token_cost_saved, access_frequency, token_cost::text"
    assert database.execute(f"SELECT {columns} FROM {CACHE} WHERE cache_key = 'odd' ORDER BY content_type DESC") == [
        (0, 0, 0, 0, "1000000000.000000"), (0, 0, 0, 1, "0.123457")]
    assert database.value("SELECT token_cost FROM cache_content_policies WHERE content_type = 'tone'") == 10 ** 9
    assert database.value(f"SELECT count(*) FROM pg_constraint WHERE conrelid = '{CACHE}'::regclass AND contype = 'c' AND NOT convalidated") == 0
    assert checks(database) == {}
    database.drop()


@pytest.mark.parametrize("content_type", ["", "ü" * 128], ids=["empty", "too long"])
def test_a_row_that_cannot_be_mended_is_kept_and_named(cluster, known, content_type):
    database, notices = old(cluster), []
    insert(database, content_type=content_type)
    with database.connect() as connection:
        connection.add_notice_handler(lambda notice: notices.append((notice.severity, notice.message_primary, notice.message_detail, notice.message_hint)))
        connection.execute(UPDATE)
    [(severity, message, detail, hint)] = notices
    assert severity == "WARNING" and CACHE in message and "octet_length(content_type)" in detail and "VALIDATE CONSTRAINT" in hint
    assert database.value(f"SELECT count(*) FROM {CACHE} WHERE cache_key = 'odd'") == 1
    [hint] = checks(database).values()
    assert "VALIDATE CONSTRAINT" in hint
    # New ones are refused, months are made, and a second set-up says nothing new.
    assert sqlstate_of(lambda: insert(database, content_type="")).sqlstate == "23514"
    database.execute("SELECT create_monthly_cache_partition('2031-01-01'), cache_setup()")
    works(database)
    # What the hint says is what helps.
    database.execute(f"DELETE FROM {CACHE} WHERE cache_key = 'odd'")
    database.execute(re.search(r"ALTER TABLE .*;", hint)[0])
    assert checks(database) == {}
    database.drop()


def test_a_view_of_the_operators_on_a_column_whose_type_changes_is_kept_and_named(cluster, known):
    database, notices = old(cluster), []
    database.execute(f"CREATE VIEW costs AS SELECT cache_key, token_cost FROM {CACHE}")
    insert(database, content_type="odd", token_cost=5 * 10 ** 14)
    with database.connect() as connection:
        connection.add_notice_handler(lambda notice: notices.append((notice.severity, notice.message_primary, notice.message_detail, notice.message_hint)))
        connection.execute(UPDATE)
    [(severity, message, detail, hint)] = notices
    assert severity == "WARNING" and "token_cost" in message and "view public.costs" in detail and "cache_setup()" in hint
    assert list(checks(database)) == ["the tables are those of this version"]
    assert database.value("SELECT token_cost FROM costs WHERE cache_key = 'odd'") == 10 ** 9
    works(database)
    database.execute("DROP VIEW costs; SELECT cache_setup()")
    assert checks(database) == {}
    database.drop()


def test_an_update_of_tables_of_existing_clients(cluster):
    """That 0.1.0 has adopted: they have none of its constraints."""
    from test_setup import LEGACY, legacy_month
    database = Database(cluster, extension=False)
    database.execute(LEGACY + legacy_month(0) + "CREATE EXTENSION infinite_pages_cache VERSION '0.1.0'")
    database.execute(f"ALTER TABLE {CACHE} ALTER COLUMN token_cost TYPE numeric")
    before = database.value("SELECT cache_lookup(%s, 'tone', 'k0')", (ALICE,))
    database.execute(UPDATE)
    assert database.value("SELECT cache_lookup(%s, 'tone', 'k0')", (ALICE,)) == before == 0
    assert checks(database).keys() <= {"content is compressed with lz4"}
    database.drop()


# ── an old dump in a new server ──────────────────────────────────────────────────────────────────

@pytest.mark.parametrize("way", ["script", "archive", "without the roles"])
def test_an_old_dump_restores_into_this_version(cluster, request, way):
    database = Database(cluster, extension=False)
    if way == "without the roles":
        play(database, script(database, "0.1.0-without-roles.sql"))
    else:
        request.getfixturevalue("known")
        if way == "script":
            play(database, script(database))
        elif with_lz4(cluster):
            cluster.client("pg_restore", "--exit-on-error", "-d", database.name, RELEASED / "0.1.0.dump")
        else:
            play(database, without_lz4(cluster.client("pg_restore", "-f", "-", RELEASED / "0.1.0.dump").stdout))
    before = rows(database)
    assert database.value("SELECT extversion FROM pg_extension WHERE extname = 'infinite_pages_cache'") == VERSION
    assert "cache_setup()" in checks(database)["the tables are those of this version"]
    # It serves before it is set up, and after.
    if way == "without the roles":
        works(database)
        database.drop()
        return
    database.execute("SELECT cache_setup()")
    assert rows(database) == before and checks(database) == {}
    expected = fresh(cluster, database)
    same(catalog(database), catalog(expected))
    works(database)
    for one in (database, expected):
        one.drop()


# ── the SQL of an old version, the library of this one ───────────────────────────────────────────

CALLS = {
    "cache_ttl_in": "SELECT '1 day'::cache_ttl::text", "cache_ttl_out": "SELECT cache_ttl_out('1 day'::cache_ttl)::text",
    "cache_ttl_from_interval": "SELECT ('2 days'::interval::cache_ttl)::text",
    "cache_key": "SELECT cache_key('{}')", "cache_entry_digest": "SELECT cache_entry_digest('a', 'b')", "cache_current_user_id": "SELECT cache_current_user_id()",
    "cache_lookup": f"SELECT cache_lookup('{ALICE}', 'setting', 'k1') -> 'n'", "cache_get": f"SELECT token_cost FROM cache_get('{ALICE}', 'setting', 'k1')",
    "cache_lookup_many": f"SELECT array_agg(content -> 'n') FROM cache_lookup_many('{ALICE}', 'setting', '{{k1,k2,none}}')",
    "cache_pending_hits": "SELECT count(*) FROM cache_pending_hits()",
    "cache_flush_statistics": "SELECT entries_updated FROM cache_flush_statistics()",
    "cache_upsert": f"SELECT cache_upsert('{ALICE}', 't', 'new', '1', token_cost => 5e12) IS NOT NULL",
    "cache_upsert_many": f"""SELECT cardinality(cache_upsert_many('[{{"user_id": "{ALICE}", "content_type": "t", "cache_key": "many", "content": 1, "token_cost": 1.5}}]'))""",
    "cache_touch": f"SELECT cache_touch('{ALICE}', 't', 'new', 'infinity')::text",
    "cache_invalidate": f"SELECT cache_invalidate('{ALICE}', 't', 'many')",
    "cache_invalidate_content_type": f"SELECT cache_invalidate_content_type('{ALICE}', 't')",
    "cache_invalidate_where": f"""SELECT cache_invalidate_where('{BOB}', '{{"x": 1}}')""",
    "cache_invalidate_dependents": f"SELECT cache_invalidate_dependents('{ALICE}', 'nothing')",
    "create_monthly_cache_partition": "SELECT create_monthly_cache_partition('2020-01-01')", "cache_create_current_partition": "SELECT cache_create_current_partition() LIKE 'inf%'",
    "drop_old_cache_partitions": "SELECT count(*) FROM drop_old_cache_partitions(1)", "check_partition_health": "SELECT count(*) > 0 FROM check_partition_health()",
    "cleanup_expired_cache_entries_production": "SELECT sum(deleted_count) FROM cleanup_expired_cache_entries_production()",
    "cache_grant_tenant": "SELECT cache_grant_tenant('app_tenant')", "cache_grant_service": "SELECT cache_grant_service('app_service')",
    "verify_production_cache": "SELECT count(*) > 15 FROM verify_production_cache()", "archive_audit_logs": "SELECT sum(audit_rows) > 0 FROM archive_audit_logs('30 days')",
    "cache_run_maintenance": None,
    "get_infinite_pages_analytics": f"SELECT get_infinite_pages_analytics('{ALICE}') -> 'total_cache_entries'",
    "cache_statistics": "SELECT count(*) > 0 FROM cache_statistics()", "cache_latency_ms": "SELECT cache_latency_ms('{1}', 0.5)::float",
    "cache_forget_user": f"SELECT (entries_deleted, audit_rows_deleted)::text FROM cache_forget_user('{BOB}')",
    "cache_setup": "SELECT cache_setup()",
}
VIEWS = ["cache_performance_metrics", "partition_health_metrics", "cache_connection_metrics", "user_cache_analytics", "cache_alerts", "cache_maintenance_log",
         "cache_maintenance_status", "cache_maintenance_progress"]
ANSWERS = {
    "cache_ttl_in": "1 day", "cache_ttl_out": "1 day", "cache_ttl_from_interval": "2 days", "cache_lookup": 1, "cache_lookup_many": [1, 2, None], "cache_upsert": True,
    "cache_upsert_many": 1, "cache_touch": "infinity", "cache_invalidate": 1, "cache_invalidate_content_type": 1, "cache_invalidate_where": 0,
    "cache_invalidate_dependents": 0, "create_monthly_cache_partition": "infinite_pages_cache_2020_01", "cache_create_current_partition": True,
    "check_partition_health": True, "cleanup_expired_cache_entries_production": 1, "verify_production_cache": True, "archive_audit_logs": True,
    "get_infinite_pages_analytics": 21, "cache_statistics": True, "cache_pending_hits": 2, "cache_flush_statistics": 2, "cache_forget_user": "(1,1)",
}


def test_this_library_serves_the_sql_of_an_old_version(cluster, known):
    database = old(cluster)
    members = {name for (name,) in database.execute("SELECT proname FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid AND d.classid = 'pg_proc'::regclass "
               "WHERE d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'infinite_pages_cache')")}
    assert members == set(CALLS) | set(VIEWS)
    assert "ALTER EXTENSION infinite_pages_cache UPDATE" in checks(database)["the SQL is that of the library"]
    with database.connect() as connection:
        connection.execute("SET infinite_pages_cache.audit = 'all'")
        for name, sql in CALLS.items():
            if name == "cache_run_maintenance":
                assert {status for _, status, _ in maintained(connection)} == {"ok"}
                continue
            if name == "cache_upsert":
                # A cost over this version's limit is refused, also where the table would take it.
                assert sqlstate_of(lambda: connection.execute(sql)).sqlstate == "22023"
                sql = sql.replace("5e12", "5")
            found = connection.execute(sql).fetchone()[0]
            assert found == ANSWERS.get(name, found), name
        for view in VIEWS:
            assert connection.execute(f"SELECT * FROM {view}").fetchall() or view in ("cache_maintenance_progress", "cache_maintenance_log"), view
            assert connection.execute(f"SELECT * FROM {view}()").fetchall() or view in ("cache_maintenance_progress", "cache_maintenance_log"), view
    database.drop()


@pytest.mark.parametrize("acting", [None, ALICE])
def test_audit_and_erasure_with_a_log_that_does_not_know_who_acted(cluster, known, acting):
    database = old(cluster)
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
    database = old(cluster)
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


def test_the_worker_serves_a_database_of_an_old_version(worker_cluster):
    with temporary_roles(worker_cluster, *ROLES):
        database = old(worker_cluster)
        for sql in ("SELECT 1", UPDATE):
            database.execute(sql)
            # A step that met the locks of the restore or the update is tried again.
            worker_cluster.execute("SELECT pg_reload_conf()")
            is_served(database)
            wait_until(lambda: status(database)["consecutive_failures"] == 0, 60)
        database.drop()


# ── what is released stays as it is ──────────────────────────────────────────────────────────────

def test_what_is_released_is_frozen():
    for path, digest in digests().items():
        assert hashlib.sha256((ROOT / path).read_bytes()).hexdigest() == digest, (
            f"{path} is released and must not change: databases are made from it. Write a new update script to the next version instead")
    # Every script that leads to an earlier version than this one is released.
    scripts = {f"sql/{path.name}": path.stem.split("--")[-1] for path in (ROOT / "sql").glob("infinite_pages_cache--*.sql")}
    earlier = {path for path, target in scripts.items() if numbers(target) < numbers(VERSION)}
    assert earlier == {path for path in digests() if path.startswith("sql/")}, "enter the scripts of a released version in tests/released/SHA256SUMS"
    assert {f"tests/released/{path.name}" for path in RELEASED.iterdir()} - {"tests/released/SHA256SUMS"} == {
        path for path in digests() if path.startswith("tests/")}
