-- The checks that read tables. They are left out if one of the tables is missing.
SELECT 'a policy for all other content exists', @sees_cache_content_policies@ AND count(*) = 1,
       CASE WHEN @sees_cache_content_policies@ THEN count(*) || ' row for *' ELSE 'row security may hide rows of cache_content_policies from ' || current_user END,
       CASE WHEN @sees_cache_content_policies@ THEN 'INSERT INTO @extschema@.cache_content_policies (content_type, ttl) VALUES (''*'', ''7 days'');'
            ELSE 'Run the check as a role that sees every row.' END
FROM @extschema@.cache_content_policies WHERE content_type = '*'
UNION ALL
SELECT 'no maintenance step failed lately', @sees_cache_maintenance_runs@ AND steps = 0,
       CASE WHEN @sees_cache_maintenance_runs@ THEN steps || ' failed in 24 hours' ELSE 'row security may hide rows of cache_maintenance_runs from ' || current_user END,
       CASE WHEN @sees_cache_maintenance_runs@ THEN 'Look at cache_maintenance_log.' ELSE 'Run the check as a role that sees every row.' END
FROM @recent_failures@ f
