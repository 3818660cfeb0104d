"""docs/reference.md has every object of the extension as it is, and docs/settings.md every setting."""

import re

import psycopg
import pytest

from harness.cluster import ROOT
from harness.database import Database
from harness.roles import temporary_roles

REFERENCE = (ROOT / "docs/reference.md").read_text()
SETTINGS = (ROOT / "docs/settings.md").read_text()
SECTIONS = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##)", REFERENCE, re.S | re.M))
# The type cache_ttl has them.
OF_A_TYPE = {"cache_ttl_in", "cache_ttl_out", "cache_ttl_from_interval"}
OF_EXTENSION = "d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'infinite_pages_cache')"
TABLES = "relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition"


def examples(text):
    return "\n".join(re.findall(r"^```sql\n(.*?)^```\n", text, re.S | re.M))


def short(text):
    """A signature without the casts of its defaults, by the names of types that people write."""
    text = text.replace("timestamp with time zone", "timestamptz").replace("timestamp without time zone", "timestamp")
    return re.sub(r"::[a-z_ ]+(?=[,)])", "", " ".join(text.split()))


@pytest.fixture(scope="module")
def functions(cluster):
    database = Database(cluster)
    yield {name: short(f"{name}({arguments}) → {result}") for name, arguments, result in database.execute(f"""
        SELECT p.proname, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid)
        FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid WHERE d.classid = 'pg_proc'::regclass AND {OF_EXTENSION}""")}
    database.drop()


def test_every_object_has_a_section_and_no_other_has(database, functions):
    members = {name for (name,) in database.execute(f"""
        SELECT relname FROM pg_class c JOIN pg_depend d ON d.objid = c.oid WHERE d.classid = 'pg_class'::regclass AND {OF_EXTENSION}
        UNION SELECT typname FROM pg_type t JOIN pg_depend d ON d.objid = t.oid WHERE d.classid = 'pg_type'::regclass AND {OF_EXTENSION}
        UNION SELECT relname FROM pg_class WHERE {TABLES}""")}
    assert set(SECTIONS) == members | set(functions) - OF_A_TYPE | {"cache_audit_archive"}
    assert all(f"`{name}`" in SECTIONS["cache_ttl"] for name in OF_A_TYPE)
    # There are members of no other kind, but casts to the type.
    kinds = {kind for (kind,) in database.execute(f"SELECT DISTINCT classid::regclass::text FROM pg_depend d WHERE {OF_EXTENSION}")}
    assert kinds == {"pg_proc", "pg_class", "pg_type", "pg_cast"}


def test_functions_have_their_signatures_and_an_example(functions):
    shown = {name: " ".join(found[1].split()) for name, section in SECTIONS.items() if (found := re.match(r"\n```text\n(.*?)^```\n", section, re.S | re.M))}
    assert shown == {name: signature for name, signature in functions.items() if name not in OF_A_TYPE}
    assert [name for name, section in SECTIONS.items() if not re.search(rf"\b{name}\b", examples(section)) and name != "cache_audit_archive"] == []


def test_the_table_of_rights_says_who_may_call_what(database):
    rows = dict(re.findall(r"^\| ([^|`]+) \| (.*) \|$", REFERENCE[REFERENCE.index("## Names and rights"):REFERENCE.index("## Keys")], re.M))
    named = {who: set(re.findall(r"`(\w+)`", cell)) for who, cell in rows.items()}
    # A link to a part of the page stands for the functions in it.
    parts = {title: set(re.findall(r"^### `(\w+)`", text, re.M)) for title, text in re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", REFERENCE, re.S | re.M)}
    with temporary_roles(database.cluster, "somebody", "tenant", "service", "monitor"):
        for role in ("tenant", "service", "monitor"):
            database.execute(f"SELECT cache_grant_{role}('{role}')")
        may = {role: {name for (name,) in database.execute(f"""
            SELECT proname FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid
            WHERE d.classid = 'pg_proc'::regclass AND {OF_EXTENSION} AND has_function_privilege('{role}', p.oid, 'EXECUTE')""")} - OF_A_TYPE
               for role in ("somebody", "tenant", "service", "monitor", "pg_read_all_data", "pg_database_owner", "postgres")}
        database.execute("DROP OWNED BY somebody, tenant, service, monitor")
    watched = may["monitor"] - may["somebody"]
    assert may["pg_read_all_data"] == may["monitor"]
    assert (parts["Keys"] | parts["Read"] | parts["Generate once"] | parts["Write"] | parts["Invalidate"] | named["everybody"]) - {"cache_forget_user", "cache_invalidate_content_type_for_all_users"} == may["somebody"]
    assert named["tenants and services"] == may["tenant"] - may["somebody"]
    assert named["services"] == may["service"] - may["tenant"] - watched
    assert (parts["Reports"] | named["services, monitors, pg_read_all_data"]) - may["somebody"] == watched
    assert named["the owner"] == may["pg_database_owner"] - may["service"]
    assert named["who has created the extension"] == may["postgres"] - may["pg_database_owner"]


def test_tables_have_their_columns(database):
    rows = database.execute(f"""
        SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE {TABLES} AND a.attnum > 0 AND NOT a.attisdropped ORDER BY c.relname, a.attnum""")
    found = {(table, column): short(kind) for table, column, kind in rows}
    shown = {(name, column): kind for name, section in SECTIONS.items() for column, kind in re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section, re.M)}
    assert shown == found


