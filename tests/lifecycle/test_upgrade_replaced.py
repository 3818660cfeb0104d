"""An update that creates a function anew, because its arguments or columns have changed, keeps what an operator gave the old one,
and refuses while something of a user's stands on it."""

import re

import pytest

from harness.catalog import former_functions
from harness.cluster import ROOT
from harness.database import Database
from harness.dumps import same
from harness.entries import ALICE
from harness.errors import sqlstate_of
from harness.upgrade import RELEASES, UPDATE, VERSION, catalog, fresh, old, play

SCRIPT = (ROOT / "sql/infinite_pages_cache--0.2.0--0.3.0.sql").read_text()
# Each function with the arguments of the version before, as the script renames it.
REPLACED = {name: arguments.replace("@extschema@.", "") for name, arguments in
            re.findall(r"ALTER FUNCTION @extschema@\.(\w+)\(([^)]*)\)\s+RENAME TO replaced_\w+;", SCRIPT)}
# A call that PostgreSQL can plan, for a view or the body of a function.
CALLS = {name: f"{name}({', '.join(f'NULL::{of_type.strip()}' for of_type in arguments.split(',') if of_type.strip())})"
         for name, arguments in REPLACED.items()}
VIEWS = [name for name in REPLACED if f"CREATE OR REPLACE VIEW @extschema@.{name}" in SCRIPT]


def there(version):
    """Those that a released version has."""
    script = (ROOT / f"sql/infinite_pages_cache--{version}.sql").read_text()
    return [name for name in REPLACED if f"FUNCTION @extschema@.{name}(" in script]


FUNCTIONS = [(version, name) for version in RELEASES for name in there(version)]
each_function = pytest.mark.parametrize(("version", "name"), FUNCTIONS, ids=lambda value: value)


def version_of(database):
    return database.value("SELECT extversion FROM pg_extension WHERE extname = 'infinite_pages_cache'")


def grants(database, name):
    """Without the arguments, which differ."""
    return sorted((grantor, grantee, grantable) for grantor, grantee, grantable in database.execute(
        "SELECT a.grantor::regrole::text, a.grantee::regrole::text, a.is_grantable FROM pg_proc p, "
        "aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a WHERE p.pronamespace = 'public'::regnamespace AND p.proname = %s", (name,)))


def comment(database, name):
    return database.value("SELECT obj_description(oid, 'pg_proc') FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proname = %s", (name,))


def test_the_script_replaces_what_has_changed():
    """Those are all functions of 0.2.0 whose arguments or columns are others now."""
    def declarations(script):
        found = re.findall(r"CREATE FUNCTION @extschema@\.(\w+)(\(.*?)\s+LANGUAGE c", script, re.S)
        return {name: re.sub(r"\s+", " ", declaration) for name, declaration in found}

    before = declarations((ROOT / "sql/infinite_pages_cache--0.2.0.sql").read_text())
    now = declarations((ROOT / "sql/schema/functions.sql").read_text() + (ROOT / "sql/schema/views.sql").read_text())
    assert before.keys() <= now.keys()
    assert {name for name in before if before[name] != now[name]} == set(REPLACED) and REPLACED
    # The update declares each as a fresh installation does.
    updated = declarations(SCRIPT)
    assert {name: updated[name] for name in REPLACED} == {name: now[name] for name in REPLACED}


# What a user can have that depends on a function: how it is made, dropped, and named in an error.
USES = {
    "view": ("CREATE VIEW of_a_user AS SELECT count(*) FROM {call}", "DROP VIEW of_a_user", "view public.of_a_user"),
    "function": ("CREATE FUNCTION of_a_user() RETURNS bigint LANGUAGE sql BEGIN ATOMIC; SELECT count(*) FROM {call}; END",
                 "DROP FUNCTION of_a_user()", "function public.of_a_user()"),
    # No set can be a default.
    "default": ("CREATE TABLE of_a_user (x boolean DEFAULT ({call} IS NULL))", "DROP TABLE of_a_user", "default value for column x of table public.of_a_user"),
}
RETURN_SETS = {name for name in REPLACED if "RETURNS TABLE" in re.search(rf"CREATE FUNCTION @extschema@\.{name}\(.*?LANGUAGE", SCRIPT, re.S)[0]}


@pytest.mark.parametrize(("version", "name", "use"), [(version, name, use) for version, name in FUNCTIONS for use in USES
                                                      if use != "default" or name not in RETURN_SETS])
