-- The rows of cache_user_summary, counted now.
SELECT user_id, sum(entries)::bigint AS entries, count(*) AS content_types, sum(hits) AS hits,
       sum(tokens_saved) AS tokens_saved, sum(reuse_scores) / nullif(sum(scored), 0) AS avg_reuse_score,
       max(last_accessed) AS last_accessed, clock_timestamp() AS measured_at
FROM (
    SELECT user_id, content_type, count(*) AS entries,
           coalesce(sum(hit_count), 0)::numeric AS hits,
           coalesce(sum(token_cost_saved), 0)::numeric AS tokens_saved,
           sum(reuse_score) AS reuse_scores, count(reuse_score) AS scored,
           max(last_accessed) FILTER (WHERE last_accessed <= clock_timestamp()) AS last_accessed
    FROM @extschema@.infinite_pages_cache_partitioned
    GROUP BY user_id, content_type) c
GROUP BY user_id
