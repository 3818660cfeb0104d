//! A run of maintenance by hand: every step in one transaction, each in a subtransaction.

use super::budget::{Budget, share_of_time};
use super::log::{self, Row};
use super::step::{Outcome, Step};
use super::steps::STEPS;
use crate::access::owner;
use crate::error::Warning;
use crate::extension::{CACHE, Extension, locks};
use crate::partition::dump_check;
use crate::pg::advisory_lock;
use crate::pg::clock::{milliseconds, now};
use crate::pg::guc::with_setting;
use crate::pg::{privileges, subtransaction};
use crate::settings;
use pgrx::datum::AnyNumeric;
use pgrx::prelude::*;
use std::time::{Duration, Instant};

/// The budget of a step by hand: little time, because its locks stay until the end of the run.
struct ByHand<'a> {
    extension: &'a Extension,
    deadline: Instant,
}

impl Budget for ByHand<'_> {
    fn is_spent(&self) -> bool {
        Instant::now() >= self.deadline
    }

    fn may_drop(&self) -> bool {
        !dump_check::is_at_work(self.extension)
    }
}

/// Runs every step. A step that fails is undone and reported, and the next one runs. Steps that lock rows, and last those
/// that lock tables, come late, because they keep the locks until the end of the transaction.
///
/// # Errors
/// 42501 unless the current user owns the table.
#[pg_extern(sql = false)]
fn cache_run_maintenance() -> TableIterator<
    'static,
    (
        name!(step, String),
        name!(status, String),
        name!(affected, i64),
        name!(duration_ms, AnyNumeric),
        name!(detail, Option<String>),
    ),
> {
    let extension = Extension::current();
    owner::must_own(
        &extension,
        CACHE,
        "Maintenance creates and drops partitions.",
        "Run it as the owner. A service role can call cleanup_expired_cache_entries_production().",
    );
    if !is_alone() {
        let detail = Some("another run is in progress".to_string());
        return TableIterator::once(("run".into(), "skipped".into(), 0, milliseconds(Duration::ZERO), detail));
    }
    let run_at = now();
    let mut steps: Vec<&Step> = STEPS.iter().collect();
    steps.sort_by_key(|step| step.locks);
    let rows: Vec<Row> = steps.into_iter().map(|step| run_step(&extension, step)).collect();
    // If the log cannot be written, the steps stay done, and the caller still gets their rows.
    if let Err(caught) = subtransaction::attempt(|| log::write(&extension, run_at, None, &rows)) {
        let hint = "Look at the owner, the row security and the constraints of cache_maintenance_runs.";
        Warning::new(PgSqlErrorCode::ERRCODE_WARNING, "the run of maintenance was not logged")
            .detail(caught.to_string())
            .hint(hint)
            .send();
    }
    TableIterator::new(
        rows.into_iter().map(|row| (row.step, row.status.to_string(), row.affected, row.duration_ms, row.detail)),
    )
}

/// Waits for another run, such as a tick of the worker, for at most lock_timeout; returns whether none runs now.
fn is_alone() -> bool {
    advisory_lock::try_lock(locks::MAINTENANCE, 0)
        || subtransaction::attempt(|| with_lock_timeout(|| advisory_lock::lock(locks::MAINTENANCE, 0))).is_ok()
}

fn with_lock_timeout<T>(f: impl FnOnce() -> T) -> T {
    with_setting(c"lock_timeout", &format!("{}ms", settings::LOCK_TIMEOUT.get()), f)
}

fn run_step(extension: &Extension, step: &Step) -> Row {
    let started = Instant::now();
    let budget = ByHand { extension, deadline: started + share_of_time() };
    let result = subtransaction::attempt(|| {
        with_lock_timeout(|| match step.owner_of {
            Some(table) => {
                privileges::without_more_than_owner_of(extension.table(table), || (step.run)(extension, &budget))
            }
            None => (step.run)(extension, &budget),
        })
    });
    let outcome = result.unwrap_or_else(|caught| Outcome::failure(caught.to_string()));
    Row {
        step: step.name.into(),
        status: if outcome.failed { "failed" } else { "ok" },
        affected: outcome.affected,
        duration_ms: milliseconds(started.elapsed()),
        detail: outcome.detail,
    }
}