def test_an_update_refuses_while_something_of_a_users_stands_on_what_it_replaces(cluster, known, version, name, use):
    database = old(cluster, version)
    make, drop, named = USES[use]
    database.execute(make.format(call=CALLS[name]))
    before = catalog(database)
    error = sqlstate_of(lambda: database.execute(UPDATE))
    assert error.sqlstate == "2BP01" and named in error.message_detail and f"{name}(" in error.message_detail and "Drop" in error.message_hint
    assert version_of(database) == version
    same(catalog(database), before)
    database.execute(drop)
    database.execute(UPDATE)
    assert version_of(database) == VERSION
    database.drop()


@each_function
def test_an_update_keeps_grants_and_an_operators_comment(cluster, known, version, name):
    database = old(cluster, version)
    signature = f"{name}({REPLACED[name]})"
    database.execute(f"""
        REVOKE ALL ON FUNCTION {signature} FROM PUBLIC, app_tenant;
        GRANT EXECUTE ON FUNCTION {signature} TO app_reader WITH GRANT OPTION;
        GRANT USAGE ON SCHEMA public TO app_reader, anon;
        SET ROLE app_reader; GRANT EXECUTE ON FUNCTION {signature} TO anon WITH GRANT OPTION;
        SET ROLE anon; GRANT EXECUTE ON FUNCTION {signature} TO app_service; RESET ROLE;
        COMMENT ON FUNCTION {signature} IS 'ours, it''s "kept"'""")
    before = grants(database, name)
    assert ("app_reader", "anon", True) in before and ("anon", "app_service", False) in before
    database.execute(f"ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO service_role, app_reader; {UPDATE}")
    # cache_setup() renews what tenants and services of the tables have.
    renewed = {("postgres", role, False) for role in ("app_tenant", "app_service", "authenticated", "service_role", "pg_database_owner", "pg_monitor")}
    assert set(before) <= set(grants(database, name)) <= set(before) | renewed
    assert comment(database, name) == 'ours, it\'s "kept"'
    database.drop()


@each_function
def test_an_update_renews_a_comment_that_nobody_has_changed(cluster, known, version, name):
    database = old(cluster, version)
    database.execute(UPDATE)
    expected = fresh(cluster, database)
    assert comment(database, name) == comment(expected, name)
    assert grants(database, name) == grants(expected, name)
    for one in (database, expected):
        one.drop()


@pytest.mark.parametrize("version", RELEASES)
def test_an_update_keeps_the_owner_of_what_it_replaces(cluster, known, version):
    database = old(cluster, version)
    for name in there(version):
        database.execute(f"ALTER FUNCTION {name}({REPLACED[name]}) OWNER TO app_reader")
    database.execute(UPDATE)
    assert {name: database.value("SELECT proowner::regrole::text FROM pg_proc WHERE proname = %s", (name,)) for name in there(version)} == {
        name: "app_reader" for name in there(version)}
    database.drop()


@pytest.mark.parametrize("version", RELEASES)
@pytest.mark.parametrize("view", VIEWS)
def test_an_update_leaves_what_stands_on_a_view_with_new_columns(cluster, known, version, view):
    """The view stays: columns come at its end."""
    database = old(cluster, version)
    database.execute(f"""
        CREATE VIEW of_a_user AS SELECT * FROM {view};
        CREATE FUNCTION of_a_user() RETURNS bigint LANGUAGE sql BEGIN ATOMIC; SELECT count(*) FROM {view}; END;
        GRANT SELECT ON {view} TO app_reader WITH GRANT OPTION;
        COMMENT ON VIEW {view} IS 'ours';
        COMMENT ON COLUMN {view}.content_type IS 'ours, too'""")
    about = ("SELECT oid, obj_description(oid, 'pg_class'), col_description(oid, 1) FROM pg_class WHERE oid = %s::regclass", (view,))
    rights = ("SELECT unnest(relacl)::text FROM pg_class WHERE oid = %s::regclass", (view,))
    before, granted = database.execute(*about), set(database.execute(*rights))
    database.execute(UPDATE)
    assert database.execute(*about) == before and granted <= set(database.execute(*rights))
    assert database.value("SELECT count(*) FROM of_a_user") == database.value("SELECT of_a_user()") > 0
    database.drop()


