"""The SQL of the README runs, in order, in one database, and its first screen prints what it shows."""

import re

from conftest import ROOT

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```sql\n(.*?)^```\n", README, re.S | re.M)


def test_first_screen_is_real_output(cluster, empty_database):
    shown = re.search(r"^```sql\n(.*?)^```\n^```\n(.*?)^```\n", README, re.S | re.M)
    statements, output = shown.groups()
    assert README[: shown.end()].count("\n") <= 35, "the first screen must fit a screen"
    assert statements.count(";") == 3
    printed = cluster.client("psql", "-X", "-d", empty_database.name, "-f", "-", input=statements).stdout
    assert printed.strip() == output.strip()


def test_every_sql_block_runs(cluster, empty_database):
    assert len(BLOCKS) > 15
    try:
        script = "\n".join(BLOCKS)
        cluster.client("psql", "-X", "-v", "ON_ERROR_STOP=1", "-d", empty_database.name, "-f", "-", input=script)
    finally:
        with empty_database.connect() as connection:
            for role in ("story_app", "story_backend", "story_editor", "story_exporter"):
                if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (role,)).fetchall():
                    connection.execute(f"DROP OWNED BY {role}")
                    connection.execute(f"DROP ROLE {role}")


def test_every_sql_object_is_in_the_readme(database):
    names = database.execute("""
        SELECT p.proname FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid
        WHERE d.deptype = 'e' AND d.classid = 'pg_proc'::regclass
          AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'infinite_pages_cache')
        UNION SELECT c.relname FROM pg_class c
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition""")
    internal = {"cache_ttl_in", "cache_ttl_out", "cache_ttl_from_interval"}  # the type cache_ttl is in it
    missing = sorted({name for (name,) in names} - internal - set(re.findall(r"\w+", README)))
    assert missing == []


def test_every_setting_is_in_the_readme_with_its_default(database):
    with database.connect() as connection:
        connection.execute("SELECT cache_key('{}')")
        settings = connection.execute("""
            SELECT name, CASE vartype WHEN 'string' THEN boot_val ELSE current_setting(name) END FROM pg_settings WHERE name LIKE 'infinite\\_pages\\_cache.%'""").fetchall()
    assert len(settings) == 18
    for name, default in settings:
        cell = f" `{default}`" if default else ""
        assert f"| `{name}` |{cell} |" in README, name


def test_every_test_that_security_md_names_exists():
    named = re.findall(r"`(\w+/test_\w+\.py)::(test_\w+)`", (ROOT / "SECURITY.md").read_text())
    assert len(named) > 20
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(), (file, test)
