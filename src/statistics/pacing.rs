//! Pacing: a flush by the worker waits between two batches, so that the pages that it updates have room again.

use crate::extension::{Extension, POLICIES};
use crate::pg::{backend, horizon};
use pgrx::pg_sys;
use std::time::Duration;

/// What the batches of a flush wait for: the old versions of what the last one has updated take room in their pages until no
/// snapshot can see them. Snapshots are short, but for that of a report or a dump, which is not waited for.
#[derive(Default)]
pub struct Pacing {
    /// The transaction of the last batch.
    updated_by: Option<pg_sys::TransactionId>,
    waited: Duration,
}

impl Pacing {
    /// The longest that all batches together wait.
    const LONGEST: Duration = Duration::from_millis(500);

    /// The current transaction has updated entries.
    pub fn has_updated(&mut self) {
        self.updated_by = Some(backend::transaction_id());
    }

    /// Whether the next batch may begin. If not, this has waited for a moment; the caller takes a new snapshot and
    /// asks again.
    pub fn may_go_on(&mut self, extension: &Extension) -> bool {
        const MOMENT: Duration = Duration::from_millis(1);
        let Some(updated_by) = self.updated_by else { return true };
        // A table with rows of its own, as a partition is.
        let free = horizon::has_passed(updated_by, extension.find_table(POLICIES));
        if free || self.waited >= Self::LONGEST {
            return true;
        }
        self.waited += MOMENT;
        std::thread::sleep(MOMENT);
        pgrx::check_for_interrupts!();
        false
    }
}
