-- The thresholds are those of the deployment guide. A value that is not measured is NULL, and its alert does not fire.
WITH cache AS (
    SELECT coalesce(sum(entries), 0) AS entries, coalesce(sum(expired_entries), 0) AS expired FROM @entries_by_type@ e
),
recent AS MATERIALIZED (
    SELECT * FROM @recent_statistics@ r
),
-- NULL below 100 lookups, because the ratio of a few says nothing.
hit_rate AS (
    SELECT CASE WHEN sum((hits::numeric + misses) * in_hour) >= 100
                THEN round((100 * sum(hits * in_hour) / sum((hits::numeric + misses) * in_hour))::numeric, 1) END AS percent
    FROM recent
),
response AS (
    SELECT @extschema@.cache_latency_ms(array_agg(calls ORDER BY bucket), 0.95) AS p95
    FROM (SELECT bucket, sum(calls * in_hour)::double precision AS calls
          FROM recent, unnest(lookup_us) WITH ORDINALITY AS b (calls, bucket) GROUP BY bucket) b
),
-- The name is empty for all types without counters of their own.
evicted AS (
    SELECT CASE content_type WHEN '' THEN 'types without counters of their own' ELSE content_type END AS content_type,
           sum(evictions * in_day)::numeric AS entries
    FROM recent WHERE evictions > 0 GROUP BY content_type
),
generation AS (
    SELECT sum(leases_granted * in_hour)::numeric AS leases, sum(failures * in_hour)::numeric AS failures,
           sum((generations::numeric + refused_fills) * in_hour)::numeric AS fills, sum(refused_fills * in_hour)::numeric AS refused,
           sum(leases_denied * in_hour)::numeric AS denied
    FROM recent
),
-- Content types of which 20 answers or more were generated in the last day, and one in twenty took longer than its lease.
slow AS (
    SELECT CASE content_type WHEN '' THEN 'types without counters of their own' ELSE content_type END AS content_type
    FROM (SELECT content_type, @extschema@.cache_latency_ms(array_agg(answers ORDER BY bucket), 0.95) AS p95
          FROM (SELECT content_type, bucket, sum(answers * in_day)::double precision AS answers
                FROM recent, unnest(generation_ms) WITH ORDINALITY AS b (answers, bucket) GROUP BY 1, 2) b
          GROUP BY content_type HAVING sum(answers) >= 20) g,
         -- A table of an earlier version lacks the column, whose name then resolves here.
         (SELECT interval '2 minutes' AS lease_ttl) installed
    WHERE p95 > extract(epoch FROM (SELECT lease_ttl FROM @extschema@.cache_content_policies p
                                    WHERE p.content_type IN (g.content_type, '*') ORDER BY p.content_type = '*' LIMIT 1))
),
-- Content types of which 20 answers or more were to be stored in the last day, and how many per cent accept_if refused.
gated AS (
    SELECT CASE content_type WHEN '' THEN 'types without counters of their own' ELSE content_type END AS content_type,
           round((100 * sum(refused_by_gate * in_day) / sum((refused_by_gate::numeric + upserts) * in_day))::numeric, 1) AS percent
    FROM recent GROUP BY content_type
    HAVING sum((refused_by_gate::numeric + upserts) * in_day) >= 20
),
measured (position, severity, rule, value, threshold, above, what_to_do) AS (
    SELECT 1, 'critical', 'cache hit rate below 40 %', percent, 40::numeric, false,
           CASE WHEN @preloaded@
                THEN 'Look at hit_rate_last_hour in cache_performance_metrics for the type that misses; lengthen its ttl, or check whether its keys contain a value that changes with each request.'
                ELSE 'Lookups are not counted: set shared_preload_libraries = ''infinite_pages_cache'' and restart the server.' END
    FROM hit_rate
    UNION ALL
    SELECT 2, 'critical', 'connections above 90 % of max_connections',
           round(100.0 * count(*) / current_setting('max_connections')::integer, 1), 90, true,
           'Look at cache_connection_metrics; pool connections (PgBouncer in transaction mode) or raise max_connections.'
    FROM pg_stat_activity WHERE coalesce(backend_type, 'client backend') = 'client backend' AND datname IS NOT NULL
    UNION ALL
    SELECT 3, 'critical', 'query response time above 200 ms', p95, 200, true,
           'The 95th percentile of the lookups of the last hour. Look at pg_stat_activity for locks and long statements.'
    FROM response
    UNION ALL
    SELECT 4, 'critical', 'largest partition above 1 GB',
           round(max(pg_total_relation_size(inhrelid)) / 1073741824.0, 3), 1, true,
           'Shorten the ttl of large types in cache_content_policies, or set max_entries for them.'
    FROM pg_inherits WHERE inhparent = '@extschema@.infinite_pages_cache_partitioned'::regclass
    UNION ALL
    SELECT 5, 'critical', 'partitions ready after the current month, fewer than 1',
           count(*) FILTER (WHERE starts > clock_timestamp()), 1, false,
           'Look at cache_maintenance_status; or run cache_run_maintenance(), or create_monthly_cache_partition() for the coming month.'
    FROM @partitions@ p WHERE parent = '@extschema@.infinite_pages_cache_partitioned'::regclass
    UNION ALL
    SELECT 6, 'critical', 'minutes since the last run of maintenance by the worker, when one is overdue',
           CASE WHEN worker = 'overdue'
                THEN round(greatest(extract(epoch FROM clock_timestamp() - coalesce(last_run, next_run)) / 60, 0.1)::numeric, 1)
                WHEN worker = 'on' THEN 0 END, 0, true,
           'Look at cache_maintenance_progress for what keeps the worker busy, here or in other databases, and at the server''s log.'
    FROM @extschema@.cache_maintenance_status()
    UNION ALL
    SELECT 7, 'warning', 'cache hit rate below 55 %', percent, 55, false,
           CASE WHEN @preloaded@
                THEN 'Look at hit_rate_last_hour in cache_performance_metrics for the type that misses; lengthen its ttl, or check whether its keys contain a value that changes with each request.'
                ELSE 'Lookups are not counted: set shared_preload_libraries = ''infinite_pages_cache'' and restart the server.' END
    FROM hit_rate
    UNION ALL
    SELECT 8, 'warning', 'failed maintenance steps in the last 24 hours',
           steps, 0, true, 'Look at cache_maintenance_log for the steps with status failed.'
    FROM @recent_failures@ f
    UNION ALL
    SELECT 9, 'warning', 'expired entries above 20 % of all',
           CASE WHEN entries > 0 THEN round(100.0 * expired / entries, 1) ELSE 0 END, 20, true,
           'Run cleanup_expired_cache_entries_production(), and see in cache_maintenance_status why the worker does not.'
    FROM cache
    UNION ALL
    SELECT 10, 'warning', 'unusual access: share of one user in the writes of the last hour above 50 % (of 1,000 or more)',
           CASE WHEN writes >= 1000 THEN round(100.0 * of_one_user / writes, 1) ELSE 0 END, 50, true,
           'Look at cache_audit_log for that user: SELECT user_id, action, count(*) ... GROUP BY 1, 2.'
    FROM @recent_writes@ w
    UNION ALL
    SELECT 11, 'warning', 'entries evicted by max_entries in the last 24 hours',
           CASE WHEN @preloaded@ THEN (SELECT coalesce(round(sum(entries)), 0) FROM evicted) END, 0, true,
           'Users had more entries of a type than its max_entries in cache_content_policies. Raise it, or set it to NULL for no limit, '
           || coalesce('for the types that lost most: ' || string_agg(content_type, ', ' ORDER BY entries DESC, content_type), 'if evicted entries are missed')
           || '.'
    FROM (SELECT * FROM evicted ORDER BY entries DESC, content_type LIMIT 10) most
    UNION ALL
    SELECT 12, 'warning', 'answers refused for an invalidation in the last hour above 10 % (of 20 or more)',
           CASE WHEN fills >= 20 THEN round(100 * refused / fills, 1) WHEN @preloaded@ THEN 0 END, 10, true,
           'Answers were generated from what was invalidated meanwhile, or after their lease had ended. Invalidate less at a time, read what an answer is made from after cache_fetch(), and see refused_fills_last_day in cache_performance_metrics for the types.'
    FROM generation
    UNION ALL
    SELECT 13, 'warning', 'failed generations in the last hour above 10 % of leases (of 20 or more)',
           CASE WHEN leases >= 20 THEN round(100 * failures / leases, 1) WHEN @preloaded@ THEN 0 END, 10, true,
           'See failures_last_day in cache_performance_metrics for the types, and the application''s log for why it calls cache_release(failed => true).'
    FROM generation
    UNION ALL
    SELECT 14, 'warning', 'seconds that an invalidation has been pending above 60',
           CASE WHEN @preloaded@ THEN coalesce(round(max(extract(epoch FROM pending_for))::numeric, 1), 0) END, 60, true,
           'Answers that it concerns are not stored until its transaction ends'
           || coalesce(': ' || string_agg(DISTINCT 'process ' || pid || coalesce(' of ' || nullif(application_name, ''), '')
                                          || coalesce(', since ' || to_char(xact_start AT TIME ZONE 'UTC', 'HH24:MI:SS "UTC"'), ''), '; '), '')
           || '. Commit right after an invalidation, or set idle_in_transaction_session_timeout.'
    FROM @pending_invalidations@ i LEFT JOIN pg_stat_activity USING (pid)
    UNION ALL
    SELECT 15, 'warning', 'leases denied in the last hour because there was no room',
           CASE WHEN @preloaded@ THEN coalesce(round(denied), 0) END, 0, true,
           'Raise infinite_pages_cache.max_leases and restart the server; cache_leases shows who holds the leases.'
    FROM generation
    UNION ALL
    SELECT 16, 'warning', 'content types whose answers take longer than their lease_ttl (95th percentile of the last day, of 20 or more)',
           CASE WHEN @preloaded@ THEN count(*) END, 0, true,
           'Others generate the same answer meanwhile: raise lease_ttl in cache_content_policies, or call cache_extend_lease() while an answer is generated'
           || coalesce(', for ' || string_agg(content_type, ', ' ORDER BY content_type), '') || '.'
    FROM slow
    UNION ALL
    SELECT 17, 'warning', 'answers refused by accept_if in the last day above 20 % of a content type (of 20 or more)',
           CASE WHEN @preloaded@ THEN coalesce(max(percent), 0) END, 20, true,
           'Look at the answers that the application gets, and at accept_if in cache_content_policies'
           || coalesce(', of ' || string_agg(content_type, ', ' ORDER BY content_type) FILTER (WHERE percent > 20), '') || '.'
    FROM gated
)
SELECT severity, rule, seen.value, threshold,
       coalesce(CASE WHEN above THEN seen.value > threshold ELSE seen.value < threshold END, false),
       CASE WHEN sees THEN what_to_do ELSE 'Not measured: row security may hide rows of ' || of_table || ' from ' || current_user || '.' END
FROM measured
-- A value that counts rows of a table is NULL for a role from which row security may hide some.
CROSS JOIN LATERAL (
    SELECT coalesce(min(t.name), ''), coalesce(bool_and(t.sees), true)
    FROM (VALUES ('infinite_pages_cache_partitioned', @sees_infinite_pages_cache_partitioned@, '{9}'::integer[]),
                 ('cache_audit_log', @sees_cache_audit_log@, '{10}'),
                 ('cache_maintenance_runs', @sees_cache_maintenance_runs@, '{8}'),
                 ('cache_statistics_hourly', @sees_cache_statistics_hourly@, '{1,3,7,12,13,15,16,17}')) t (name, sees, positions)
    WHERE position = ANY (t.positions)) source (of_table, sees)
CROSS JOIN LATERAL (SELECT CASE WHEN sees THEN measured.value END) seen (value)
ORDER BY position
