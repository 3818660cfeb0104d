-- What maintenance did, a row for each step; the view cache_maintenance_log shows it.
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
