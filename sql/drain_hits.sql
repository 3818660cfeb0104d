-- Adds hits to entries: $1 users, $2 digests, $3 hits, $4 last accesses, in the order in which rows are
-- locked; with $5 to one entry of a page only. Returns the number of each entry that was found, again if
-- it was chosen for an update, and again if it was updated: one that somebody else holds is not waited for.
WITH found AS MATERIALIZED (
    SELECT h.n, h.hits, h.last_hit, e.*
    FROM unnest($1, $2, $3, $4) WITH ORDINALITY AS h (user_id, digest, hits, last_hit, n) CROSS JOIN LATERAL (
        SELECT c.id, c.user_id, c.created_at, c.tableoid, (c.ctid::text::point)[0] AS page
        FROM @extschema@.infinite_pages_cache_partitioned c
        WHERE c.user_id = h.user_id AND @extschema@.cache_entry_digest(c.content_type, c.cache_key) = h.digest
        ORDER BY c.created_at DESC LIMIT 1) e
),
chosen AS MATERIALIZED (
    SELECT DISTINCT ON (tableoid, page, CASE WHEN $5 THEN 0 ELSE n END) n, hits, last_hit, id, user_id, created_at
    FROM found
),
locked AS MATERIALIZED (
    SELECT ch.n, ch.hits, ch.last_hit, c.id, c.user_id, c.created_at
    FROM (SELECT * FROM chosen ORDER BY n) ch
    JOIN @extschema@.infinite_pages_cache_partitioned c
        ON c.id = ch.id AND c.user_id = ch.user_id AND c.created_at = ch.created_at
    FOR NO KEY UPDATE OF c SKIP LOCKED
),
updated AS (
    UPDATE @extschema@.infinite_pages_cache_partitioned c
    -- The column of an adopted table may be of type integer.
    SET hit_count = least(c.hit_count::numeric + l.hits, CASE WHEN pg_typeof(c.hit_count) = 'integer'::regtype
                          THEN 2147483647 ELSE 9223372036854775807 END)::bigint,
        -- The whole units that all hits have saved, so that fractions add up over time.
        token_cost_saved = least(c.token_cost_saved + floor((c.hit_count::numeric + l.hits) * coalesce(c.token_cost, 0))
                                     - floor(c.hit_count * coalesce(c.token_cost, 0)), 9223372036854775807)::bigint,
        last_accessed = greatest(c.last_accessed, l.last_hit)
    FROM locked l
    WHERE c.id = l.id AND c.user_id = l.user_id AND c.created_at = l.created_at
    RETURNING l.n, c.tableoid, c.user_id, c.content_type, l.hits, l.last_hit,
              floor(c.hit_count * coalesce(c.token_cost, 0))
                  - floor((c.hit_count - l.hits) * coalesce(c.token_cost, 0)) AS tokens
),
by_type AS (
    UPDATE @extschema@.cache_entry_summary s
    SET hits = s.hits + u.hits, tokens_saved = s.tokens_saved + u.tokens,
        last_activity = greatest(s.last_activity, u.last_hit)
    FROM (SELECT tableoid, content_type, sum(hits) AS hits, sum(tokens) AS tokens, max(last_hit) AS last_hit
          FROM updated GROUP BY 1, 2) u
    JOIN pg_class p ON p.oid = u.tableoid
    WHERE s.partition_name = p.relname AND s.content_type = u.content_type
),
by_user AS (
    UPDATE @extschema@.cache_user_summary s
    SET hits = s.hits + u.hits, tokens_saved = s.tokens_saved + u.tokens,
        last_accessed = greatest(s.last_accessed, u.last_hit)
    FROM (SELECT user_id, sum(hits) AS hits, sum(tokens) AS tokens, max(last_hit) AS last_hit
          FROM updated GROUP BY 1) u
    WHERE s.user_id = u.user_id
)
SELECT n, 1 FROM found UNION ALL SELECT n, 2 FROM chosen UNION ALL SELECT n, 3 FROM updated
