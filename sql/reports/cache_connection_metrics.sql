SELECT datname,
       count(*),
       count(*) FILTER (WHERE state = 'active'),
       count(*) FILTER (WHERE state = 'idle'),
       count(*) FILTER (WHERE state LIKE 'idle in transaction%'),
       round(avg(extract(epoch FROM clock_timestamp() - query_start)) FILTER (WHERE state = 'active')::numeric, 3),
       current_setting('max_connections')::integer,
       round(100.0 * count(*) / current_setting('max_connections')::integer, 1)
FROM pg_stat_activity
-- A role without pg_monitor sees only the database of other roles' sessions, not even backend_type.
WHERE coalesce(backend_type, 'client backend') = 'client backend' AND datname IS NOT NULL
GROUP BY datname
ORDER BY count(*) DESC, datname
