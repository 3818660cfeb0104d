-- The first of all by the index: a condition on it might have the planner sort all that have expired.
SELECT expires_at FROM @extschema@.infinite_pages_cache_partitioned ORDER BY expires_at LIMIT 1
