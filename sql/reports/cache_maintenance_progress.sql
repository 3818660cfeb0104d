SELECT r.pid, d.datname, r.step, r.run_started, r.step_started, r.affected, r.steps_done, $8
FROM unnest($1, $2, $3, $4, $5, $6, $7) r (pid, database, step, run_started, step_started, affected, steps_done)
JOIN pg_database d ON d.oid = r.database
ORDER BY r.run_started, r.pid
