//! The flush: stores in the tables the statistics and audited lookups that shared memory holds.

use super::budget::{Budget, Unlimited};
use super::step::Outcome;
use crate::access::owner;
use crate::audit::reads;
use crate::error::Refusal;
use crate::extension::{AUDIT_LOG, BY_TYPE, BY_USER, CACHE, Extension, STATISTICS, locks};
use crate::lease;
use crate::pg::advisory_lock;
use crate::pg::privileges;
use crate::statistics::at_commit;
use crate::statistics::flush_counters::flush_counters;
use crate::statistics::flush_hits::Entries;
use crate::statistics::pacing::Pacing;
use pgrx::prelude::*;

/// The tables that a flush writes.
const WRITTEN: [&str; 5] = [STATISTICS, CACHE, AUDIT_LOG, BY_TYPE, BY_USER];

#[pg_extern(sql = false)]
fn cache_flush_statistics() -> TableIterator<
    'static,
    (name!(entries_updated, i64), name!(entries_locked, i64), name!(content_types, i64), name!(audit_rows, i64)),
> {
    let extension = Extension::current();
    owner::must_own(
        &extension,
        CACHE,
        "Only the owner of the cache can store what has been counted.",
        "Run it as the owner. The views also show what is not stored yet.",
    );
    if let Some((one, other)) = owner::of_different_owners(&extension, &WRITTEN) {
        Refusal::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("tables {one} and {other} have different owners"),
        )
        .detail("All that has been counted is stored with the rights of one owner.")
        .hint("Give them one owner: ALTER TABLE … OWNER TO.")
        .raise();
    }
    let flushed = privileges::without_more_than_owner_of(extension.table(STATISTICS), || flush(&extension, &Unlimited))
        .unwrap_or_default();
    TableIterator::once((flushed.entries_updated, flushed.entries_locked, flushed.content_types, flushed.audit_rows))
}

/// The step of maintenance.
pub fn step(extension: &Extension, budget: &dyn Budget) -> Outcome {
    if let Some(refusal) = Outcome::unless_of_one_owner(extension, &WRITTEN) {
        return refusal;
    }
    match flush(extension, budget) {
        None => {
            Outcome { detail: Some("this transaction has already stored its statistics".into()), ..Outcome::default() }
        }
        Some(flushed) => Outcome::in_time(flushed.entries_updated + flushed.content_types + flushed.audit_rows, budget),
    }
}

/// What a flush has stored.
#[derive(Default)]
struct Flushed {
    entries_updated: i64,
    entries_locked: i64,
    content_types: i64,
    audit_rows: i64,
}

/// Stores what shared memory has counted, as far as the budget goes. The worker stores the hits of one entry of each page at a
/// time, and waits until the pages have room again. Returns `None` if this transaction has flushed already, because shared
/// memory keeps what it has stored until it commits.
fn flush(extension: &Extension, budget: &dyn Budget) -> Option<Flushed> {
    lock();
    if at_commit::has_stored() || reads::has_stored() {
        return None;
    }
    // Nobody else notices when the time of a lease is over.
    lease::count_expired();
    let mut flushed =
        Flushed { content_types: flush_counters(extension), audit_rows: reads::flush(extension), ..Flushed::default() };
    budget.progress(flushed.content_types + flushed.audit_rows);
    let mut entries = Entries::counted();
    let mut pacing = Pacing::default();
    loop {
        budget.commit();
        while budget.is_unattended() && !pacing.may_go_on(extension) {
            budget.commit();
        }
        lock();
        let Some(batch) = entries.flush_batch(extension, budget.is_unattended()) else { break };
        pacing.has_updated();
        flushed.entries_updated += batch.updated;
        flushed.entries_locked += batch.locked;
        budget.progress(batch.updated);
        if budget.is_spent() {
            break;
        }
    }
    Some(flushed)
}

/// Waits for another flush.
fn lock() {
    advisory_lock::lock(locks::STATISTICS, 0);
}
