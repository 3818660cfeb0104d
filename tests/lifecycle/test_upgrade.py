"""From a released version to this one: an updated extension is a fresh one, and an old dump restores."""

import hashlib
import re

import pytest

from harness.catalog import FORMER
from harness.cluster import ROOT
from harness.database import Database
from harness.dumps import same, with_lz4
from harness.entries import ALICE, BOB, CACHE
from harness.errors import sqlstate_of, warnings_of
from harness.months import LEGACY, legacy_month
from harness.reports import checks
from harness.upgrade import RELEASED, RELEASES, ROWS, UPDATE, VERSION, catalog, fresh, old, play, rows, script, without_lz4, works


def digests():
    lines = (RELEASED / "SHA256SUMS").read_text().splitlines()
    return {path: digest for digest, path in (line.split("  ") for line in lines)}


def numbers(version):
    return [int(part) for part in version.split(".")]


# ── the update ───────────────────────────────────────────────────────────────────────────────────

@pytest.mark.parametrize("version", RELEASES)
@pytest.mark.parametrize("schema", ["public", '"Größe 1"'])
def test_an_updated_extension_is_a_fresh_one(cluster, known, schema, version):
    database = old(cluster, version, schema=schema)
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


@pytest.mark.parametrize("version", RELEASES)
def test_what_was_granted_before_an_update_is_in_a_dump_after_it(cluster, known, tmp_path, version):
    database, target = old(cluster, version), Database(cluster, extension=False)
    database.execute(UPDATE)
    cluster.client("pg_dump", "-d", database.name, "-f", tmp_path / "dump")
    play(target, (tmp_path / "dump").read_text())
    same(catalog(target), catalog(database))
    for one in (database, target):
        one.drop()


def test_grants_that_0_1_0_gave_as_it_was_created_are_in_a_dump_after_the_update(cluster, known, tmp_path):
    """It had them recorded as the first privileges of functions and views, of which a dump has the changes only. This library does
    not, so the record is made here as that one made it."""
    database, target = old(cluster, "0.1.0"), Database(cluster, extension=False)
    database.execute("""
        CREATE TEMPORARY VIEW member AS SELECT d.classid, d.objid, coalesce(p.proacl, c.relacl, t.typacl) AS acl FROM pg_depend d
            LEFT JOIN pg_proc p ON p.oid = d.objid AND d.classid = 'pg_proc'::regclass
            LEFT JOIN pg_class c ON c.oid = d.objid AND d.classid = 'pg_class'::regclass
            LEFT JOIN pg_type t ON t.oid = d.objid AND d.classid = 'pg_type'::regclass
            WHERE d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'infinite_pages_cache');
        SELECT cache_setup();
        DELETE FROM pg_init_privs i USING member m WHERE m.classid = i.classoid AND m.objid = i.objoid;
        INSERT INTO pg_init_privs SELECT objid, classid, 0, 'e', ARRAY(
            SELECT '=X/postgres'::aclitem WHERE objid = 'cache_lookup_many(uuid,text,text[])'::regprocedure
            UNION ALL SELECT a FROM unnest(acl) a WHERE a::text !~ '^app_')
        FROM member WHERE EXISTS (SELECT FROM unnest(acl) a WHERE a::text ~ '^(authenticated|service_role)=')""")
    recorded = "SELECT count(*) FROM pg_init_privs WHERE initprivs::text ~ 'authenticated|service_role'"
    assert database.value(recorded) > 30
    before = {part: catalog(database)[part] for part in ("table grants", "function grants")}
    database.execute(UPDATE)
    assert database.value(recorded) == 0
    after = catalog(database)
    for part, grants in before.items():
        # Of what there was and still is; an object that the update brings has grants of its own.
        kept = [grant for grant in grants if not FORMER.search(grant[0])]
        there = {name for name, *_ in kept}
        assert [grant for grant in after[part] if grant[0] in there] == kept
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
    released = {match[1] for match in (re.fullmatch(r"sql/infinite_pages_cache--([0-9.]+)\.sql", path) for path in digests()) if match}
    assert released == set(RELEASES) == {source for source, path in paths if path}


def insert(database, **columns):
    names = ", ".join(columns)
    database.execute(f"INSERT INTO {CACHE} (user_id, cache_key, content, created_at, expires_at, {names}) "
                     f"VALUES ('{BOB}', 'odd', '1', '2026-02-02', 'infinity', {', '.join(['%s'] * len(columns))})", tuple(columns.values()))


def test_values_that_constraints_refuse_become_the_nearest_that_they_allow(cluster, known):
    database = old(cluster, "0.1.0")
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
    database = old(cluster, "0.1.0")
    insert(database, content_type=content_type)
    [(message, detail, hint)] = warnings_of(database, UPDATE)
    assert CACHE in message and "octet_length(content_type)" in detail and "VALIDATE CONSTRAINT" in hint
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
    database = old(cluster, "0.1.0")
    database.execute(f"CREATE VIEW costs AS SELECT cache_key, token_cost FROM {CACHE}")
    insert(database, content_type="odd", token_cost=5 * 10 ** 14)
    # The script of each version on the way sets the tables up.
    [(message, detail, hint)] = set(warnings_of(database, UPDATE))
    assert "token_cost" in message and "view public.costs" in detail and "cache_setup()" in hint
    assert list(checks(database)) == ["the tables are those of this version"]
    assert database.value("SELECT token_cost FROM costs WHERE cache_key = 'odd'") == 10 ** 9
    works(database)
    database.execute("DROP VIEW costs; SELECT cache_setup()")
    assert checks(database) == {}
    database.drop()


