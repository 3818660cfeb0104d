"""A cache in use, the ways to dump and restore it, and checks of the restored one."""

from harness.catalog import state
from harness.entries import ALICE, BOB
from harness.maintenance import maintained

ROLES = ("authenticated", "service_role", "app_tenant", "app_service", "app_reader")
ENTRY = "INSERT INTO infinite_pages_cache_partitioned (user_id, content_type, cache_key, content, created_at, expires_at) " \
        "VALUES (%s, 'setting', %s, %s::jsonb, %s, %s)"


def fill(database, schema):
    """Fill a cache as months of use do, and change it as an operator does."""
    with database.connect() as connection:
        connection.execute(f"SET search_path = {schema}; SET TimeZone = 'UTC'")
        [(this,)] = connection.execute("SELECT to_char(now(), 'YYYY-MM')").fetchall()
        for month in ("2025-12", "2026-02", "2026-03"):
            connection.execute(f"SELECT create_monthly_cache_partition('{month}-01'::date)")
        for number in range(20):
            month = ("2025-12", "2026-02", "2026-03", this)[number % 4]
            connection.execute(ENTRY, (ALICE, f"k{number}", f'{{"n": {number}, "text": "{"x" * 3000}"}}', f"{month}-15", "infinity"))
        connection.execute(ENTRY, (BOB, "expired", '"\u00e9\U0001f600"', f"{this}-01", f"{this}-01 01:00"))
        connection.execute("SELECT cache_upsert(%s, 'tone', 'kept for ever', '1', ttl => 'infinity', metadata => '{\"a\": [1]}')", (BOB,))
        connection.execute("SELECT cache_upsert(%s, 'tone', 'kept for a day', '2', ttl => '1 day')", (BOB,))
        # The operator's changes.
        connection.execute(f"""
            CREATE INDEX by_story ON infinite_pages_cache_partitioned (story_id);
            CREATE INDEX in_one_month ON infinite_pages_cache_2026_02 USING gin (metadata);
            CREATE POLICY from_the_operator ON infinite_pages_cache_partitioned FOR SELECT TO app_reader USING (priority_tier = 1);
            ALTER POLICY analytics_readonly_access ON infinite_pages_cache_partitioned USING (hit_count >= 0);
            GRANT USAGE ON SCHEMA {schema} TO app_reader;
            GRANT SELECT ON infinite_pages_cache_partitioned TO app_reader WITH GRANT OPTION;
            GRANT SELECT ON partition_health_metrics TO app_reader;
            GRANT EXECUTE ON FUNCTION partition_health_metrics() TO app_reader;
            SELECT cache_grant_tenant('app_tenant');
            SELECT cache_grant_service('app_service');
            UPDATE cache_content_policies SET ttl = '90 days', max_entries = NULL WHERE content_type = 'tone';
            DELETE FROM cache_content_policies WHERE content_type = 'export_txt';
            INSERT INTO cache_content_policies (content_type, ttl) VALUES ('Gedicht', NULL);
            COMMENT ON TABLE infinite_pages_cache_partitioned IS 'ours';
            CREATE TABLE cache_audit_log_2026_01 PARTITION OF cache_audit_log
                FOR VALUES FROM ('2026-01-01 00:00:00+00') TO ('2026-02-01 00:00:00+00');
            INSERT INTO cache_audit_log (user_id, action, "timestamp") VALUES ('{ALICE}', 'upsert', '2026-01-31 23:59:59.999999+00');
            SELECT * FROM archive_audit_logs();
            SELECT * FROM cache_run_maintenance();
            ANALYZE""")


def fill_for_years(database):
    """Fill a cache in which nothing expires for years."""
    fill(database, "public")
    database.execute("""
        DELETE FROM infinite_pages_cache_partitioned WHERE expires_at < 'infinity';
        SELECT cache_upsert('b0b00000-0000-4000-8000-000000000002', 'tone', 'kept for a day', '2', ttl => '3 years')""")


