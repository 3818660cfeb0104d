//! Limits: a user keeps at most `max_entries` entries of a content type.

use super::budget::{Budget, batch_size};
use crate::access::all_rows::{must_change_all, must_see_all};
use crate::address::same_entry;
use crate::extension::{CACHE, Extension, POLICIES, saved_plan};
use crate::pg::clock::now;
use crate::pg::spi::{self, Access};
use crate::stale::StaleTimes;
use crate::statistics;
use crate::statistics::counters::Count;
use pgrx::Uuid;
use std::collections::BTreeMap;

/// A user with too many entries of a content type.
struct Excess {
    user_id: Uuid,
    content_type: Vec<u8>,
    max_entries: i64,
}

/// Evicts entries over the limits, as long as the step's budget lasts; returns how many of each type. Entries that are over go
/// first, then those that have expired and are kept for their stale time, then those of low priority, rarely hit, and last used
/// long ago.
pub fn evict_over_limit(extension: &Extension, budget: &dyn Budget) -> BTreeMap<Vec<u8>, i64> {
    let mut evicted = BTreeMap::new();
    let (over_limit, stale_times) = (over_limit(extension), StaleTimes::read(extension));
    budget.shorten();
    for excess in over_limit {
        loop {
            let batch = evict_batch(extension, &excess, stale_times.over_until(&excess.content_type, now()));
            if batch > 0 {
                *evicted.entry(excess.content_type.clone()).or_default() += batch;
            }
            if budget.is_spent() {
                return evicted;
            }
            if batch == 0 {
                break;
            }
            budget.progress(batch);
            pgrx::check_for_interrupts!();
        }
    }
    evicted
}

fn over_limit(extension: &Extension) -> Vec<Excess> {
    must_see_all(extension, &[CACHE, POLICIES]);
    let schema = &extension.schema;
    let sql = format!(
        "SELECT c.user_id, c.content_type::text, coalesce(p.max_entries, d.max_entries)::bigint \
         FROM (SELECT user_id, content_type, count(*) AS entries \
               FROM {schema}.{CACHE} GROUP BY 1, 2) c \
         LEFT JOIN {schema}.{POLICIES} p ON p.content_type = c.content_type \
         LEFT JOIN {schema}.{POLICIES} d ON d.content_type = '*' AND p.content_type IS NULL \
         WHERE c.entries > coalesce(p.max_entries, d.max_entries) ORDER BY 1, 2"
    );
    spi::run(Access::ReadLatest, &sql, &[], |rows| {
        rows.map(|rows, row| Excess {
            user_id: rows.get(row, 1).expect("user_id is NOT NULL"),
            content_type: rows.text(row, 2).expect("content_type is NOT NULL"),
            max_entries: rows.get(row, 3).expect("the condition is not NULL"),
        })
    })
}

/// Evicts one batch; entries that another session has locked are left for a later run. Clients may have left versions of an
/// entry in several months: the oldest goes first, because it would be found again once the newest is gone. Each reference
/// of the table names the user, so that the statement goes to one node where the table is distributed.
fn evict_batch(extension: &Extension, excess: &Excess, over_until: i64) -> i64 {
    must_change_all(extension, &[CACHE]);
    let had_expired: Vec<bool> = saved_plan::run(
        Access::Write,
        "enforce limits",
        |schema| {
            let cache = format!("{schema}.{CACHE}");
            format!(
                "WITH least AS ( \
                     SELECT user_id, content_type, cache_key FROM {cache} WHERE user_id = $1 AND content_type = $2 \
                     ORDER BY (expires_at <= $5), (expires_at <= clock_timestamp()), priority_tier, hit_count DESC, \
                              last_accessed DESC NULLS LAST, created_at DESC, id OFFSET $3), \
                 oldest AS MATERIALIZED ( \
                     SELECT v.* FROM least l, LATERAL ( \
                         SELECT id, user_id, created_at FROM {cache} v WHERE v.user_id = $1 AND {} \
                         ORDER BY created_at LIMIT 1) v LIMIT $4), \
                 locked AS ( \
                     SELECT id, user_id, created_at FROM {cache} c JOIN oldest USING (id, user_id, created_at) \
                     WHERE c.user_id = $1 FOR UPDATE OF c SKIP LOCKED) \
                 DELETE FROM {cache} c USING locked l \
                 WHERE c.user_id = $1 AND c.id = l.id AND c.user_id = l.user_id AND c.created_at = l.created_at \
                 RETURNING c.expires_at <= clock_timestamp()",
                same_entry(schema, "v", "l")
            )
        },
        &[
            excess.user_id.into(),
            spi::text(&excess.content_type),
            excess.max_entries.into(),
            batch_size(true).into(),
            spi::timestamptz(over_until),
        ],
        |rows| rows.map(|rows, row| rows.get(row, 1).unwrap_or(false)),
    );
    let expired = had_expired.iter().filter(|expired| **expired).count();
    statistics::counted(&excess.content_type, Count::Expirations, expired as u64);
    statistics::counted(&excess.content_type, Count::Evictions, (had_expired.len() - expired) as u64);
    had_expired.len() as i64
}
