//! A step of maintenance: what it is, and what it did.

use super::budget::Budget;
use crate::access::owner;
use crate::extension::Extension;
use std::time::Duration;

/// What a step did: how many rows or partitions, an explanation, and whether part of it failed.
#[derive(Default)]
pub struct Outcome {
    pub affected: i64,
    pub detail: Option<String>,
    pub failed: bool,
    /// Whether the time was too short for all that is to do.
    pub unfinished: bool,
    /// Whether another session was in the way: the worker then tries again some minutes later, and logs the step.
    pub put_off: bool,
}

impl From<i64> for Outcome {
    fn from(affected: i64) -> Self {
        Self { affected, ..Self::default() }
    }
}

impl Outcome {
    pub fn failure(message: String) -> Self {
        Self { detail: Some(message), failed: true, ..Self::default() }
    }

    /// Fails a step that writes several tables unless they have one owner.
    pub fn unless_of_one_owner(extension: &Extension, tables: &[&str]) -> Option<Self> {
        let (one, other) = owner::of_different_owners(extension, tables)?;
        Some(Self::failure(format!(
            "tables {one} and {other} have different owners: give them one with ALTER TABLE … OWNER TO"
        )))
    }

    /// Makes the outcome of a step that did as much as there was time for.
    pub fn in_time(affected: i64, budget: &dyn Budget) -> Self {
        let unfinished = budget.is_spent();
        let detail = unfinished.then(|| "there may be more for the next run".to_string());
        Self { affected, detail, unfinished, ..Self::default() }
    }
}

/// What a step keeps locked until the end of its transaction. By hand all steps share one transaction and come in this order,
/// so that nothing is locked for longer than need be.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Locks {
    Nothing,
    LiveRows,
    ExpiredRows,
    Partitions,
    Tables,
}

pub struct Step {
    pub name: &'static str,
    /// The table with whose owner's rights the worker runs the step. `None` = the worker's own, a superuser's: such a step
    /// runs no user's code, such as a trigger or an index expression.
    pub owner_of: Option<&'static str>,
    pub locks: Locks,
    /// Whether the step reads whole tables, and so should run rarely.
    pub scans: bool,
    /// Whether the step has something to do at each tick. The worker does not log it, because it would fill the log.
    pub routine: bool,
    /// Longest time of a transaction of the worker.
    pub longest: fn() -> Duration,
    pub run: fn(&Extension, &dyn Budget) -> Outcome,
}
