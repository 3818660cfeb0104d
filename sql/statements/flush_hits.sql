-- Adds hits to entries: $1 users, $2 digests, $3 ids (NULL if not known), $4 hits, $5 units and $6 millionths that they
-- saved, $7 last accesses, in the order in which rows are locked. With $8, only one entry of each page. Returns the number
-- of each entry that was found, again if it was chosen, and again if it was updated: a row that another session has locked
-- is skipped. An entry that is gone is not found, even if another has its key now.
WITH found AS MATERIALIZED (
    SELECT h.n, h.hits, h.units + h.millionths * 0.000001 AS tokens, h.last_hit, e.*
    FROM unnest($1, $2, $3, $4, $5, $6, $7) WITH ORDINALITY AS h (user_id, digest, id, hits, units, millionths, last_hit, n)
    CROSS JOIN LATERAL (
        SELECT c.id, c.user_id, c.created_at, c.tableoid, (c.ctid::text::point)[0] AS page
        FROM @extschema@.infinite_pages_cache_partitioned c
        WHERE c.user_id = h.user_id AND @extschema@.cache_entry_digest(c.content_type, c.cache_key) = h.digest
          -- The id of an adopted table may be of another type.
          AND (h.id IS NULL OR c.id::text = h.id::text)
        ORDER BY c.created_at DESC LIMIT 1) e
),
chosen AS MATERIALIZED (
    SELECT DISTINCT ON (tableoid, page, CASE WHEN $8 THEN 0 ELSE n END) n, hits, tokens, last_hit, id, user_id, created_at
    FROM found
),
locked AS MATERIALIZED (
    -- The row holds whole units. The fraction that its earlier hits saved follows from their number, if they cost the same
    -- as these; if not, the result is off by less than a unit. An adopted table may hold negative counts or NULL, because
    -- it has no constraints.
    SELECT ch.n, ch.hits, ch.tokens, ch.last_hit, c.id, c.user_id, c.created_at,
           greatest(coalesce(c.hit_count, 0), 0)::numeric AS hit_count,
           mod(greatest(coalesce(c.hit_count, 0), 0) * (ch.tokens / ch.hits), 1) AS fraction
    FROM (SELECT * FROM chosen ORDER BY n) ch
    JOIN @extschema@.infinite_pages_cache_partitioned c
        ON c.id = ch.id AND c.user_id = ch.user_id AND c.created_at = ch.created_at
    FOR NO KEY UPDATE OF c SKIP LOCKED
),
updated AS (
    UPDATE @extschema@.infinite_pages_cache_partitioned c
    -- The column of an adopted table may be of type integer.
    SET hit_count = least(l.hit_count + l.hits, CASE WHEN pg_typeof(c.hit_count) = 'integer'::regtype
                          THEN 2147483647 ELSE 9223372036854775807 END)::bigint,
        token_cost_saved = least(greatest(coalesce(c.token_cost_saved, 0), 0) + floor(l.fraction + l.tokens),
                                 9223372036854775807)::bigint,
        last_accessed = greatest(c.last_accessed, l.last_hit)
    FROM locked l
    WHERE c.id = l.id AND c.user_id = l.user_id AND c.created_at = l.created_at
    RETURNING l.n, c.tableoid, c.user_id, c.content_type, l.hits, l.last_hit,
              floor(l.fraction + l.tokens) AS tokens
),
-- Adds a row, with no entries until the next count, to a summary that is in use but lacks one.
by_type AS (
    INSERT INTO @extschema@.cache_entry_summary AS s
        (partition_name, content_type, entries, expired_entries, high_priority_entries, hits, tokens_saved, last_activity, measured_at)
    SELECT p.relname, u.content_type, 0, 0, 0, sum(u.hits), sum(u.tokens), max(u.last_hit), m.measured_at
    FROM updated u JOIN pg_class p ON p.oid = u.tableoid
    CROSS JOIN (SELECT measured_at FROM @extschema@.cache_entry_summary LIMIT 1) m
    GROUP BY p.relname, u.content_type, m.measured_at
    ON CONFLICT (partition_name, content_type) DO UPDATE
    SET hits = s.hits + excluded.hits, tokens_saved = s.tokens_saved + excluded.tokens_saved,
        last_activity = greatest(s.last_activity, excluded.last_activity)
),
by_user AS (
    INSERT INTO @extschema@.cache_user_summary AS s
        (user_id, entries, content_types, hits, tokens_saved, last_accessed, measured_at)
    SELECT u.user_id, 0, 0, sum(u.hits), sum(u.tokens), max(u.last_hit), m.measured_at
    FROM updated u CROSS JOIN (SELECT measured_at FROM @extschema@.cache_user_summary LIMIT 1) m
    GROUP BY u.user_id, m.measured_at
    ON CONFLICT (user_id) DO UPDATE
    SET hits = s.hits + excluded.hits, tokens_saved = s.tokens_saved + excluded.tokens_saved,
        last_accessed = greatest(s.last_accessed, excluded.last_accessed)
)
SELECT n, 1 FROM found UNION ALL SELECT n, 2 FROM chosen UNION ALL SELECT n, 3 FROM updated
