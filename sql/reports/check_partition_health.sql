WITH partition AS (
    SELECT relname::text AS name, oid, relrowsecurity, starts, ends FROM @partitions@ p
    WHERE parent = '@extschema@.infinite_pages_cache_partitioned'::regclass
),
finding AS (
    SELECT name, starts, 'row security is off' AS detail,
           'ALTER TABLE @extschema@.' || quote_ident(name) || ' ENABLE ROW LEVEL SECURITY;' AS hint
    FROM partition WHERE NOT relrowsecurity
    UNION ALL
    SELECT name, starts, 'the unique index of its entries is missing or invalid',
           'Run SELECT @extschema@.cache_setup();'
    FROM partition p
    WHERE NOT EXISTS (SELECT FROM @entry_indexes@ i WHERE i.indrelid = p.oid)
    UNION ALL
    SELECT p.name, p.starts, 'granted to ' || string_agg(DISTINCT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END, ', '),
           'REVOKE ALL ON @extschema@.' || quote_ident(p.name) || ' FROM ...; tenants go through the parent.'
    FROM partition p JOIN pg_class c ON c.oid = p.oid, aclexplode(c.relacl) a
    WHERE a.grantee <> c.relowner
    GROUP BY p.name, p.starts
    UNION ALL
    SELECT name, starts, 'it has grown to ' || pg_size_pretty(pg_total_relation_size(oid)),
           'Shorten the ttl of large types in cache_content_policies, or set max_entries for them.'
    FROM partition WHERE pg_total_relation_size(oid) > 1073741824
    UNION ALL
    SELECT name, starts, 'there is a gap after it, until ' || to_char(following AT TIME ZONE 'UTC', 'YYYY-MM-DD'),
           'Run SELECT @extschema@.create_monthly_cache_partition(''' || to_char(ends AT TIME ZONE 'UTC', 'YYYY-MM-DD') || ''');'
    FROM (SELECT name, starts, ends, lead(starts) OVER (ORDER BY starts) AS following FROM partition) p
    WHERE following > ends AND following > clock_timestamp()
)
SELECT p.name, f.name IS NULL,
       coalesce(string_agg(f.detail, '; '), pg_size_pretty(pg_total_relation_size(p.oid))),
       string_agg(f.hint, ' ')
FROM partition p LEFT JOIN finding f USING (name)
GROUP BY p.name, p.oid, p.starts, f.name IS NULL
UNION ALL
SELECT 'current month', count(*) > 0,
       CASE WHEN count(*) > 0 THEN 'has a partition' ELSE 'has no partition' END,
       CASE WHEN count(*) = 0 THEN 'Run SELECT @extschema@.cache_run_maintenance();' END
FROM partition WHERE starts <= clock_timestamp() AND ends > clock_timestamp()
UNION ALL
SELECT 'months ahead', count(*) >= 1, count(*) || ' ready',
       CASE WHEN count(*) < 1 THEN 'Run SELECT @extschema@.cache_run_maintenance();' END
FROM partition WHERE starts > clock_timestamp()
ORDER BY 1
