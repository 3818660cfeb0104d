SELECT user_id,
       count(*),
       count(DISTINCT content_type),
       least(coalesce(sum(hit_count), 0), 9223372036854775807)::bigint,
       coalesce(sum(token_cost_saved), 0)::numeric,
       round(avg(reuse_score), 2),
       max(last_accessed) FILTER (WHERE last_accessed <= clock_timestamp()),
       round(avg(hit_count), 2)
FROM @extschema@.infinite_pages_cache_partitioned
GROUP BY user_id
ORDER BY coalesce(sum(token_cost_saved), 0) DESC, count(*) DESC, user_id
