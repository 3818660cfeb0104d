"""Alice's data in every table, and calls of every function that aim at them."""

import json

from harness.entries import ALICE
from harness.roles import acting

SECRET = "the words of alice"


def fill_for_alice(database):
    """Give Alice entries, audit rows and archived ones, in partitions of their own."""
    with database.connect() as connection:
        with acting(connection, ALICE):
            for key in ("k", "k2"):
                connection.execute(
                    "SELECT cache_upsert(%s, 't', %s, to_jsonb(%s::text), metadata => '{\"tag\": \"a\"}', foundation_dependency => 'f')",
                    (ALICE, key, SECRET))
        connection.execute("SELECT create_monthly_cache_partition('2031-05-01')")
        connection.execute("INSERT INTO infinite_pages_cache_partitioned (user_id, content_type, cache_key, content, created_at) "
                           "VALUES (%s, 't', 'later', to_jsonb(%s::text), '2031-05-02')", (ALICE, SECRET))
        connection.execute(
            "CREATE TABLE cache_audit_log_2001_01 PARTITION OF cache_audit_log FOR VALUES FROM ('2001-01-01 00:00+00') TO ('2001-02-01 00:00+00')")
        connection.execute("INSERT INTO cache_audit_log (user_id, action, timestamp) VALUES (%s, 'upsert', '2001-01-09')", (ALICE,))
        connection.execute("SELECT cache_setup()")
        connection.execute("SELECT archive_audit_logs('1000 days')")
        connection.execute("ANALYZE")


# Arguments that aim at Alice's entry, by name. An argument that is not listed is NULL.
ARGUMENTS = {
    "user_id": ALICE, "content_type": "t", "cache_key": "k", "cache_keys": "{k}", "content": '"stolen"', "ttl": "1 day",
    "metadata": '{"tag": "a"}', "foundation_dependency": "f", "entries": json.dumps(
        [{"user_id": ALICE, "content_type": "t", "cache_key": "k", "content": "stolen"}]),
    "role": "authenticated", "target_date": "2031-05-01", "months_to_keep": "1", "include_live": "true",
    "older_than": "1 second", "request": "{}", "value": "1 day", "max_results": "10", "per": "entry", "pending": "false",
    "wait": "0", "lease": "b0b00000-0000-8000-8000-000000000002", "failed": "false", "retry_after": "5 seconds", "buckets": "{1,2}", "share": "0.5", "within": "1 day",
}


def function_statements(connection):
    """A call of each function of the extension."""
    functions = connection.execute(
        """SELECT p.oid::regproc::text, coalesce(p.proargnames[:p.pronargs], '{}'),
                  ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) WITH ORDINALITY a (t, n) ORDER BY n)
           FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
           JOIN pg_extension e ON e.oid = d.refobjid WHERE e.extname = 'infinite_pages_cache' ORDER BY 1""").fetchall()
    statements = []
    for function, names, types in functions:
        values = [ARGUMENTS.get(name) for name in names] or [None] * len(types)
        literals = ["NULL" if value is None else f"'{value}'" for value in values]
        statements.append(f"SELECT {function}({', '.join(f'{value}::{kind}' for value, kind in zip(literals, types))})")
    return statements
