WITH entry AS (
    SELECT content_type, hit_count, token_cost_saved, token_cost, reuse_score, last_accessed,
           expires_at > clock_timestamp() AS live
    FROM @extschema@.infinite_pages_cache_partitioned
    WHERE user_id = $1
),
by_type AS (
    SELECT content_type, count(*) AS entries, count(*) FILTER (WHERE live) AS live_entries,
           sum(hit_count) AS hits, sum(token_cost_saved) AS tokens_saved, coalesce(sum(token_cost), 0) AS tokens_spent
    FROM entry
    GROUP BY content_type
)
SELECT jsonb_build_object(
    'user_id', $1,
    'total_cache_entries', (SELECT count(*) FROM entry),
    'live_entries', (SELECT count(*) FROM entry WHERE live),
    'expired_entries', (SELECT count(*) FROM entry WHERE NOT live),
    'total_cache_hits', (SELECT coalesce(sum(hit_count), 0) FROM entry),
    'total_tokens_saved', (SELECT coalesce(sum(token_cost_saved), 0) FROM entry),
    'total_tokens_spent', (SELECT coalesce(sum(token_cost), 0) FROM entry),
    'avg_reuse_score', (SELECT round(avg(reuse_score), 2) FROM entry),
    'last_cache_access', (SELECT max(last_accessed) FROM entry WHERE last_accessed <= clock_timestamp()),
    'content_types', (SELECT coalesce(jsonb_object_agg(content_type, jsonb_build_object(
        'entries', entries, 'live_entries', live_entries, 'hits', hits,
        'tokens_saved', tokens_saved, 'tokens_spent', tokens_spent)), '{}') FROM by_type))