def test_row_policies_and_roles_have_their_rows(roles, empty_database):
    empty_database.execute("CREATE EXTENSION infinite_pages_cache")
    policies = {name for (name,) in empty_database.execute("SELECT DISTINCT polname FROM pg_policy")}
    granted = {name for (name,) in empty_database.execute("""
        SELECT DISTINCT g.rolname FROM (SELECT relacl, relowner, relnamespace FROM pg_class UNION ALL SELECT proacl, proowner, pronamespace FROM pg_proc) o (acl, owner, place),
            aclexplode(o.acl) a JOIN pg_roles g ON g.oid = a.grantee WHERE o.place = 'public'::regnamespace AND a.grantee <> o.owner""")}
    rows = re.findall(r"^\| `(\w+)` \|", REFERENCE[REFERENCE.index("\n## Row policies"):], re.M)
    assert sorted(rows) == sorted(policies | granted) and len(granted) == 5


def test_every_setting_has_a_row_with_its_default(database):
    with database.connect() as connection:
        connection.execute("SELECT cache_key('{}')")
        settings = connection.execute("""
            SELECT name, CASE vartype WHEN 'string' THEN boot_val ELSE current_setting(name) END FROM pg_settings WHERE name LIKE 'infinite\\_pages\\_cache.%'""").fetchall()
    assert len(settings) == 22
    for name, default in settings:
        cell = f" `{default}`" if default else ""
        assert f"| `{name}` |{cell} |" in SETTINGS, name
    assert SETTINGS.count("| `infinite_pages_cache.") == len(settings)


def test_every_step_of_maintenance_has_its_row(database):
    page = (ROOT / "docs/operations.md").read_text()
    table = page[page.index("| step | does |"):page.index("`infinite_pages_cache.skip_steps`")]
    named = [step for cell in re.findall(r"^\| (`[^|]+`) \|", table, re.M) for step in re.findall(r"`([^`]+)`", cell)]
    assert sorted(named) == sorted(step for (step,) in database.execute("SELECT step FROM cache_run_maintenance()"))


def test_the_states_of_the_worker_are_those_of_the_source():
    page, sources = (ROOT / "docs/monitoring.md").read_text(), "".join(file.read_text() for file in (ROOT / "src").rglob("*.rs"))
    states = re.findall(r"`([^`]+)`", "".join(re.findall(r"^\| ([^|]+) \|", page[page.index("| `worker` | means |"):page.index("`last_success`")], re.M)[1:]))
    assert len(states) == 8 and [state for state in states if f'"{state}"' not in sources] == []


def test_an_sqlstate_that_the_source_raises_has_a_row():
    raised = {name for file in (ROOT / "src").rglob("*.rs") for name in re.findall(r"Refusal::new\(\s*PgSqlErrorCode::ERRCODE_(\w+)", file.read_text())}
    rows = re.findall(r"^\| ([0-9A-Z, ]+) \|", (ROOT / "docs/errors.md").read_text(), re.M)
    listed = {code for row in rows for code in row.split(", ")}
    assert len(raised) > 10
    assert {sqlstate_of_name(name) for name in raised} <= listed


def sqlstate_of_name(name):
    """As psycopg knows it, which names its exceptions after PostgreSQL's codes."""
    return getattr(psycopg.errors, name.removeprefix("T_R_").title().replace("_", "")).sqlstate
