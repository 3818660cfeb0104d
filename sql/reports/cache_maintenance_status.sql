-- What the worker remembers since the server started, and what the log knows of runs before that and by hand.
SELECT $1,
       greatest($2, (SELECT max(run_at) FROM @extschema@.cache_maintenance_runs)),
       -- The newest run in which no step failed, nor waited after a failure to be tried again: it waits for eleven
       -- minutes and a naptime, and then for a place. The worker logs no step that had nothing to do.
       greatest($3, (SELECT r.run_at FROM @extschema@.cache_maintenance_runs r
                     WHERE NOT EXISTS (
                         SELECT FROM @extschema@.cache_maintenance_runs f
                         WHERE f.run_at > r.run_at - interval '15 minutes' - current_setting('infinite_pages_cache.naptime')::interval
                           AND f.run_at <= r.run_at AND f.status = 'failed'
                           AND NOT EXISTS (SELECT FROM @extschema@.cache_maintenance_runs later
                                           WHERE later.run_at > f.run_at AND later.run_at <= r.run_at
                                             AND later.step = f.step AND later.status = 'ok'))
                     ORDER BY r.run_at DESC LIMIT 1)),
       CASE WHEN $1 IN ('on', 'overdue') THEN coalesce($4, statement_timestamp()) END,
       $5, $6,
       (SELECT count(*)::integer FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = '@extschema@.infinite_pages_cache_partitioned'::regclass
          AND substring(pg_get_expr(c.relpartbound, c.oid) FROM 'FROM \(''([^'']+)''\)')::timestamptz > clock_timestamp()),
       -- The first of all by the index: a condition on it might have the planner sort all that have expired.
       (SELECT expires_at
        FROM (SELECT expires_at FROM @extschema@.infinite_pages_cache_partitioned ORDER BY expires_at LIMIT 1) earliest
        WHERE expires_at <= statement_timestamp())
