//! The steps that drop months.

use super::run::share_of_wait;
use super::steps::Outcome;
use super::turn::Turn;
use crate::clock::now;
use crate::home::{AUDIT_LOG, CACHE, Home};
use crate::partition::catalog::{Partition, partitions_of};
use crate::partition::create::Table;
use crate::partition::dump::AT_WORK;
use crate::partition::month::Month;
use crate::partition::retire::{dead_months, retire};
use crate::settings;

/// Months that are over and hold nothing live.
pub fn drop_dead(home: &Home, turn: &dyn Turn) -> Outcome {
    drop(home, Table::Cache, dead_months(home), false, turn)
}

/// Months that are older than wanted, whatever lives in them.
pub fn drop_old(home: &Home, turn: &dyn Turn) -> Outcome {
    let old = older_than(home, CACHE, settings::RETENTION_MONTHS.get());
    drop(home, Table::Cache, old, true, turn)
}

/// Months of the audit log that are older than wanted.
pub fn trim_audit(home: &Home, turn: &dyn Turn) -> Outcome {
    let old = older_than(home, AUDIT_LOG, settings::AUDIT_RETENTION_MONTHS.get());
    drop(home, Table::AuditLog, old, true, turn)
}

/// The partitions that ended before the last so many months, the current one included; none for 0.
fn older_than(home: &Home, table: &str, months: i32) -> Vec<Partition> {
    let oldest_kept = Month::of(now()).and_then(|this| this.plus(1 - i64::from(months)));
    let oldest_kept = oldest_kept.filter(|_| months > 0).map_or(i64::MIN, Month::start);
    partitions_of(home.table(table)).into_iter().filter(|partition| partition.to <= oldest_kept).collect()
}

/// Drops partitions, the worker each in a transaction of its own. It gives up for this time when one is busy:
/// everybody waits while it waits for a lock.
fn drop(home: &Home, table: Table, old: Vec<Partition>, include_live: bool, turn: &dyn Turn) -> Outcome {
    let mut outcome = Outcome::default();
    if old.is_empty() {
        return outcome;
    }
    if !turn.may_drop() {
        outcome.detail = Some(format!("put off: {AT_WORK}"));
        return outcome;
    }
    let at_once = if turn.is_unattended() { 1 } else { old.len() };
    let (mut kept, mut dumped) = (Vec::new(), false);
    for some in old.chunks(at_once) {
        for one in retire(home, table, some.to_vec(), include_live, share_of_wait()) {
            if one.dropped {
                outcome.affected += 1;
                turn.did(1);
            } else {
                outcome.failed |= one.busy && turn.is_unattended();
                dumped |= one.dumped;
                kept.push(format!("{}: {}", one.name, one.detail));
            }
        }
        if outcome.failed || dumped || turn.is_over() {
            break;
        }
        turn.let_go();
    }
    outcome.detail = (!kept.is_empty()).then(|| kept.join("; "));
    outcome
}
