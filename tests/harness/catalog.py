"""The state of a cache in the catalogs and tables, as a dictionary to compare: dumps must carry it, and a second set-up must not change it."""

import re

QUERIES = {
    "columns": """
        SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity::text,
               a.attstorage::text, a.attcompression::text, pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum)
        FROM ours c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
        WHERE c.relkind IN ('r', 'p', 'v')""",
    "relations": """
        SELECT relname, relkind::text, pg_get_userbyid(relowner), reloptions, relrowsecurity, relforcerowsecurity,
               pg_get_expr(relpartbound, oid), obj_description(oid, 'pg_class'),
               (SELECT i.inhparent::regclass::text FROM pg_inherits i WHERE i.inhrelid = c.oid)
        FROM ours c""",
    "indexes": """
        SELECT c.relname, pg_get_indexdef(x.indexrelid), x.indisvalid
        FROM ours c JOIN pg_index x ON x.indrelid = c.oid""",
    "constraints": """
        SELECT c.relname, n.conname, pg_get_constraintdef(n.oid), n.conislocal, n.coninhcount FROM ours c JOIN pg_constraint n ON n.conrelid = c.oid
        WHERE n.contype <> 'n' -- PostgreSQL 18 has one for each column that is NOT NULL, which stands above
        """,
    "policies": """
        SELECT c.relname, p.polname, p.polcmd::text, p.polpermissive,
               ARRAY(SELECT CASE r WHEN 0 THEN 'public' ELSE pg_get_userbyid(r) END FROM unnest(p.polroles) r ORDER BY 1),
               pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)
        FROM ours c JOIN pg_policy p ON p.polrelid = c.oid""",
    "table grants": """
        SELECT c.relname, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END,
               a.privilege_type, a.is_grantable
        FROM ours c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a WHERE c.relkind IN ('r', 'p', 'v')""",
    "function grants": """
        SELECT p.oid::regprocedure::text, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END,
               a.privilege_type, a.is_grantable
        FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
        WHERE p.pronamespace = {schema}::regnamespace""",
    "functions": """
        SELECT p.oid::regprocedure::text, p.provolatile::text, p.prosecdef, p.proleakproof, p.proconfig, p.procost, p.prorows,
               p.proparallel::text, p.proisstrict, p.prosrc, p.probin, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid),
               obj_description(p.oid, 'pg_proc') FROM pg_proc p WHERE p.pronamespace = {schema}::regnamespace""",
    "schema grants": """
        SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END, a.privilege_type
        FROM pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
        WHERE n.oid = {schema}::regnamespace""",
    "members": """
        SELECT pg_describe_object(d.classid, d.objid, 0) FROM pg_depend d
        WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
          AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'infinite_pages_cache')""",
    "sequences": """
        SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = {schema}""",
}


# The former cache_upsert(), which a restore creates because older dumps grant it, and which maintenance and cache_setup() drop.
FORMER = re.compile(r"cache_upsert\(uuid, ?text, ?text, ?jsonb, ?(\S+\.)?cache_ttl, ?jsonb, ?numeric,")


def former_functions(database, schema="public"):
    with database.connect() as connection:
        functions = connection.execute("SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = %s::regnamespace", (schema,)).fetchall()
        return [name for (name,) in functions if FORMER.search(name)]


def state(database, schema="public"):
    """All of the extension's schema that a user could miss, in an order that does not depend on OIDs."""
    with database.connect() as connection:
        connection.execute("SET search_path = pg_catalog; SET TimeZone = 'UTC'")

        def rows(query):
            query = "WITH ours AS (SELECT * FROM pg_class WHERE relnamespace = {schema}::regnamespace) " + query
            return sorted(connection.execute(query.replace("{schema}", f"'{schema}'")).fetchall(), key=repr)

        found = {name: rows(query) for name, query in QUERIES.items()}
        if connection.execute("SELECT extversion >= '0.3' FROM pg_extension WHERE extname = 'infinite_pages_cache'").fetchone() == (True,):
            for part in ("functions", "function grants", "members"):
                found[part] = [row for row in found[part] if not FORMER.search(row[0])]
        tables = [row[0] for row in rows("SELECT relname FROM ours WHERE relkind IN ('r', 'p')")]
        found["rows"] = {
            table: connection.execute(
                f"SELECT count(*), md5(string_agg(t::text, chr(10) ORDER BY t::text COLLATE \"C\")) FROM {schema}.\"{table}\" t"
            ).fetchone() for table in tables}
        return found
