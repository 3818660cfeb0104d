//! The steps that drop months.

use super::budget::{Budget, share_of_wait};
use super::step::Outcome;
use crate::calendar::Month;
use crate::extension::{AUDIT_LOG, CACHE, Extension};
use crate::partition::catalog::{Partition, partitions_of};
use crate::partition::create::Table;
use crate::partition::drop::{dead_months, retire};
use crate::partition::dump_check::AT_WORK;
use crate::pg::clock::now;
use crate::settings;

/// Drops dead months.
pub fn drop_dead(extension: &Extension, budget: &dyn Budget) -> Outcome {
    drop_all(extension, Table::Cache, dead_months(extension), false, budget)
}

/// Drops months of entries that are past retention, whatever is live in them.
pub fn drop_old(extension: &Extension, budget: &dyn Budget) -> Outcome {
    let old = older_than(extension, CACHE, settings::RETENTION_MONTHS.get());
    drop_all(extension, Table::Cache, old, true, budget)
}

/// Drops months of the audit log that are past retention.
pub fn trim_audit(extension: &Extension, budget: &dyn Budget) -> Outcome {
    let old = older_than(extension, AUDIT_LOG, settings::AUDIT_RETENTION_MONTHS.get());
    drop_all(extension, Table::AuditLog, old, true, budget)
}

/// Returns the partitions that ended before the last `months` months, the current one included; none for 0.
fn older_than(extension: &Extension, table: &str, months: i32) -> Vec<Partition> {
    let oldest_kept = Month::of(now()).and_then(|this| this.plus(1 - i64::from(months)));
    let oldest_kept = oldest_kept.filter(|_| months > 0).map_or(i64::MIN, Month::start);
    partitions_of(extension.table(table)).into_iter().filter(|partition| partition.to <= oldest_kept).collect()
}

/// Drops partitions; the worker drops each in a transaction of its own. The worker gives up for this time when one is busy,
/// because every session waits while it waits for a lock.
fn drop_all(
    extension: &Extension,
    table: Table,
    old: Vec<Partition>,
    include_live: bool,
    budget: &dyn Budget,
) -> Outcome {
    let mut outcome = Outcome::default();
    if old.is_empty() {
        return outcome;
    }
    if !budget.may_drop() {
        outcome.detail = Some(format!("put off: {AT_WORK}"));
        return outcome;
    }
    let at_once = if budget.is_unattended() { 1 } else { old.len() };
    let (mut kept, mut dumped) = (Vec::new(), false);
    for some in old.chunks(at_once) {
        for one in retire(extension, table, some.to_vec(), include_live, share_of_wait()) {
            if one.dropped {
                outcome.affected += 1;
                budget.progress(1);
            } else {
                outcome.failed |= one.busy && budget.is_unattended();
                dumped |= one.dumped;
                kept.push(format!("{}: {}", one.name, one.detail));
            }
        }
        if outcome.failed || dumped || budget.is_spent() {
            break;
        }
        budget.commit();
    }
    outcome.detail = (!kept.is_empty()).then(|| kept.join("; "));
    outcome
}
