-- How many steps of maintenance have failed in the last 24 hours.
SELECT count(*) AS steps FROM @extschema@.cache_maintenance_runs
WHERE status = 'failed' AND run_at > statement_timestamp() - interval '24 hours'
