-- Figures of a user's entries. An entry knows the number of its hits and the time of the last. The figures by time
-- spread the hits evenly from the storing of the entry to the last hit.
WITH moment AS MATERIALIZED (
    SELECT clock_timestamp() AS now
),
pending AS MATERIALIZED (
    SELECT entry_digest, sum(hits) AS hits, sum(tokens_saved) AS tokens_saved, max(last_accessed) AS last_accessed
    FROM @extschema@.cache_pending_hits() p WHERE p.user_id = $1
    GROUP BY entry_digest
),
stored AS MATERIALIZED (
    SELECT id, created_at, cache_key::text AS cache_key, c.content_type::text AS content_type, foundation_dependency::text AS foundation,
           coalesce(hit_count, 0)::numeric AS hits, coalesce(token_cost_saved, 0)::numeric AS tokens_saved,
           -- A client that inserts into the table gives no cost, so that of the content policy counts.
           coalesce(c.token_cost, own.token_cost, others.token_cost, 1)::numeric AS token_cost,
           reuse_score::numeric AS reuse_score, last_accessed, expires_at > clock_timestamp() AS live, @is_over@ AS is_over,
           nullif(metadata ->> 'genre', '') AS genre,
           CASE WHEN c.content_type::text = 'story_foundation' THEN nullif(prompt_variables ->> 'title', '') END AS title,
           CASE WHEN c.content_type::text = 'story_foundation' THEN nullif(prompt_variables ->> 'genre', '') END AS prompted_genre,
           -- Only if hits are pending, which is rare, because a digest takes longer than all the rest.
           CASE WHEN EXISTS (SELECT FROM pending) THEN @extschema@.cache_entry_digest(c.content_type::text, cache_key::text) END AS digest
    FROM @extschema@.infinite_pages_cache_partitioned c
    LEFT JOIN @extschema@.cache_content_policies own ON own.content_type = c.content_type::text
    LEFT JOIN @extschema@.cache_content_policies others ON others.content_type = '*'
    WHERE c.user_id = $1
),
-- Hits go to the newest version of a key, the one that lookups find.
found AS (
    SELECT DISTINCT ON (p.entry_digest) s.id, s.created_at, p.hits, p.tokens_saved, p.last_accessed
    FROM pending p JOIN stored s ON s.digest = p.entry_digest
    ORDER BY p.entry_digest, s.created_at DESC
),
entry AS MATERIALIZED (
    SELECT s.content_type, s.cache_key, s.foundation, s.created_at, s.token_cost, s.reuse_score, s.live, s.is_over, s.genre, s.title, s.prompted_genre,
           s.hits + coalesce(f.hits, 0) AS hits, s.tokens_saved + coalesce(f.tokens_saved, 0) AS tokens_saved,
           greatest(CASE WHEN s.last_accessed <= now THEN s.last_accessed END, f.last_accessed) AS last_accessed,
           -- Infinite and future times are left out.
           least(CASE WHEN isfinite(greatest(s.last_accessed, f.last_accessed)) THEN greatest(s.last_accessed, f.last_accessed)
                      WHEN isfinite(s.created_at) THEN s.created_at END, now) AS last_hit
    FROM moment, stored s LEFT JOIN found f USING (id, created_at)
),
history AS MATERIALIZED (
    SELECT hits::double precision AS hits, tokens_saved::double precision AS tokens_saved,
           extract(epoch FROM least(CASE WHEN isfinite(created_at) THEN created_at END, last_hit))::double precision AS first,
           extract(epoch FROM last_hit)::double precision AS last
    FROM entry, moment WHERE (hits > 0 OR tokens_saved > 0) AND last_hit > now - interval '31 days'
),
period AS (
    SELECT day, extract(epoch FROM day::timestamp)::double precision AS first, extract(epoch FROM day::timestamp)::double precision + 86400 AS next,
           day::timestamp AT TIME ZONE 'UTC' AS begins, (day + 1)::timestamp AT TIME ZONE 'UTC' AS ends
    FROM moment, LATERAL (SELECT (now AT TIME ZONE 'UTC')::date - ago AS day FROM generate_series(0, 6) ago) d
    UNION ALL
    SELECT NULL, extract(epoch FROM now - interval '30 days')::double precision, 'infinity', NULL, NULL FROM moment
),
lately AS (
    SELECT p.day, round(coalesce(sum(h.hits * part), 0)::numeric) AS hits, trim_scale(round(coalesce(sum(h.tokens_saved * part), 0)::numeric, 2)) AS tokens_saved,
           (SELECT count(*) FROM entry e WHERE e.created_at >= p.begins AND e.created_at < p.ends) AS stored
    FROM period p LEFT JOIN history h ON h.last >= p.first AND h.first < p.next,
         LATERAL (SELECT CASE WHEN h.first = h.last THEN 1 ELSE (least(h.last, p.next) - greatest(h.first, p.first)) / (h.last - h.first) END AS part) share
    GROUP BY p.day, p.begins, p.ends
),
by_type AS (
    SELECT content_type, count(*) AS entries, count(*) FILTER (WHERE live) AS live_entries, sum(hits) AS hits,
           trim_scale(sum(tokens_saved)) AS tokens_saved, trim_scale(coalesce(sum(token_cost), 0)) AS tokens_spent
    FROM entry GROUP BY content_type
),
total AS (
    SELECT count(*) AS entries, count(*) FILTER (WHERE live) AS live_entries, count(*) FILTER (WHERE is_over) AS expired_entries, coalesce(sum(hits), 0) AS hits,
           trim_scale(coalesce(sum(tokens_saved), 0)) AS tokens_saved, trim_scale(coalesce(sum(token_cost), 0)) AS tokens_spent,
           round(avg(reuse_score), 2) AS avg_reuse_score, max(last_accessed) AS last_accessed,
           count(*) FILTER (WHERE content_type = 'story_foundation') AS foundations,
           count(*) FILTER (WHERE content_type = 'story_foundation' AND hits > 0) AS reused_foundations,
           count(foundation) FILTER (WHERE content_type = 'chapter_content') AS chapters,
           count(DISTINCT foundation) FILTER (WHERE content_type = 'chapter_content') AS foundations_of_chapters
    FROM entry
)
SELECT jsonb_build_object(
    'user_id', $1,
    'total_cache_entries', entries,
    'live_entries', live_entries,
    'expired_entries', expired_entries,
    'total_cache_hits', hits,
    'total_tokens_saved', tokens_saved,
    'total_tokens_spent', tokens_spent,
    'avg_reuse_score', avg_reuse_score,
    'last_cache_access', last_accessed,
    'content_types', (SELECT coalesce(jsonb_object_agg(content_type, jsonb_build_object(
        'entries', entries, 'live_entries', live_entries, 'hits', hits,
        'tokens_saved', tokens_saved, 'tokens_spent', tokens_spent)), '{}') FROM by_type),
    'totalTokensSaved', tokens_saved,
    'cacheHitRateByType', (SELECT coalesce(jsonb_object_agg(content_type, trim_scale(round(100 * hits / (hits + entries), 2))), '{}') FROM by_type),
    'topGenres', (
        SELECT coalesce(jsonb_agg(jsonb_build_object('genre', genre, 'efficiency', efficiency, 'cacheHitRate', hit_rate, 'totalSavings', savings)
                                  ORDER BY savings DESC, hit_rate DESC, genre COLLATE "C"), '[]')
        FROM (SELECT genre, trim_scale(coalesce(round(avg(reuse_score), 2), 0)) AS efficiency,
                     trim_scale(round(100 * sum(hits) / (sum(hits) + count(*)), 2)) AS hit_rate, trim_scale(sum(tokens_saved)) AS savings
              FROM entry WHERE genre IS NOT NULL GROUP BY genre ORDER BY savings DESC, hit_rate DESC, genre COLLATE "C" LIMIT 5) g),
    'foundationReuseRate', trim_scale(coalesce(round(100.0 * reused_foundations / nullif(foundations, 0), 2), 0)),
    'costSavingsThisMonth', (SELECT tokens_saved FROM lately WHERE day IS NULL),
    'avgChaptersPerFoundation', trim_scale(coalesce(round(chapters::numeric / nullif(foundations_of_chapters, 0), 2), 0)),
    'mostReusedFoundations', (
        SELECT coalesce(jsonb_agg(jsonb_build_object('title', title, 'genre', genre, 'reuse_count', hits, 'total_savings', trim_scale(tokens_saved))
                                  ORDER BY hits DESC, tokens_saved DESC, title COLLATE "C"), '[]')
        FROM (SELECT coalesce(title, cache_key) AS title, coalesce(genre, prompted_genre, '') AS genre, hits, tokens_saved
              FROM entry WHERE content_type = 'story_foundation' AND hits > 0
              ORDER BY hits DESC, tokens_saved DESC, coalesce(title, cache_key) COLLATE "C" LIMIT 5) f),
    'dailyPerformance', (
        SELECT jsonb_agg(jsonb_build_object('date', day, 'requests', hits + stored, 'hits', hits,
                                            'hitRate', trim_scale(coalesce(round(100 * hits / nullif(hits + stored, 0), 2), 0)),
                                            'tokensSaved', tokens_saved) ORDER BY day) FROM lately WHERE day IS NOT NULL),
    'cacheEfficiencyScore', trim_scale(coalesce(round(100 * tokens_saved / nullif(tokens_saved + tokens_spent, 0), 2), 0)))
FROM total
