"""Databases of a released version, and databases of this version to compare them with. Of each released version, tests/lifecycle/released has
dumps of a database that fill.sql filled: a script, an archive, and a script of the database after its roles were dropped."""

import re
import tomllib

from harness.catalog import state
from harness.cluster import ROOT
from harness.database import Database
from harness.dumps import with_lz4
from harness.entries import ALICE, BOB, CACHE
from harness.maintenance import maintained

RELEASED = ROOT / "tests/lifecycle/released"
RELEASES = ("0.1.0", "0.2.0")
VERSION = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
ROLES = ("anon", "authenticated", "service_role", "app_tenant", "app_service", "app_reader")
LOG = "cache_audit_log"
UPDATE = "ALTER EXTENSION infinite_pages_cache UPDATE"
CREATED = "CREATE EXTENSION IF NOT EXISTS infinite_pages_cache WITH SCHEMA public"
# The columns that a client of 0.1.0 knows.
ROWS = {
    CACHE: "id, cache_key, content, content_type, user_id, story_id, metadata, reuse_score, created_at, expires_at, hit_count, adaptation_count, "
           "token_cost_saved, last_accessed, access_frequency, priority_tier, compression_applied, trim_scale(token_cost)",
    "cache_content_policies": "content_type, ttl, stale_ttl, token_cost, similarity_threshold, max_entries, priority_tier",
    LOG: 'id, user_id, cache_key, content_type, action, "timestamp", ip_address, user_agent, success, role',
    "cache_audit_archive": 'id, user_id, cache_key, content_type, action, "timestamp", ip_address, user_agent, success, role',
    "cache_statistics_hourly": "hour, content_type, hits, misses",
}


def rows(database, schema="public"):
    with database.connect() as connection:
        connection.execute(f"SET search_path = {schema}; SET TimeZone = 'UTC'")
        return {table: sorted(connection.execute(f"SELECT ({columns})::text FROM {table}").fetchall()) for table, columns in ROWS.items()}


def without_lz4(text):
    """A script without the columns' compression, which a server without lz4 refuses."""
    return re.sub(r"^.* SET COMPRESSION lz4;\n", "", text, flags=re.M)


def script(database, name, version=None, schema="public"):
    """The text of a dump, changed to suit this server, a version of the extension and a schema."""
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
    """Run a script by psql."""
    database.cluster.client("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database.name, "-f", "-", input=text)


def old(cluster, version, **options):
    """A database of a released version, under this version's library."""
    database = Database(cluster, extension=False)
    play(database, script(database, f"{version}.sql", version, **options))
    return database


def fresh(cluster, like, schema="public"):
    """A database of this version that was never another version's, filled in the same way, with the same months."""
    database = Database(cluster, extension=False)
    database.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}; CREATE EXTENSION infinite_pages_cache SCHEMA {schema}")
    play(database, f"SET search_path = {schema};" + (RELEASED / "fill.sql").read_text())
    bounds = "SELECT i.inhparent::regclass::text, c.relname, pg_get_expr(c.relpartbound, c.oid) " \
             "FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid WHERE c.relkind = 'r' ORDER BY 2"
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
    """The state of the catalogs alone, with what an update can change."""
    found = state(database, schema)
    del found["rows"]
    found["first privileges"] = sorted(database.execute(
        "SELECT pg_describe_object(classoid, objoid, objsubid), initprivs::text FROM pg_init_privs WHERE objoid >= 16384"))
    found["sequences"] = [name for name, _ in found["sequences"]]
    found["version"] = database.value("SELECT extversion FROM pg_extension WHERE extname = 'infinite_pages_cache'")
    return found


def works(database):
    """Check that a database filled by fill.sql serves and can be maintained."""
    with database.connect() as connection:
        one = lambda sql, *arguments: connection.execute(sql, arguments).fetchone()[0]
        assert [one("SELECT cache_lookup(%s, 'setting', %s) -> 'n'", ALICE, f"k{n}") for n in range(20)] == list(range(20))
        assert one("SELECT cache_lookup(%s, 'tone', 'bob')", BOB) == "his"
        assert one("SELECT cache_lookup(%s, 'setting', 'expired')", BOB) is None
        assert one("SELECT cache_upsert(%s, 'setting', 'k5', '55', token_cost => 0.5)", ALICE)
        assert one("SELECT cache_lookup(%s, 'setting', 'k5')", ALICE) == 55
        assert one(f"SELECT count(*) FROM {CACHE} WHERE cache_key = 'k5'") == 1
        assert {status for _, status, _ in maintained(connection)} == {"ok"}