COMMENTED = {"type": "TYPE cache_ttl", "function": "FUNCTION cache_key(jsonb)", "view": "VIEW cache_performance_metrics"}


@pytest.mark.parametrize("kind", COMMENTED)
def test_an_update_keeps_an_operators_comment_on_what_it_does_not_replace(cluster, known, kind):
    """That it renews one that nobody has changed, the comparison with a fresh installation shows."""
    database = old(cluster, "0.2.0")
    database.execute(f"COMMENT ON {COMMENTED[kind]} IS 'ours'")
    database.execute(UPDATE)
    name = COMMENTED[kind].split()[1]
    described = {"type": ("pg_type", "regtype"), "function": ("pg_proc", "regprocedure"), "view": ("pg_class", "regclass")}[kind]
    assert database.value(f"SELECT obj_description('{name}'::{described[1]}, '{described[0]}')") == "ours"
    database.drop()


# ── grants in dumps of older versions ────────────────────────────────────────────────────────────

def restored(cluster, tmp_path):
    """A dump of 0.2.0 in which an operator has closed cache_upsert() to all but two roles."""
    source, target = old(cluster, "0.2.0"), Database(cluster, extension=False)
    source.execute("""
        REVOKE ALL ON FUNCTION cache_upsert FROM PUBLIC;
        GRANT EXECUTE ON FUNCTION cache_upsert TO app_reader WITH GRANT OPTION""")
    cluster.client("pg_dump", "-d", source.name, "-f", tmp_path / "dump")
    play(target, (tmp_path / "dump").read_text())
    granted = grants(source, "cache_upsert")
    source.drop()
    assert len(former_functions(target)) == 1
    return target, granted


def granted_now(database):
    found = database.execute("SELECT a.grantor::regrole::text, a.grantee::regrole::text, a.is_grantable FROM pg_proc p, aclexplode(p.proacl) a "
                             "WHERE p.oid = %s::regprocedure", (NOW,))
    return sorted(found)


NOW = "cache_upsert(uuid,text,text,jsonb,cache_ttl,jsonb,double precision,text,jsonb,uuid,text,integer,text,double precision,timestamptz,uuid)"


@pytest.mark.parametrize("way", ["SELECT cache_setup()", "SELECT * FROM cache_run_maintenance()"])
def test_what_an_old_dump_grants_on_a_function_goes_to_the_one_of_now(cluster, known, tmp_path, way):
    database, granted = restored(cluster, tmp_path)
    database.execute(way)
    assert former_functions(database) == []
    assert set(granted) <= set(granted_now(database)) and ("postgres", "-", False) not in granted_now(database)
    # A dump of this version names it by what it is now.
    cluster.client("pg_dump", "-d", database.name, "-f", tmp_path / "again")
    target = Database(cluster, extension=False)
    play(target, (tmp_path / "again").read_text())
    target.execute("SELECT * FROM cache_run_maintenance()")
    assert former_functions(target) == [] and granted_now(target) == granted_now(database)
    for one in (database, target):
        one.drop()


def test_a_call_finds_the_function_of_now_while_the_one_of_a_dump_is_there(cluster, known, tmp_path):
    database, _ = restored(cluster, tmp_path)
    for number, arguments in enumerate(["", ", token_cost => 0.5", ", token_cost => 5, ttl => 60", ", NULL, NULL, NULL", ", token_cost => '1'"]):
        assert database.value(f"SELECT cache_upsert('{ALICE}', 't', 'k{number}', '1'{arguments}) IS NOT NULL")
    # Who was not granted what the dump granted may not call the other one, either.
    with database.connect() as connection:
        connection.execute("SET ROLE anon")
        sql = f"SELECT cache_upsert('{ALICE}', 't', 'k', '1', NULL, NULL, 1.5::numeric, NULL, NULL, NULL, NULL, NULL, NULL, 1.5::numeric, NULL)"
        assert sqlstate_of(lambda: connection.execute(sql)).sqlstate == "42501"
    database.drop()


def test_an_installation_has_one_function_of_each_name(cluster):
    database = Database(cluster)
    twice = ("SELECT proname FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.deptype = 'e' JOIN pg_extension e ON e.oid = d.refobjid "
             "WHERE e.extname = 'infinite_pages_cache' GROUP BY 1 HAVING count(*) > 1")
    assert database.execute(twice) == []
    database.drop()
