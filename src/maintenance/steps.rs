//! The steps of maintenance.

use super::budget::{Budget, LONGEST_BATCH, LONGEST_SCAN};
use super::cleanup::delete_expired;
use super::limits::evict_over_limit;
use super::step::{Locks, Outcome, Step};
use super::{drop_months, flush};
use crate::access::all_rows::must_change_all;
use crate::access::former_functions;
use crate::extension::{AUDIT_LOG, BY_TYPE, BY_USER, CACHE, Extension, RUNS, STATISTICS};
use crate::partition::catalog::{Partition, partitions_of};
use crate::partition::create::{Table, create, wanted_months};
use crate::partition::secure::secure_all;
use crate::pg::clock::now;
use crate::pg::spi::{self, Access};
use crate::pg::subtransaction;
use crate::pg::table_lock::try_lock_to_analyze;
use crate::settings;
use crate::statistics::summary;
use std::time::Duration;

/// Most steps.
const ORDINARY: Step = Step {
    name: "",
    owner_of: Some(CACHE),
    locks: Locks::Nothing,
    scans: false,
    routine: false,
    longest: || LONGEST_BATCH,
    run: |_, _| 0.into(),
};

/// A step that reads whole tables.
const SCAN: Step = Step { scans: true, longest: || LONGEST_SCAN, ..ORDINARY };

/// A step that drops months. It runs no user's code, and may have much to read and to remove.
const DROP: Step = Step { locks: Locks::Tables, longest: || LONGEST_SCAN, ..ORDINARY };

/// The steps in the order of the worker. Dead months are dropped first, so that their entries are not deleted one by one.
pub const STEPS: [Step; 13] = [
    Step {
        name: "flush statistics",
        owner_of: Some(STATISTICS),
        locks: Locks::LiveRows,
        routine: true,
        longest: longest_flush,
        run: flush::step,
        ..ORDINARY
    },
    Step { name: "premake partitions", run: |extension, budget| premake(extension, Table::Cache, budget), ..ORDINARY },
    Step {
        name: "premake audit partitions",
        owner_of: Some(AUDIT_LOG),
        run: |extension, budget| premake(extension, Table::AuditLog, budget),
        ..ORDINARY
    },
    Step { name: "drop dead months", run: drop_months::drop_dead, ..DROP },
    Step { name: "retention", run: drop_months::drop_old, ..DROP },
    Step { name: "delete expired entries", locks: Locks::ExpiredRows, run: expire, ..ORDINARY },
    Step { name: "enforce limits", locks: Locks::LiveRows, run: enforce_limits, ..SCAN },
    Step { name: "summarize", owner_of: Some(BY_TYPE), routine: true, run: summarize, ..SCAN },
    Step { name: "secure partitions", owner_of: None, locks: Locks::Partitions, run: secure, ..ORDINARY },
    Step { name: "analyze", run: analyze, ..SCAN },
    Step { name: "trim audit log", owner_of: Some(AUDIT_LOG), run: drop_months::trim_audit, ..DROP },
    Step {
        name: "trim statistics",
        owner_of: Some(STATISTICS),
        run: |extension, budget| trim(extension, budget, STATISTICS, "hour", settings::STATISTICS_RETENTION.get()),
        ..ORDINARY
    },
    Step {
        name: "trim maintenance log",
        owner_of: Some(RUNS),
        run: |extension, budget| trim(extension, budget, RUNS, "run_at", settings::MAINTENANCE_LOG_RETENTION.get()),
        ..ORDINARY
    },
];

/// Names of the steps.
pub static NAMES: [&str; STEPS.len()] = {
    let mut names = [""; STEPS.len()];
    let mut number = 0;
    while number < STEPS.len() {
        names[number] = STEPS[number].name;
        number += 1;
    }
    names
};

/// Creates the partitions of coming months. A month that fails does not keep the others from theirs.
fn premake(extension: &Extension, table: Table, budget: &dyn Budget) -> Outcome {
    let mut outcome = Outcome::default();
    for month in wanted_months() {
        match subtransaction::attempt(|| create(extension, table, month).1) {
            Ok(true) => {
                outcome.affected += 1;
                budget.progress(1);
                budget.commit();
            }
            Ok(false) => {}
            Err(caught) => {
                outcome.failed = true;
                outcome.detail.get_or_insert(caught.to_string());
            }
        }
    }
    outcome
}

fn expire(extension: &Extension, budget: &dyn Budget) -> Outcome {
    let deleted = delete_expired(extension, Some(budget)).iter().map(|cleaned| cleaned.deleted).sum();
    Outcome::in_time(deleted, budget)
}

