//! Pacing: the waits of a worker's flush between two batches, so that the pages that it updates have room again.

use crate::extension::{Extension, POLICIES};
use crate::pg::{backend, horizon};
use pgrx::pg_sys;
use std::time::Duration;

/// The waits between the batches of a flush. The old versions of the rows that a batch has updated take room in their pages
/// until no snapshot can see them. Most snapshots are short. A report's or a dump's is not waited for.
#[derive(Default)]
pub struct Pacing {
    /// The transaction of the last batch.
    updated_by: Option<pg_sys::TransactionId>,
    waited: Duration,
}

impl Pacing {
    /// The longest that all batches of a flush wait together.
    const LONGEST: Duration = Duration::from_millis(500);

    /// Notes that the current transaction has updated entries.
    pub fn has_updated(&mut self) {
        self.updated_by = Some(backend::transaction_id());
    }

    /// Whether the next batch may begin. Otherwise the call has waited for a moment, and the caller takes a new snapshot and
    /// calls again.
    pub fn may_go_on(&mut self, extension: &Extension) -> bool {
        const MOMENT: Duration = Duration::from_millis(1);
        let Some(updated_by) = self.updated_by else { return true };
        // A table with rows of its own, as partitions have: a partitioned table has no horizon.
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
