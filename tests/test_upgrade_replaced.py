"""An update that creates a function anew, because its arguments or columns have changed, keeps what an operator gave the old one,
and refuses while something of a user's stands on it."""

import re

import pytest

from conftest import ROOT, sqlstate_of
from test_restore import same
from upgrade import RELEASES, UPDATE, VERSION, catalog, fresh, known, old  # noqa: F401

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
    now = declarations((ROOT / "sql/functions.sql").read_text() + (ROOT / "sql/views.sql").read_text())
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
    renewed = {("postgres", role, False) for role in ("app_tenant", "app_service", "authenticated", "service_role", "pg_database_owner")}
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
    about = ("SELECT relacl::text, obj_description(oid, 'pg_class'), col_description(oid, 1) FROM pg_class WHERE oid = %s::regclass", (view,))
    before = database.execute(*about)
    database.execute(UPDATE)
    assert database.execute(*about) == before
    assert database.value("SELECT count(*) FROM of_a_user") == database.value("SELECT of_a_user()") > 0
    database.drop()
