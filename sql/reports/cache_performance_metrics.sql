-- The hit ratio needs the misses, which nothing counts yet; until then it is NULL, not a guess.
SELECT content_type::text,
       count(*),
       least(coalesce(sum(hit_count), 0), 9223372036854775807)::bigint,
       round(avg(hit_count), 2),
       round(avg(token_cost_saved), 2),
       coalesce(sum(token_cost_saved), 0)::numeric,
       count(*) FILTER (WHERE expires_at <= clock_timestamp()),
       count(*) FILTER (WHERE priority_tier = 1),
       max(CASE WHEN last_accessed BETWEEN created_at AND clock_timestamp() THEN last_accessed ELSE created_at END),
       NULL::numeric
FROM @extschema@.infinite_pages_cache_partitioned
GROUP BY content_type
ORDER BY count(*) DESC, content_type
