-- The thresholds are those of the deployment guide. What is not measured has a NULL value and does not fire.
WITH cache AS (
    SELECT count(*) AS entries, count(*) FILTER (WHERE expires_at <= clock_timestamp()) AS expired
    FROM @extschema@.infinite_pages_cache_partitioned
),
measured (position, severity, rule, value, threshold, above, what_to_do) AS (
    SELECT 1, 'critical', 'cache hit rate below 40 %', NULL::numeric, 40::numeric, false,
           'Lookups are not counted in this version. Compare the hits and misses that the application sees.'
    UNION ALL
    SELECT 2, 'critical', 'connections above 90 % of max_connections',
           round(100.0 * count(*) / current_setting('max_connections')::integer, 1), 90, true,
           'Look at cache_connection_metrics; pool connections (PgBouncer in transaction mode) or raise max_connections.'
    FROM pg_stat_activity WHERE coalesce(backend_type, 'client backend') = 'client backend' AND datname IS NOT NULL
    UNION ALL
    SELECT 3, 'critical', 'query response time above 200 ms',
           round(1000 * avg(extract(epoch FROM clock_timestamp() - query_start))::numeric, 1), 200, true,
           'The mean age of the statements that run now in this database. Look at pg_stat_activity for the oldest.'
    FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND state = 'active' AND datname = current_database() AND pid <> pg_backend_pid()
    UNION ALL
    SELECT 4, 'critical', 'largest partition above 1 GB',
           round(max(pg_total_relation_size(inhrelid)) / 1073741824.0, 3), 1, true,
           'Shorten the ttl of large types in cache_content_policies, or set max_entries for them.'
    FROM pg_inherits WHERE inhparent = '@extschema@.infinite_pages_cache_partitioned'::regclass
    UNION ALL
    SELECT 5, 'critical', 'partitions ready after the current month, fewer than 1',
           count(*) FILTER (WHERE substring(pg_get_expr(c.relpartbound, c.oid) FROM 'FROM \(''([^'']+)''\)')::timestamptz
                                  > clock_timestamp()), 1, false,
           'Run cache_run_maintenance(), or create_monthly_cache_partition() for the coming month.'
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = '@extschema@.infinite_pages_cache_partitioned'::regclass
    UNION ALL
    SELECT 6, 'warning', 'cache hit rate below 55 %', NULL, 55, false,
           'Lookups are not counted in this version. Compare the hits and misses that the application sees.'
    UNION ALL
    SELECT 7, 'warning', 'failed maintenance steps in the last 24 hours',
           count(*), 0, true, 'Look at cache_maintenance_log for the steps with status failed.'
    FROM @extschema@.cache_maintenance_runs
    WHERE status = 'failed' AND run_at > clock_timestamp() - interval '24 hours'
    UNION ALL
    SELECT 8, 'warning', 'expired entries above 20 % of all',
           CASE WHEN entries > 0 THEN round(100.0 * expired / entries, 1) ELSE 0 END, 20, true,
           'Run cleanup_expired_cache_entries_production(), and see in cache_maintenance_status why the worker does not.'
    FROM cache
    UNION ALL
    SELECT 9, 'warning', 'unusual access: share of one user in the writes of the last hour above 50 % (of 1,000 or more)',
           CASE WHEN coalesce(sum(writes), 0) >= 1000 THEN round(100.0 * max(writes) / sum(writes), 1) ELSE 0 END, 50, true,
           'Look at cache_audit_log for that user: SELECT user_id, action, count(*) ... GROUP BY 1, 2.'
    FROM (SELECT count(*) AS writes FROM @extschema@.cache_audit_log
          WHERE "timestamp" > clock_timestamp() - interval '1 hour' GROUP BY user_id) by_user
)
SELECT severity, rule, value, threshold,
       coalesce(CASE WHEN above THEN value > threshold ELSE value < threshold END, false),
       what_to_do
FROM measured
ORDER BY position
