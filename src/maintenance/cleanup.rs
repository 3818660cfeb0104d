//! Expiry: deletes expired entries in small batches.

use super::budget::{Budget, batch_size};
use crate::access::all_rows::{must_change_all, must_see_all};
use crate::extension::{CACHE, Extension, saved_plan};
use crate::partition::catalog::{Partition, partitions_of};
use crate::pg::clock::{milliseconds, now};
use crate::pg::privileges;
use crate::pg::spi::{self, Access};
use crate::statistics;
use crate::statistics::counters::Count;
use pgrx::datum::AnyNumeric;
use pgrx::prelude::*;
use std::time::{Duration, Instant};

/// What was deleted in a partition.
pub struct Cleaned {
    pub partition: String,
    pub deleted: i64,
    pub bytes: i64,
    pub took: Duration,
}

#[pg_extern(sql = false)]
fn cleanup_expired_cache_entries_production() -> TableIterator<
    'static,
    (
        name!(deleted_count, i64),
        name!(freed_space_mb, AnyNumeric),
        name!(cleanup_duration_ms, AnyNumeric),
        name!(partition_cleaned, Option<String>),
    ),
> {
    let started = Instant::now();
    let extension = Extension::current();
    let mut rows: Vec<_> =
        privileges::without_more_than_owner_of(extension.table(CACHE), || delete_expired(&extension, None))
            .into_iter()
            .map(|cleaned| {
                (cleaned.deleted, megabytes_of(cleaned.bytes), milliseconds(cleaned.took), Some(cleaned.partition))
            })
            .collect();
    if rows.is_empty() {
        rows.push((0, megabytes_of(0), milliseconds(started.elapsed()), None));
    }
    TableIterator::new(rows)
}

/// Returns megabytes with six decimals, enough for a byte.
fn megabytes_of(bytes: i64) -> AnyNumeric {
    AnyNumeric::try_from(format!("{:.6}", bytes as f64 / 1_048_576.0).as_str()).expect("a decimal number")
}

/// Deletes the expired entries that no session has locked, as long as the step's budget lasts; returns what was deleted in
/// each partition.
pub fn delete_expired(extension: &Extension, budget: Option<&dyn Budget>) -> Vec<Cleaned> {
    let now = now();
    let partitions = partitions_of(extension.table(CACHE));
    partitions
        .iter()
        .map(|partition| clean(extension, partition, now, budget))
        .filter(|cleaned| cleaned.deleted > 0)
        .collect()
}

fn clean(extension: &Extension, partition: &Partition, now: i64, budget: Option<&dyn Budget>) -> Cleaned {
    let started = Instant::now();
    let mut cleaned = Cleaned { partition: partition.name(), deleted: 0, bytes: 0, took: Duration::ZERO };
    let mut past = 0;
    loop {
        pgrx::check_for_interrupts!();
        let (deleted, bytes, kept) = delete_batch(extension, partition, now, batch_size(budget.is_some()), past);
        cleaned.deleted += deleted;
        cleaned.bytes += bytes;
        past += kept;
        if deleted + kept == 0 || budget.is_some_and(Budget::is_spent) {
            break;
        }
        if let Some(budget) = budget {
            budget.progress(deleted);
        }
    }
    cleaned.took = started.elapsed();
    cleaned
}

/// Deletes one batch; returns how many entries and bytes it deleted, and how many entries it looked at and kept. The index on
/// expiry finds the rows, past those that earlier batches have kept. A row that another session has locked is left for a
/// later run, so the statement waits for nobody and cannot deadlock. Clients that insert a key month after month leave
/// several versions: one that hides an older version with a longer life is kept as long as the older one lives. The
/// statement goes through the parent, because that is where a service role has rights.
///
/// # Errors
/// 42501 if row security may hide a version with a longer life. A policy that keeps a service role from deleting entries is
/// obeyed; the owner must be able to delete all.
fn delete_batch(extension: &Extension, partition: &Partition, now: i64, size: i64, past: i64) -> (i64, i64, i64) {
    if privileges::is_owned(extension.table(CACHE)) {
        must_change_all(extension, &[CACHE]);
    } else {
        must_see_all(extension, &[CACHE]);
    }
    saved_plan::run(
        Access::Write,
        "cleanup",
        |schema| {
            let cache = format!("{schema}.{CACHE}");
            // A subquery for each row, which uses the index: the planner would turn NOT EXISTS into a join with whole
            // partitions.
            format!(
                "WITH locked AS ( \
                     SELECT id, user_id, created_at, content_type, cache_key, \
                            {schema}.cache_entry_digest(content_type, cache_key) AS digest FROM {cache} \
                     WHERE created_at >= $1 AND created_at < $2 AND expires_at <= $3 \
                     ORDER BY expires_at LIMIT $4 OFFSET $5 FOR UPDATE SKIP LOCKED), \
                 hiding_nothing AS MATERIALIZED ( \
                     SELECT * FROM locked l WHERE ( \
                         SELECT true FROM {cache} o \
                         WHERE o.user_id = l.user_id AND {schema}.cache_entry_digest(o.content_type, o.cache_key) = l.digest \
                           AND o.content_type = l.content_type AND o.cache_key = l.cache_key \
                           AND o.created_at < $1 AND o.expires_at > $3 LIMIT 1) IS NULL), \
                 deleted AS ( \
                     DELETE FROM {cache} c USING hiding_nothing l \
                     WHERE c.id = l.id AND c.user_id = l.user_id AND c.created_at = l.created_at \
                       AND c.created_at >= $1 AND c.created_at < $2 \
                     RETURNING c.content_type::text AS content_type, pg_column_size(c.content) + pg_column_size(c.cache_key) + pg_column_size(c.content_type) \
                         + coalesce(pg_column_size(c.metadata), 0) + coalesce(pg_column_size(c.prompt_template), 0) \
                         + coalesce(pg_column_size(c.prompt_variables), 0) AS bytes) \
                 SELECT content_type, count(*), sum(bytes)::bigint FROM deleted GROUP BY content_type \
                 UNION ALL SELECT NULL, (SELECT count(*) FROM locked) - (SELECT count(*) FROM deleted), 0"
            )
        },
        &[
            spi::timestamptz(partition.from),
            spi::timestamptz(partition.to),
            spi::timestamptz(now),
            size.into(),
            past.into(),
        ],
        |rows| {
            let (mut deleted, mut bytes, mut kept) = (0, 0, 0);
            for row in 0..rows.count() {
                let entries: i64 = rows.get(row, 2).expect("a count");
                let Some(content_type) = rows.text(row, 1) else {
                    kept = entries;
                    continue;
                };
                statistics::counted(&content_type, Count::Expirations, entries.unsigned_abs());
                deleted += entries;
                bytes += rows.get::<i64>(row, 3).unwrap_or(0);
            }
            (deleted, bytes, kept)
        },
    )
}
