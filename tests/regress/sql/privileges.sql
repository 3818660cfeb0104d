-- What each grant allows: a role without any, a tenant, a service, a monitor.
SET client_min_messages = error;
DROP ROLE IF EXISTS regress_cache_nobody, regress_cache_tenant, regress_cache_service, regress_cache_monitor;
RESET client_min_messages;
CREATE ROLE regress_cache_nobody;
CREATE ROLE regress_cache_tenant;
CREATE ROLE regress_cache_service;
CREATE ROLE regress_cache_monitor;
SELECT cache_grant_tenant('regress_cache_tenant');
SELECT cache_grant_service('regress_cache_service');
SELECT cache_grant_monitor('regress_cache_monitor');

-- Functions. What anybody may execute checks for itself who calls.
SELECT proname AS function,
       has_function_privilege('regress_cache_nobody', p.oid, 'EXECUTE') AS nobody,
       has_function_privilege('regress_cache_tenant', p.oid, 'EXECUTE') AS tenant,
       has_function_privilege('regress_cache_service', p.oid, 'EXECUTE') AS service,
       has_function_privilege('regress_cache_monitor', p.oid, 'EXECUTE') AS monitor
FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND e.extname = 'infinite_pages_cache'
ORDER BY proname COLLATE "C";

-- Tables and views: SELECT, INSERT, UPDATE, DELETE.
SELECT relname AS relation, nobody, tenant, service, monitor
FROM pg_class, LATERAL (
    SELECT max(mine) FILTER (WHERE role = 'nobody') AS nobody, max(mine) FILTER (WHERE role = 'tenant') AS tenant,
           max(mine) FILTER (WHERE role = 'service') AS service, max(mine) FILTER (WHERE role = 'monitor') AS monitor
    FROM (SELECT role, string_agg(CASE WHEN has_table_privilege('regress_cache_' || role, pg_class.oid, privilege) THEN left(privilege, 1) ELSE '-' END, '' ORDER BY number) AS mine
          FROM unnest(ARRAY['nobody', 'tenant', 'service', 'monitor']) AS role,
               unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) WITH ORDINALITY AS privileges (privilege, number)
          GROUP BY role) AS roles) AS granted
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v') AND NOT relispartition
ORDER BY relname COLLATE "C";

-- A partition cannot be reached but through its table.
SELECT role, bool_or(has_table_privilege('regress_cache_' || role, inhrelid, 'SELECT, INSERT, UPDATE, DELETE')) AS reaches_partitions
FROM pg_inherits, unnest(ARRAY['nobody', 'tenant', 'service', 'monitor']) AS role
WHERE inhparent IN ('infinite_pages_cache_partitioned'::regclass, 'cache_audit_log'::regclass)
GROUP BY role ORDER BY role COLLATE "C";

-- What DROP OWNED leaves of them.
DROP OWNED BY regress_cache_nobody, regress_cache_tenant, regress_cache_service, regress_cache_monitor;
SELECT has_function_privilege('regress_cache_tenant', 'cache_upsert_many(jsonb)', 'EXECUTE') AS may_upsert,
       has_table_privilege('regress_cache_tenant', 'infinite_pages_cache_partitioned', 'SELECT') AS may_read;
DROP ROLE regress_cache_nobody, regress_cache_tenant, regress_cache_service, regress_cache_monitor;
