WITH pending AS (
    SELECT user_id, hits::numeric AS hits, tokens_saved, last_accessed
    FROM @pending_by_user@
)
SELECT user_id,
       u.entries,
       u.content_types,
       least(u.hits + coalesce(p.hits, 0), 9223372036854775807)::bigint,
       trim_scale(u.tokens_saved + coalesce(p.tokens_saved, 0)),
       round(u.avg_reuse_score, 2),
       greatest(u.last_accessed, p.last_accessed),
       round((u.hits + coalesce(p.hits, 0)) / nullif(u.entries, 0), 2)
FROM @entries_by_user@ u LEFT JOIN pending p USING (user_id)
ORDER BY u.tokens_saved + coalesce(p.tokens_saved, 0) DESC, u.entries DESC, user_id
