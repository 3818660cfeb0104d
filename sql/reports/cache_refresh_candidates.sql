-- Live entries that expire within an interval and have been hit, the most worth first. The innermost query reads the index on
-- expires_at. The one around it asks for each of the best, until there are enough, whether a later month holds a newer version,
-- which decides. OFFSET 0 keeps the planner from making a join of it, which would ask for all. Only of these is read what they
-- were made from, because all of that would have to be sorted. No index can serve the volatile clock_timestamp(), so that
-- statement_timestamp() bounds the scan.
WITH pending AS MATERIALIZED (
    SELECT user_id, entry_digest, sum(hits) AS hits FROM @extschema@.cache_pending_hits() GROUP BY user_id, entry_digest
)
SELECT b.user_id, b.content_type, b.cache_key, b.expires_at, b.hits::bigint, trim_scale(b.token_cost), trim_scale(b.worth),
       origin.prompt_template, origin.prompt_variables, origin.metadata
FROM (
    SELECT b.* FROM (
        SELECT c.user_id, c.content_type::text AS content_type, c.cache_key::text AS cache_key, c.created_at, c.expires_at,
               w.hits, w.token_cost, w.hits * w.token_cost AS worth
        FROM @extschema@.infinite_pages_cache_partitioned c
        LEFT JOIN @extschema@.cache_content_policies own ON own.content_type = c.content_type::text
        LEFT JOIN @extschema@.cache_content_policies others ON others.content_type = '*'
        -- A digest takes longer than all the rest, and hits are rarely pending.
        LEFT JOIN pending p ON p.user_id = c.user_id AND p.entry_digest =
            CASE WHEN EXISTS (SELECT FROM pending) THEN @extschema@.cache_entry_digest(c.content_type::text, c.cache_key::text) END
        CROSS JOIN LATERAL (
            -- A client that inserts into the table gives no cost, so that of the content policy counts.
            SELECT least(coalesce(c.hit_count, 0)::numeric + coalesce(p.hits, 0), 9223372036854775807) AS hits,
                   coalesce(c.token_cost, own.token_cost, others.token_cost, 1)::numeric AS token_cost) w
        WHERE c.expires_at > statement_timestamp() AND c.expires_at > clock_timestamp()
          AND c.expires_at < statement_timestamp() + least($1, interval '1000 years')
          AND w.hits > 0
        ORDER BY worth DESC, expires_at, user_id, content_type, cache_key OFFSET 0) b
    WHERE NOT EXISTS (
        SELECT FROM @extschema@.infinite_pages_cache_partitioned n
        WHERE n.user_id = b.user_id AND n.content_type = b.content_type AND n.cache_key = b.cache_key
          AND @extschema@.cache_entry_digest(n.content_type, n.cache_key) = @extschema@.cache_entry_digest(b.content_type, b.cache_key)
          AND n.created_at > b.created_at OFFSET 0)
    ORDER BY b.worth DESC, b.expires_at, b.user_id, b.content_type, b.cache_key LIMIT $2) b
CROSS JOIN LATERAL (
    SELECT c.prompt_template::text AS prompt_template, c.prompt_variables, c.metadata
    FROM @extschema@.infinite_pages_cache_partitioned c
    WHERE c.user_id = b.user_id AND c.content_type = b.content_type AND c.cache_key = b.cache_key
      AND @extschema@.cache_entry_digest(c.content_type, c.cache_key) = @extschema@.cache_entry_digest(b.content_type, b.cache_key)
      AND c.created_at = b.created_at LIMIT 1) origin
ORDER BY b.worth DESC, b.expires_at, b.user_id, b.content_type, b.cache_key
