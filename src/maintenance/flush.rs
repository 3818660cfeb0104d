//! The flush: stores in the tables the statistics and audited lookups that shared memory holds.

use super::budget::Budget;
use super::step::Outcome;
use crate::access::owner;
use crate::audit::reads;
use crate::error::Refusal;
use crate::extension::{AUDIT_LOG, BY_TYPE, BY_USER, CACHE, Extension, STATISTICS, locks};
use crate::pg::advisory_lock;
use crate::pg::privileges;
use crate::statistics::at_commit;
use crate::statistics::flush::{Entries, store_counters};
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
    TableIterator::once(privileges::without_more_than_owner_of(extension.table(STATISTICS), || flush_all(&extension)))
}

fn flush_all(extension: &Extension) -> (i64, i64, i64, i64) {
    if !begin() {
        return (0, 0, 0, 0);
    }
    let (content_types, audit_rows) = (store_counters(extension), reads::store(extension));
    let mut entries = Entries::counted();
    let (mut updated, mut locked) = (0, 0);
    while let Some(batch) = entries.store_batch(extension, false) {
        updated += batch.updated;
        locked += batch.locked;
    }
    (updated, locked, content_types, audit_rows)
}

/// Waits for another flush. Returns false if this transaction has flushed already, because shared memory keeps what it has
/// stored until it commits.
fn begin() -> bool {
    advisory_lock::lock(locks::STATISTICS, 0);
    !at_commit::has_stored() && !reads::has_stored()
}

/// Stores what shared memory has counted. The worker stores the hits of one entry of each page at a time, and waits until the
/// pages have room again.
pub fn flush(extension: &Extension, budget: &dyn Budget) -> Outcome {
    if let Some(refusal) = Outcome::unless_of_one_owner(extension, &WRITTEN) {
        return refusal;
    }
    if !begin() {
        return Outcome {
            detail: Some("this transaction has already stored its statistics".into()),
            ..Outcome::default()
        };
    }
    let mut stored = store_counters(extension) + reads::store(extension);
    budget.progress(stored);
    let mut entries = Entries::counted();
    let mut pacing = Pacing::default();
    loop {
        budget.commit();
        while budget.is_unattended() && !pacing.may_go_on(extension) {
            budget.commit();
        }
        begin();
        let Some(batch) = entries.store_batch(extension, budget.is_unattended()) else { break };
        pacing.has_updated();
        stored += batch.updated;
        budget.progress(batch.updated);
        if budget.is_spent() {
            break;
        }
    }
    Outcome::in_time(stored, budget)
}
