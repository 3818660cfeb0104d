-- The rows of cache_entry_summary, counted now.
SELECT p.relname::text AS partition_name, c.content_type, c.entries, c.expired_entries, c.high_priority_entries,
       c.hits, c.tokens_saved, c.last_activity, clock_timestamp() AS measured_at
FROM (
    SELECT tableoid, content_type::text AS content_type,
           count(*) AS entries,
           count(*) FILTER (WHERE @is_over@) AS expired_entries,
           count(*) FILTER (WHERE priority_tier = 1) AS high_priority_entries,
           coalesce(sum(hit_count), 0)::numeric AS hits,
           coalesce(sum(token_cost_saved), 0)::numeric AS tokens_saved,
           max(CASE WHEN last_accessed BETWEEN created_at AND clock_timestamp() THEN last_accessed ELSE created_at END) AS last_activity
    FROM @extschema@.infinite_pages_cache_partitioned
    GROUP BY tableoid, content_type) c
JOIN pg_class p ON p.oid = c.tableoid
