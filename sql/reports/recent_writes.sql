-- The writes of the last hour, and those of the user with the most. Reads the newest 10,000 only, because an hour can hold
-- millions.
SELECT coalesce(sum(writes), 0)::bigint AS writes, coalesce(max(writes), 0) AS of_one_user
FROM (SELECT count(*) AS writes
      FROM (SELECT user_id, "timestamp" FROM @extschema@.cache_audit_log
            WHERE action <> 'lookup' ORDER BY id DESC LIMIT 10000) newest
      WHERE "timestamp" > clock_timestamp() - interval '1 hour' GROUP BY user_id) by_user
