-- The first entry by the index. A condition on expires_at might make the planner sort every expired entry.
SELECT expires_at FROM @extschema@.infinite_pages_cache_partitioned ORDER BY expires_at LIMIT 1
