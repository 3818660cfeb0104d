//! Limits: a user keeps at most `max_entries` entries of a type of content.

use crate::home::Home;
use crate::spi::{self, Access};

/// Evicts what is over the limits; returns how many entries. Those go first that have expired, then
/// those of low priority, rarely hit, and last used long ago.
pub fn evict_over_limit(home: &Home) -> i64 {
    let schema = &home.schema;
    let cache = format!("{schema}.infinite_pages_cache_partitioned");
    // Who is over a limit is found first: as a rule nobody is, and then nothing has to be ranked.
    let sql = format!(
        "WITH over AS ( \
             SELECT c.user_id, c.content_type, coalesce(p.max_entries, d.max_entries) AS max_entries \
             FROM (SELECT user_id, content_type, count(*) AS entries FROM {cache} GROUP BY 1, 2) c \
             LEFT JOIN {schema}.cache_content_policies p ON p.content_type = c.content_type \
             LEFT JOIN {schema}.cache_content_policies d ON d.content_type = '*' AND p.content_type IS NULL \
             WHERE c.entries > coalesce(p.max_entries, d.max_entries)), \
         ranked AS ( \
             SELECT c.id, c.user_id, c.created_at, o.max_entries, \
                    row_number() OVER (PARTITION BY c.user_id, c.content_type \
                        ORDER BY (c.expires_at <= clock_timestamp()), c.priority_tier, c.hit_count DESC, \
                                 c.last_accessed DESC NULLS LAST, c.created_at DESC, c.id) AS place \
             FROM over o JOIN {cache} c USING (user_id, content_type)), \
         locked AS ( \
             SELECT c.id, c.user_id, c.created_at FROM {cache} c JOIN ranked r USING (id, user_id, created_at) \
             WHERE r.place > r.max_entries \
             ORDER BY c.user_id, {schema}.cache_entry_digest(c.content_type, c.cache_key) \
             FOR UPDATE OF c SKIP LOCKED) \
         DELETE FROM {cache} c USING locked l \
         WHERE c.id = l.id AND c.user_id = l.user_id AND c.created_at = l.created_at"
    );
    spi::run(Access::Write, &sql, &[], |rows| rows.count() as i64)
}
