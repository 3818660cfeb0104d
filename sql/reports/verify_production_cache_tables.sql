-- The checks that read tables; they are left out while one of these is missing.
SELECT 'a policy for all other content exists', count(*) = 1, count(*) || ' row for *',
       CASE WHEN count(*) = 0 THEN 'INSERT INTO @extschema@.cache_content_policies (content_type, ttl) VALUES (''*'', ''7 days'');' END
FROM @extschema@.cache_content_policies WHERE content_type = '*'
UNION ALL
SELECT 'no maintenance step failed lately', count(*) = 0, count(*) || ' failed in 24 hours',
       CASE WHEN count(*) > 0 THEN 'Look at cache_maintenance_log.' END
FROM @extschema@.cache_maintenance_runs WHERE status = 'failed' AND run_at > statement_timestamp() - interval '24 hours'
