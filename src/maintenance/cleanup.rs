//! Expiry: deletes entries that are over, which are past their expiry and their stale time, in small batches.

use super::budget::{Budget, batch_size};
use crate::access::all_rows::{must_change_all, must_see_all};
use crate::extension::{CACHE, Extension, POLICIES, saved_plan};
use crate::partition::catalog::{Partition, partitions_of};
use crate::pg::clock::{milliseconds, now};
use crate::pg::privileges;
use crate::pg::spi::{self, Access};
use crate::stale::{EXPIRY_OF_TYPE, Group, StaleTimes};
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

/// Deletes the entries that are over and that no session has locked, as long as the step's budget lasts; returns what was
/// deleted in each partition.
pub fn delete_expired(extension: &Extension, budget: Option<&dyn Budget>) -> Vec<Cleaned> {
    must_see_all(extension, &[POLICIES]);
    let (stale_times, now) = (StaleTimes::read(extension), now());
    let partitions = partitions_of(extension.table(CACHE));
    partitions
        .iter()
        .map(|partition| clean(extension, partition, &stale_times, now, budget))
        .filter(|cleaned| cleaned.deleted > 0)
        .collect()
}

fn clean(
    extension: &Extension,
    partition: &Partition,
    stale_times: &StaleTimes,
    now: i64,
    budget: Option<&dyn Budget>,
) -> Cleaned {
    let started = Instant::now();
    let mut cleaned = Cleaned { partition: partition.name(), deleted: 0, bytes: 0, took: Duration::ZERO };
    for over in all_over(partition, stale_times, now) {
        let mut past = 0;
        loop {
            pgrx::check_for_interrupts!();
            let (deleted, bytes, kept) =
                delete_batch(extension, partition, stale_times, &over, batch_size(budget.is_some()), past);
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
        if budget.is_some_and(Budget::is_spent) {
            break;
        }
    }
    cleaned.took = started.elapsed();
    cleaned
}

/// Entries that are over: those of a group, or all, that have expired until a time.
struct Over {
    group: Option<Group>,
    until: i64,
}

/// Returns what is over in a partition. Where nothing is kept after its expiry, the index on the expiry has it all. Else each
/// content type has a range of its own, because a scan of all that has expired would read again and again what is kept. Each
/// time another group is the first, so that none waits for ever when the budget is small.
fn all_over(partition: &Partition, stale_times: &StaleTimes, now: i64) -> Vec<Over> {
    if !stale_times.are_used() {
        return vec![Over { group: None, until: now }];
    }
    let over = |group: Group| Over { until: stale_times.group_over_until(&group, now), group: Some(group) };
    let mut all: Vec<Over> = stale_times.groups(partition.from, partition.to).into_iter().map(over).collect();
    let first = now.unsigned_abs() as usize % all.len();
    all.rotate_left(first);
    all
}

/// Deletes one batch; returns how many entries and bytes it deleted, and how many entries it looked at and kept. The index on
/// expiry finds the rows, past those that earlier batches have kept. A row that another session has locked is left for a
/// later run, so the statement waits for nobody and cannot deadlock. Clients that insert a key month after month leave
/// several versions: one that hides an older version with a longer life is kept until the older one is over. The
/// statement goes through the parent, because that is where a service role has rights.
///
/// # Errors
/// 42501 if row security may hide a version with a longer life. A policy that keeps a service role from deleting entries is
/// obeyed; the owner must be able to delete all.
fn delete_batch(
    extension: &Extension,
    partition: &Partition,
    stale_times: &StaleTimes,
    over: &Over,
    size: i64,
    past: i64,
) -> (i64, i64, i64) {
    if privileges::is_owned(extension.table(CACHE)) {
        must_change_all(extension, &[CACHE]);
    } else {
        must_see_all(extension, &[CACHE]);
    }
    let (name, is_over, order) = match over.group {
        None => ("cleanup", "expires_at <= $3".into(), "expires_at"),
        Some(Group::Type(_)) => {
            let is_over = format!("content_type = $6 AND {EXPIRY_OF_TYPE} <= ($3 AT TIME ZONE 'UTC')");
            ("cleanup of a type", is_over, EXPIRY_OF_TYPE)
        }
        Some(Group::UnlistedAfter(_)) => {
            let is_over = "expires_at <= $3 AND content_type > $6 AND content_type <> ALL ($7)".into();
            ("cleanup of other types", is_over, "expires_at")
        }
    };
    let mut args = vec![
        spi::timestamptz(partition.from),
        spi::timestamptz(partition.to),
        spi::timestamptz(over.until),
        size.into(),
        past.into(),
    ];
    match &over.group {
        None => {}
        Some(Group::Type(name)) => args.push(spi::text(name)),
        Some(Group::UnlistedAfter(name)) => args.extend([spi::text(name), stale_times.listed().into()]),
    }
    saved_plan::run(
        Access::Write,
        name,
        |schema| {
            let cache = format!("{schema}.{CACHE}");
            // A subquery for each row, which uses the index: the planner would turn NOT EXISTS into a join with whole
            // partitions.
            format!(
                "WITH locked AS ( \
                     SELECT id, user_id, created_at, content_type, cache_key, \
                            {schema}.cache_entry_digest(content_type, cache_key) AS digest FROM {cache} \
                     WHERE created_at >= $1 AND created_at < $2 AND {is_over} \
                     ORDER BY {order} LIMIT $4 OFFSET $5 FOR UPDATE SKIP LOCKED), \
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
        &args,
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