def test_an_update_of_tables_of_existing_clients(cluster):
    """That 0.1.0 has adopted: they have none of its constraints."""
    database = Database(cluster, extension=False)
    database.execute(LEGACY + legacy_month(0) + "CREATE EXTENSION infinite_pages_cache VERSION '0.1.0'")
    database.execute(f"ALTER TABLE {CACHE} ALTER COLUMN token_cost TYPE numeric")
    before = database.value("SELECT cache_lookup(%s, 'tone', 'k0')", (ALICE,))
    database.execute(UPDATE)
    assert database.value("SELECT cache_lookup(%s, 'tone', 'k0')", (ALICE,)) == before == 0
    assert checks(database).keys() <= {"content is compressed with lz4"}
    database.drop()


# ── an old dump in a new server ──────────────────────────────────────────────────────────────────

@pytest.mark.parametrize("version", RELEASES)
@pytest.mark.parametrize("way", ["script", "archive", "without the roles"])
def test_an_old_dump_restores_into_this_version(cluster, request, way, version):
    database = Database(cluster, extension=False)
    if way == "without the roles":
        play(database, script(database, f"{version}-without-roles.sql"))
    else:
        request.getfixturevalue("known")
        if way == "script":
            play(database, script(database, f"{version}.sql"))
        elif with_lz4(cluster):
            cluster.client("pg_restore", "--exit-on-error", "-d", database.name, RELEASED / f"{version}.dump")
        else:
            play(database, without_lz4(cluster.client("pg_restore", "-f", "-", RELEASED / f"{version}.dump").stdout))
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


@pytest.mark.parametrize("version", RELEASES)
@pytest.mark.parametrize("way", ["update", "dump"])
def test_a_stale_ttl_that_had_no_effect_takes_effect(cluster, known, version, way):
    database = old(cluster, version) if way == "update" else Database(cluster, extension=False)
    if way == "dump":
        play(database, script(database, f"{version}.sql"))
    [[expired]] = database.execute(f"SELECT count(*) FROM {CACHE} WHERE expires_at <= now()")
    # Before the set-up, too, without the index: cleanup is slower, and as right.
    database.execute("UPDATE cache_content_policies SET stale_ttl = '100 years' WHERE content_type = 'setting'")
    database.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, expires_at) VALUES ('{BOB}', 'tone', 'over', '1', '2020-01-01')")
    assert database.value("SELECT sum(deleted_count)::integer FROM cleanup_expired_cache_entries_production()") == 1
    assert "cache_setup()" in checks(database)["cleanup has its index"]
    database.execute(UPDATE if way == "update" else "SELECT cache_setup()")
    assert checks(database) == {}
    assert database.value("SELECT sum(deleted_count)::integer FROM cleanup_expired_cache_entries_production()") == 0
    assert database.value(f"SELECT count(*) FROM {CACHE} WHERE expires_at <= now()") == expired > 0
    works(database)
    assert database.value("SELECT stale_ttl::text FROM cache_content_policies WHERE content_type = 'setting'") == "100 years"
    database.drop()


@pytest.mark.parametrize("version", RELEASES)
def test_content_policies_get_what_leases_need(cluster, known, version):
    database = old(cluster, version)
    hint = checks(database)["the tables are those of this version"]
    assert "cache_setup()" in hint
    detail = database.value("SELECT detail FROM verify_production_cache() WHERE name = 'the tables are those of this version'")
    assert "cache_content_policies has no lease_ttl" in detail and "cache_content_policies has no accept_if" in detail
    database.execute(UPDATE)
    assert database.execute("SELECT DISTINCT lease_ttl::text, accept_if::text FROM cache_content_policies") == [("00:02:00", None)]
    for time in ("0", "999 ms", "25 hours", None):
        assert sqlstate_of(lambda: database.execute("UPDATE cache_content_policies SET lease_ttl = %s", (time,))).sqlstate == ("23502" if time is None else "23514")
    database.execute("UPDATE cache_content_policies SET lease_ttl = '1 second' WHERE content_type = 'tone'")
    database.execute("UPDATE cache_content_policies SET lease_ttl = '1 day' WHERE content_type = 'tone'")
    database.drop()


# ── what is released stays as it is ──────────────────────────────────────────────────────────────

def test_what_is_released_is_frozen():
    for path, digest in digests().items():
        assert hashlib.sha256((ROOT / path).read_bytes()).hexdigest() == digest, (
            f"{path} is released and must not change: databases are made from it. Write a new update script to the next version instead")
    # Every script that leads to an earlier version than this one is released.
    scripts = {f"sql/{path.name}": path.stem.split("--")[-1] for path in (ROOT / "sql").glob("infinite_pages_cache--*.sql")}
    earlier = {path for path, target in scripts.items() if numbers(target) < numbers(VERSION)}
    assert earlier == {path for path in digests() if path.startswith("sql/")}, "enter the scripts of a released version in tests/lifecycle/released/SHA256SUMS"
    assert {f"tests/lifecycle/released/{path.name}" for path in RELEASED.iterdir()} - {"tests/lifecycle/released/SHA256SUMS"} == {
        path for path in digests() if path.startswith("tests/")}