fn enforce_limits(extension: &Extension, budget: &dyn Budget) -> Outcome {
    const SHOWN: usize = 10;
    let mut evicted: Vec<(Vec<u8>, i64)> = evict_over_limit(extension, budget).into_iter().collect();
    let mut outcome = Outcome::in_time(evicted.iter().map(|(_, entries)| entries).sum(), budget);
    if !evicted.is_empty() {
        evicted.sort_by_key(|(_, entries)| std::cmp::Reverse(*entries));
        let mut types: Vec<String> = evicted
            .iter()
            .take(SHOWN)
            .map(|(content_type, entries)| format!("{} {entries}", String::from_utf8_lossy(content_type)))
            .collect();
        if evicted.len() > SHOWN {
            types.push(format!("and {} more types", evicted.len() - SHOWN));
        }
        let cut = format!("over max_entries: {}", types.join(", "));
        outcome.detail = Some(outcome.detail.map_or(cut.clone(), |detail| format!("{cut}; {detail}")));
    }
    outcome
}

/// Secures partitions, and drops the functions that a restore has left. Only a run by hand builds a missing index, because a
/// restore may be about to build one of that name, and because an index runs code. Objects of another owner are left to a
/// role that may change them.
fn secure(extension: &Extension, budget: &dyn Budget) -> Outcome {
    let secured = secure_all(extension, !budget.is_unattended(), || {
        budget.progress(1);
        budget.commit();
    });
    (secured + former_functions::hand_over(extension)).into()
}

/// Deletes the rows of a table that are older than `minutes`; none for 0.
fn trim(extension: &Extension, budget: &dyn Budget, table: &str, column: &str, minutes: i32) -> Outcome {
    const BATCH: i64 = 10_000;
    if minutes == 0 {
        return 0.into();
    }
    let name = format!("{}.{table}", extension.schema);
    let sql = format!(
        "DELETE FROM {name} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {name} WHERE {column} < $1 LIMIT {BATCH}))"
    );
    let oldest_kept = now() - i64::from(minutes) * 60_000_000;
    let mut deleted = 0;
    loop {
        must_change_all(extension, &[table]);
        let batch = spi::run(Access::Write, &sql, &[spi::timestamptz(oldest_kept)], |rows| rows.count() as i64);
        deleted += batch;
        budget.progress(batch);
        if batch < BATCH {
            return deleted.into();
        }
        if budget.is_spent() {
            return Outcome::in_time(deleted, budget);
        }
    }
}

/// Returns the longest time of a flush. One transaction stores all audited lookups, at a second or less for each megabyte of
/// the ring.
fn longest_flush() -> Duration {
    LONGEST_BATCH + Duration::from_secs(settings::AUDIT_BUFFER_SIZE.get().unsigned_abs().into()) / 1024
}

fn summarize(extension: &Extension, budget: &dyn Budget) -> Outcome {
    if let Some(refusal) = Outcome::unless_of_one_owner(extension, &[BY_TYPE, BY_USER]) {
        return refusal;
    }
    let counted = summary::renew(extension);
    budget.progress(counted);
    counted.into()
}

/// Analyzes the table and its partitions: the planner needs both, and autovacuum never analyzes a partitioned table itself.
/// Due when a tenth of the rows have changed since the partitions were analyzed, or when the partitions are a tenth larger
/// or smaller than the table was when it was analyzed.
fn analyze(extension: &Extension, _budget: &dyn Budget) -> Outcome {
    let parent = extension.table(CACHE);
    let due = spi::run(
        Access::ReadLatest,
        "SELECT sum(s.n_mod_since_analyze) > 50 + 0.1 * sum(s.n_live_tup) \
             OR abs(sum(greatest(c.reltuples, 0)) - greatest(p.reltuples, 0)) > 50 + 0.1 * greatest(p.reltuples, 0) \
         FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
         JOIN pg_stat_user_tables s ON s.relid = c.oid JOIN pg_class p ON p.oid = i.inhparent \
         WHERE i.inhparent = $1 GROUP BY p.reltuples",
        &[parent.into()],
        |rows| if rows.count() > 0 { rows.get::<bool>(0, 1).unwrap_or(false) } else { false },
    );
    if !due {
        return Outcome { detail: Some("not due".into()), ..Outcome::default() };
    }
    // Does not wait for a session that vacuums or changes a table, above all autovacuum.
    if !try_lock_to_analyze(parent) {
        return in_the_way(0, format!("put off: somebody vacuums or changes {CACHE}"));
    }
    let partitions = partitions_of(parent);
    let busy: Vec<String> =
        partitions.iter().filter(|partition| !try_lock_to_analyze(partition.oid)).map(Partition::name).collect();
    let sql = format!("ANALYZE (SKIP_LOCKED) {}.{CACHE}", extension.schema);
    match subtransaction::unless_locked(|| spi::execute(&sql)) {
        None => in_the_way(0, format!("put off: somebody has a partition of {CACHE} locked")),
        Some(()) if busy.is_empty() => 1.into(),
        Some(()) => in_the_way(1, format!("left out, because somebody vacuums or changes them: {}", busy.join(", "))),
    }
}

fn in_the_way(affected: i64, detail: String) -> Outcome {
    Outcome { affected, detail: Some(detail), put_off: true, ..Outcome::default() }
}
