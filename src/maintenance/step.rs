//! A step of maintenance: what it is, and what it did.

use super::budget::Budget;
use crate::access::owner;
use crate::extension::Extension;
use std::time::Duration;

/// What a step did: how much of it, in words what a number does not say, and whether part of it failed.
#[derive(Default)]
pub struct Outcome {
    pub affected: i64,
    pub detail: Option<String>,
    pub failed: bool,
    /// Whether there was no time for all that there is to do.
    pub unfinished: bool,
    /// Whether somebody was in the way: the worker leaves them some minutes, and tells of it in the log.
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

    /// A step that writes several tables fails unless they have one owner.
    pub fn unless_of_one_owner(extension: &Extension, tables: &[&str]) -> Option<Self> {
        let (one, other) = owner::of_different_owners(extension, tables)?;
        Some(Self::failure(format!(
            "tables {one} and {other} have different owners: give them one with ALTER TABLE … OWNER TO"
        )))
    }

    /// As much as there was time for.
    pub fn in_time(affected: i64, budget: &dyn Budget) -> Self {
        let unfinished = budget.is_spent();
        let detail = unfinished.then(|| "there may be more for the next run".to_string());
        Self { affected, detail, unfinished, ..Self::default() }
    }
}

/// What a step keeps locked until the end of its transaction. By hand, where all have one, steps come in this
/// order, so that nothing is locked for longer than need be.
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
    /// The table with whose owner's rights the worker runs it. `None` = with its own, a superuser's: then it
    /// runs nobody's code, such as a trigger's or an index expression's.
    pub owner_of: Option<&'static str>,
    pub locks: Locks,
    /// Whether it reads whole tables, and so should not come too often.
    pub scans: bool,
    /// Whether there is something to do at each tick, so that the log of the worker's would fill with it.
    pub routine: bool,
    /// Longest that a transaction of the worker's may take.
    pub longest: fn() -> Duration,
    pub run: fn(&Extension, &dyn Budget) -> Outcome,
}
