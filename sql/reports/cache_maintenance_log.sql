-- The newest rows; the table has all of them.
SELECT run_at, step, status, affected, duration_ms, @detail@, role::text
FROM @extschema@.cache_maintenance_runs
ORDER BY run_at DESC, step
LIMIT 10000
