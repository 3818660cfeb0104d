WITH entry AS (
    -- Who inserts into the table does not say the cost: that of the content policy counts.
    SELECT c.content_type, hit_count, token_cost_saved, coalesce(c.token_cost, own.token_cost, others.token_cost, 1) AS token_cost,
           reuse_score, last_accessed, expires_at > clock_timestamp() AS live
    FROM @extschema@.infinite_pages_cache_partitioned c
    LEFT JOIN @extschema@.cache_content_policies own ON own.content_type = c.content_type::text
    LEFT JOIN @extschema@.cache_content_policies others ON others.content_type = '*'
    WHERE c.user_id = $1
),
pending AS MATERIALIZED (
    SELECT content_type, sum(hits) AS hits, sum(tokens_saved) AS tokens_saved, max(last_accessed) AS last_accessed
    FROM @extschema@.cache_pending_hits() p WHERE p.user_id = $1
    GROUP BY content_type
),
by_type AS (
    SELECT content_type, e.entries, e.live_entries, e.hits + coalesce(p.hits, 0) AS hits,
           trim_scale(e.tokens_saved + coalesce(p.tokens_saved, 0)) AS tokens_saved, e.tokens_spent,
           greatest(e.last_accessed, p.last_accessed) AS last_accessed
    FROM (SELECT content_type::text AS content_type, count(*) AS entries, count(*) FILTER (WHERE live) AS live_entries,
                 coalesce(sum(hit_count), 0) AS hits, coalesce(sum(token_cost_saved), 0) AS tokens_saved,
                 trim_scale(coalesce(sum(token_cost), 0)::numeric) AS tokens_spent,
                 max(last_accessed) FILTER (WHERE last_accessed <= clock_timestamp()) AS last_accessed
          FROM entry GROUP BY content_type) e
    LEFT JOIN pending p USING (content_type)
),
total AS (
    SELECT hits, tokens_saved, last_accessed FROM by_type
    UNION ALL
    -- Of types that have no counters of their own.
    SELECT hits, tokens_saved, last_accessed FROM pending WHERE content_type = ''
)
SELECT jsonb_build_object(
    'user_id', $1,
    'total_cache_entries', (SELECT count(*) FROM entry),
    'live_entries', (SELECT count(*) FROM entry WHERE live),
    'expired_entries', (SELECT count(*) FROM entry WHERE NOT live),
    'total_cache_hits', (SELECT coalesce(sum(hits), 0) FROM total),
    'total_tokens_saved', (SELECT trim_scale(coalesce(sum(tokens_saved), 0)) FROM total),
    'total_tokens_spent', (SELECT trim_scale(coalesce(sum(token_cost), 0)::numeric) FROM entry),
    'avg_reuse_score', (SELECT round(avg(reuse_score), 2) FROM entry),
    'last_cache_access', (SELECT max(last_accessed) FROM total),
    'content_types', (SELECT coalesce(jsonb_object_agg(content_type, jsonb_build_object(
        'entries', entries, 'live_entries', live_entries, 'hits', hits,
        'tokens_saved', tokens_saved, 'tokens_spent', tokens_spent)), '{}') FROM by_type))
