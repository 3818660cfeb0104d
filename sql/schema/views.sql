-- Each view calls a function, for two reasons. The function runs with the rights and the row security of the caller on
-- every version of PostgreSQL. It finds its tables only when called, so that a restore can create the views first.
-- The query of each function stands in sql/reports, in a file of the function's name.

CREATE FUNCTION @extschema@.cache_performance_metrics()
    RETURNS TABLE (content_type text, total_entries bigint, cache_hits bigint, avg_hit_count numeric,
                   avg_tokens_saved numeric, tokens_saved numeric, expired_entries bigint,
                   high_priority_entries bigint, last_activity timestamptz, hit_rate_percentage numeric,
                   lookups bigint, hit_rate_last_hour numeric, hit_rate_last_day numeric,
                   p50_ms numeric, p95_ms numeric, p99_ms numeric, tokens_spent_last_day numeric,
                   tokens_saved_last_day numeric, cost_saved_percentage numeric, measured_at timestamptz,
                   evictions_last_day bigint, leases_last_day bigint, waits_last_day bigint,
                   waits_hit_last_day bigint, stale_served_last_day bigint, refused_fills_last_day bigint,
                   refused_by_gate_last_day bigint, failures_last_day bigint, generation_p50_s numeric,
                   generation_p95_s numeric, generations_avoided_last_day bigint)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 30 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'infinite_pages_cache_report';
CREATE VIEW @extschema@.cache_performance_metrics AS SELECT * FROM @extschema@.cache_performance_metrics();

CREATE FUNCTION @extschema@.partition_health_metrics()
    RETURNS TABLE (schemaname name, partition_name name, size text, row_count_estimate bigint,
                   partition_age_days integer, size_bytes bigint, live_entries bigint, expired_entries bigint,
                   from_month date, months_ahead integer)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 20 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'infinite_pages_cache_report';
CREATE VIEW @extschema@.partition_health_metrics AS SELECT * FROM @extschema@.partition_health_metrics();

CREATE FUNCTION @extschema@.cache_connection_metrics()
    RETURNS TABLE (database_name name, total_connections bigint, active_connections bigint,
                   idle_connections bigint, idle_in_transaction bigint, avg_query_duration_seconds numeric,
                   max_connections integer, percent_of_max_connections numeric)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 5 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'infinite_pages_cache_report';
CREATE VIEW @extschema@.cache_connection_metrics AS SELECT * FROM @extschema@.cache_connection_metrics();

CREATE FUNCTION @extschema@.user_cache_analytics()
    RETURNS TABLE (user_id uuid, total_cache_entries bigint, content_types_used bigint, total_cache_hits bigint,
                   total_tokens_saved numeric, avg_reuse_score numeric, last_cache_access timestamptz,
                   avg_hits_per_entry numeric)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1000 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'infinite_pages_cache_report';
CREATE VIEW @extschema@.user_cache_analytics AS SELECT * FROM @extschema@.user_cache_analytics();

CREATE FUNCTION @extschema@.cache_alerts()
    RETURNS TABLE (severity text, rule text, value numeric, threshold numeric, firing boolean, what_to_do text)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 10 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'infinite_pages_cache_report';
CREATE VIEW @extschema@.cache_alerts AS SELECT * FROM @extschema@.cache_alerts();

CREATE FUNCTION @extschema@.cache_maintenance_log()
    RETURNS TABLE (run_at timestamptz, step text, status text, affected bigint, duration_ms numeric,
                   detail text, role text)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1000 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'infinite_pages_cache_report';
CREATE VIEW @extschema@.cache_maintenance_log AS SELECT * FROM @extschema@.cache_maintenance_log();

CREATE FUNCTION @extschema@.cache_maintenance_status()
    RETURNS TABLE (worker text, last_run timestamptz, last_success timestamptz, next_run timestamptz,
                   consecutive_failures integer, last_error text, months_ahead integer,
                   oldest_expired_entry timestamptz)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'infinite_pages_cache_status';
CREATE VIEW @extschema@.cache_maintenance_status AS SELECT * FROM @extschema@.cache_maintenance_status();

CREATE FUNCTION @extschema@.cache_maintenance_progress()
    RETURNS TABLE (pid integer, datname name, step text, run_started timestamptz, step_started timestamptz,
                   affected bigint, steps_done integer, steps_total integer)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 3 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'infinite_pages_cache_progress';
CREATE VIEW @extschema@.cache_maintenance_progress AS SELECT * FROM @extschema@.cache_maintenance_progress();

CREATE FUNCTION @extschema@.cache_leases()
    RETURNS TABLE (user_id uuid, content_type text, entry_digest uuid, state text, granted_at timestamptz,
                   ends_in interval, storing_pid integer, waiters integer)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 100 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'infinite_pages_cache_leases';
CREATE VIEW @extschema@.cache_leases AS SELECT * FROM @extschema@.cache_leases();

COMMENT ON VIEW @extschema@.cache_performance_metrics IS
    'For each content type: entries, hits, tokens saved; lookups and hit ratio since the server started, of the last hour and day; latency of the lookups of the last hour; share of the cost saved, entries evicted by max_entries, leases, waits, refused answers, failures and the time that generations took, in the last day';
COMMENT ON VIEW @extschema@.partition_health_metrics IS
    'For each partition: size with indexes and TOAST, estimated rows, live and expired entries, age; months_ahead counts from the current month';
COMMENT ON VIEW @extschema@.cache_connection_metrics IS
    'For each database: client connections by state, how long their queries have run on average, and the share of max_connections';
COMMENT ON VIEW @extschema@.user_cache_analytics IS
    'For each user the caller may see: entries, hits, tokens saved, reuse';
COMMENT ON VIEW @extschema@.cache_alerts IS
    'Each alert rule: its value now, its threshold, whether it fires, and what to do. A value of NULL has not been measured';
COMMENT ON VIEW @extschema@.cache_maintenance_log IS
    'The steps of maintenance runs, newest first';
COMMENT ON VIEW @extschema@.cache_maintenance_status IS
    'Whether the background worker works in this database, or why not: when it ran last and runs next, failures, months ahead, the oldest expired entry that is still there. verify_production_cache() names what is not ready. last_success is the last run in which no step failed or waited to be tried again; after a restart, until the first tick, the last such run in cache_maintenance_log';
COMMENT ON VIEW @extschema@.cache_maintenance_progress IS
    'The ticks of the background worker that run now, in any database: their step and how much it has done so far';
COMMENT ON VIEW @extschema@.cache_leases IS
    'Leases of cache_fetch(): who generates what. A tenant sees those of its user';
COMMENT ON FUNCTION @extschema@.cache_maintenance_status() IS 'The rows of the view of this name';
COMMENT ON FUNCTION @extschema@.cache_maintenance_progress() IS 'The rows of the view of this name';
COMMENT ON FUNCTION @extschema@.cache_performance_metrics() IS 'The rows of the view of this name';
COMMENT ON FUNCTION @extschema@.partition_health_metrics() IS 'The rows of the view of this name';
COMMENT ON FUNCTION @extschema@.cache_connection_metrics() IS 'The rows of the view of this name';
COMMENT ON FUNCTION @extschema@.user_cache_analytics() IS 'The rows of the view of this name';
COMMENT ON FUNCTION @extschema@.cache_alerts() IS 'The rows of the view of this name';
COMMENT ON FUNCTION @extschema@.cache_maintenance_log() IS 'The rows of the view of this name';
COMMENT ON FUNCTION @extschema@.cache_leases() IS 'The rows of the view of this name';
