-- What the worker remembers, and the runs by hand, which log every step. $7 is the number of steps.
SELECT $1,
       greatest($2, (SELECT max(run_at) FROM @extschema@.cache_maintenance_runs)),
       greatest($3, (SELECT run_at FROM @extschema@.cache_maintenance_runs
                     GROUP BY run_at HAVING count(*) >= $7 AND bool_and(status = 'ok')
                     ORDER BY run_at DESC LIMIT 1)),
       CASE WHEN $1 IN ('on', 'overdue') THEN coalesce($4, statement_timestamp()) END,
       $5, $6,
       (SELECT count(*)::integer FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = '@extschema@.infinite_pages_cache_partitioned'::regclass
          AND substring(pg_get_expr(c.relpartbound, c.oid) FROM 'FROM \(''([^'']+)''\)')::timestamptz > clock_timestamp()),
       -- The first of all by the index: a condition on it might have the planner sort all that have expired.
       (SELECT expires_at
        FROM (SELECT expires_at FROM @extschema@.infinite_pages_cache_partitioned ORDER BY expires_at LIMIT 1) earliest
        WHERE expires_at <= statement_timestamp())
