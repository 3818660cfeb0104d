-- What stands in the catalog: tables, functions, settings, and what each is said to be.
-- Months depend on the day, and which roles policies are for on the roles of the server: neither stands here.
BEGIN;
SET LOCAL client_min_messages = error;
DO $$
DECLARE
    command text;
BEGIN
    FOR command IN
        SELECT format('DROP TABLE %s', inhrelid::regclass) FROM pg_inherits
        WHERE inhparent IN ('infinite_pages_cache_partitioned'::regclass, 'cache_audit_log'::regclass)
        UNION ALL
        SELECT format('ALTER POLICY %I ON %s TO PUBLIC', polname, polrelid::regclass) FROM pg_policy
    LOOP
        EXECUTE command;
    END LOOP;
END $$;
\d infinite_pages_cache_partitioned
\d cache_content_policies
\d cache_audit_log
\d cache_statistics_hourly
\d cache_maintenance_runs
\d cache_entry_summary
\d cache_user_summary
ROLLBACK;

-- One line a row, as wide as it is.
\pset format unaligned
\pset fieldsep ' | '

SELECT p.oid::regprocedure AS function, provolatile AS volatile, proparallel AS parallel, prosecdef AS definer, obj_description(p.oid, 'pg_proc') AS comment
FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND e.extname = 'infinite_pages_cache'
ORDER BY p.oid::regprocedure::text COLLATE "C";

SELECT relname AS view, string_agg(attname, ', ' ORDER BY attnum) AS columns, obj_description(c.oid, 'pg_class') AS comment
FROM pg_class c JOIN pg_attribute ON attrelid = c.oid
WHERE relnamespace = 'public'::regnamespace AND relkind = 'v' AND attnum > 0 AND NOT attisdropped
GROUP BY c.oid, relname ORDER BY relname COLLATE "C";

SELECT relname AS table, obj_description(oid, 'pg_class') AS comment
FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
ORDER BY relname COLLATE "C";

SELECT relname || '.' || attname AS column, col_description(c.oid, attnum) AS comment
FROM pg_class c JOIN pg_attribute ON attrelid = c.oid
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition AND attnum > 0 AND NOT attisdropped
ORDER BY relname COLLATE "C", attnum;

-- Those that size shared memory are there only if the library is preloaded.
LOAD 'infinite_pages_cache';
SELECT name AS setting, boot_val AS "default", unit, context, short_desc AS description
FROM pg_settings WHERE name LIKE 'infinite\_pages\_cache.%' AND context <> 'postmaster' ORDER BY name COLLATE "C";