def lasting_state(database):
    """The state without the log of maintenance, to which the worker adds rows."""
    found = state(database)
    del found["rows"]["cache_maintenance_runs"]
    return found


def with_lz4(cluster):
    [(found,)] = cluster.execute("SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'")
    return found


def compress_with_lz4(database):
    """Compress as verify_production_cache() advises where the server has lz4."""
    database.execute("ALTER TABLE infinite_pages_cache_partitioned ALTER COLUMN content SET COMPRESSION lz4")


def dump(source, target, path, *options):
    """Dump a database by the older pg_dump of the two clusters. pg_restore reads no archive of a newer pg_dump, and an early minor release
    of a newer major does not know all that a late one of an older major has in its catalogs."""
    def version(cluster):
        return int(cluster.client("pg_dump", "--version").stdout.split()[2].split(".")[0])

    by = min(source.cluster, target.cluster, key=version)
    by.client("pg_dump", "-h", source.cluster.directory, "-d", source.name, "-f", path, *options)


def dumped_as_script(source, target, path, *options):
    dump(source, target, path, *options)
    target.cluster.client("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", target.name, "-f", path)


def dumped_as_archive(source, target, path, form, *runs):
    dump(source, target, path, *form.split())
    for options in runs:
        target.cluster.client("pg_restore", "--exit-on-error", "-d", target.name, *options.split(), path)


WAYS = {
    "script": (dumped_as_script,),
    "script of INSERTs": (dumped_as_script, "--inserts"),
    "script, clean": (dumped_as_script, "--clean", "--if-exists"),
    "custom": (dumped_as_archive, "-Fc", "-j 4"),
    "custom, one transaction": (dumped_as_archive, "-Fc", "-1"),
    "custom, clean": (dumped_as_archive, "-Fc", "--clean --if-exists"),
    "custom, in sections": (dumped_as_archive, "-Fc", "--section=pre-data", "--section=data", "--section=post-data"),
    "custom, schema and then data": (dumped_as_archive, "-Fc", "--schema-only", "--data-only"),
    "directory": (dumped_as_archive, "-Fd -j 4", "-j 4"),
    "tar": (dumped_as_archive, "-Ft", ""),
}


def same(found, expected):
    """Compare two states part by part, so that a failure names the part."""
    for part in expected:
        assert found[part] == expected[part], part


def works(database, schema):
    """Check that a restored cache serves, can be maintained, and that its own checks find nothing wrong."""
    with database.connect() as connection:
        connection.execute(f"SET search_path = {schema}")
        one = lambda sql, *arguments: connection.execute(sql, arguments).fetchone()[0]
        assert one("SELECT cache_lookup(%s, 'setting', 'k5') -> 'n'", ALICE) == 5
        assert one("SELECT cache_lookup(%s, 'tone', 'kept for ever')", BOB) == 1
        assert one("SELECT cache_lookup(%s, 'setting', 'expired')", BOB) is None
        for value in (7, 8):
            connection.execute("SELECT cache_upsert(%s, 'setting', 'k5', %s::jsonb)", (ALICE, str(value)))
            assert one("SELECT cache_lookup(%s, 'setting', 'k5')", ALICE) == value
        assert one("SELECT count(*) FROM infinite_pages_cache_partitioned WHERE cache_key = 'k5'") == 1
        steps = maintained(connection)
        assert len(steps) > 5 and [step for step in steps if step[1] != "ok"] == []
        for report in ("verify_production_cache", "check_partition_health"):
            assert connection.execute(f"SELECT * FROM {report}() WHERE NOT ok").fetchall() == [], database.cluster.log()[-3000:]
        # A tenant of the restored cache.
        connection.execute("SET ROLE app_tenant")
        connection.execute("SELECT set_config('infinite_pages_cache.user_id', %s, false)", (BOB,))
        assert one("SELECT cache_lookup(%s, 'tone', 'kept for a day')", BOB) == 2
        assert one("SELECT cache_lookup(%s, 'setting', 'k5')", ALICE) is None
