-- What the worker remembers since the server started, and what the log knows of runs before that and by hand.
WITH RECURSIVE setting AS (
    -- A failed step is tried again after at most eleven minutes and a naptime, and may then wait for a free worker.
    SELECT interval '15 minutes' + current_setting('infinite_pages_cache.naptime')::interval AS longest_wait
),
-- From the newest run back to one in which no step failed or waited to be tried again. When a failed step waits during a
-- run, it has waited in all runs since its failure, so these are skipped. The worker logs no step that had nothing to do.
back (run_at, failed_at) AS (
    SELECT NULL::timestamptz, 'infinity'::timestamptz
    UNION ALL
    SELECT r.run_at, f.run_at
    FROM back b, setting, LATERAL (
        SELECT max(run_at) AS run_at FROM @extschema@.cache_maintenance_runs WHERE run_at < b.failed_at
    ) r, LATERAL (
        SELECT min(run_at) AS run_at FROM @extschema@.cache_maintenance_runs failed
        WHERE run_at > r.run_at - longest_wait AND run_at <= r.run_at AND status = 'failed'
          AND NOT EXISTS (SELECT FROM @extschema@.cache_maintenance_runs later
                          WHERE later.run_at > failed.run_at AND later.run_at <= r.run_at
                            AND later.step = failed.step AND later.status = 'ok')
    ) f
    WHERE b.failed_at IS NOT NULL AND r.run_at IS NOT NULL
)
SELECT $1,
       greatest($2, (SELECT max(run_at) FROM @extschema@.cache_maintenance_runs)),
       greatest($3, (SELECT run_at FROM back WHERE failed_at IS NULL)),
       CASE WHEN $1 IN ('on', 'overdue') THEN coalesce($4, statement_timestamp()) END,
       $5, @last_error@,
       (SELECT count(*)::integer FROM @partitions@ p
        WHERE parent = '@extschema@.infinite_pages_cache_partitioned'::regclass AND starts > clock_timestamp()),
       $7
