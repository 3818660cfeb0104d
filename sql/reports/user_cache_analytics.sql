SELECT user_id,
       count(*),
       count(DISTINCT content_type),
       coalesce(sum(hit_count), 0)::bigint,
       coalesce(sum(token_cost_saved), 0)::numeric,
       round(avg(reuse_score), 2),
       max(last_accessed),
       round(avg(hit_count), 2)
FROM @extschema@.infinite_pages_cache_partitioned
GROUP BY user_id
ORDER BY coalesce(sum(token_cost_saved), 0) DESC, count(*) DESC, user_id
