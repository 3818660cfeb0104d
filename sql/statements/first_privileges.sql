-- The members of the extension in schema $1 whose initial privileges name a role. For each, the statements that revoke
-- every grant, grant the initial privileges of this version, and grant again what was granted.
WITH member AS (
    SELECT 'FUNCTION' AS kind, p.oid::regprocedure::text AS name, p.proacl AS acl, p.proowner AS owner, i.initprivs AS first
    FROM pg_proc p JOIN pg_init_privs i ON i.classoid = 'pg_proc'::regclass AND i.objoid = p.oid WHERE p.pronamespace = $1
    UNION ALL
    SELECT 'TYPE', t.oid::regtype::text, t.typacl, t.typowner, i.initprivs
    FROM pg_type t JOIN pg_init_privs i ON i.classoid = 'pg_type'::regclass AND i.objoid = t.oid WHERE t.typnamespace = $1
    UNION ALL
    SELECT 'VIEW', c.oid::regclass::text, c.relacl, c.relowner, i.initprivs
    FROM pg_class c JOIN pg_init_privs i ON i.classoid = 'pg_class'::regclass AND i.objoid = c.oid AND i.objsubid = 0
    WHERE c.relnamespace = $1 AND c.relkind = 'v'
),
-- GRANT has no keyword VIEW: a view is granted as a TABLE.
object AS (
    SELECT *, replace(kind, 'VIEW', 'TABLE') || ' ' || name AS target FROM member
    WHERE EXISTS (SELECT FROM aclexplode(first) WHERE grantee NOT IN (0, owner, '@watcher@'::regrole))
),
entry AS (
    SELECT o.target, set.is_first, a.grantee, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS role,
           a.privilege_type || ' ON ' || o.target AS what, CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END AS option
    FROM object o, LATERAL (VALUES (true, o.first), (false, o.acl)) set (is_first, acl), aclexplode(set.acl) a
    WHERE a.grantee <> o.owner AND (a.grantee = 0 OR a.grantee IN (SELECT oid FROM pg_roles))
)
SELECT kind || ' ' || name,
       ARRAY(SELECT DISTINCT 'REVOKE ALL ON ' || o.target || ' FROM ' || role || ' CASCADE' FROM entry e WHERE e.target = o.target),
       ARRAY(SELECT 'GRANT ' || what || ' TO ' || role FROM entry e
             WHERE e.target = o.target AND is_first AND grantee IN (0, '@watcher@'::regrole)),
       ARRAY(SELECT 'GRANT ' || what || ' TO ' || role || option FROM entry e WHERE e.target = o.target AND NOT is_first)
FROM object o
