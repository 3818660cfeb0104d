-- What maintenance did, a row for each step. The view cache_maintenance_log shows the newest.
CREATE TABLE @extschema@.cache_maintenance_runs (
    run_at timestamptz NOT NULL,
    step text NOT NULL,
    status text NOT NULL,
    affected bigint NOT NULL DEFAULT 0,
    duration_ms numeric NOT NULL DEFAULT 0,
    detail text,
    role name NOT NULL,
    PRIMARY KEY (run_at, step)
);
COMMENT ON TABLE @extschema@.cache_maintenance_runs IS
    'Steps of maintenance runs; rows older than infinite_pages_cache.maintenance_log_retention are deleted by the next run';
COMMENT ON COLUMN @extschema@.cache_maintenance_runs.run_at IS 'When the run began; all its steps have the same';
COMMENT ON COLUMN @extschema@.cache_maintenance_runs.step IS 'Name of the step';
COMMENT ON COLUMN @extschema@.cache_maintenance_runs.status IS 'ok or failed; a step that was put off is ok, and detail says why';
COMMENT ON COLUMN @extschema@.cache_maintenance_runs.affected IS 'How many rows or partitions it changed';
COMMENT ON COLUMN @extschema@.cache_maintenance_runs.duration_ms IS 'How long it took';
COMMENT ON COLUMN @extschema@.cache_maintenance_runs.detail IS
    'Why the step failed, with SQLSTATE, DETAIL and HINT; or why it was put off, or what it left undone';
COMMENT ON COLUMN @extschema@.cache_maintenance_runs.role IS 'Role that it ran as';
