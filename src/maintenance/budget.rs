//! The budget of a step: how long it may work, and where its transactions end. By hand all steps share one transaction; the
//! worker has many.

use crate::settings;
use std::time::Duration;

/// Longest time of a transaction of the worker that changes a small batch of rows. Limited, because users' triggers and index
/// expressions may hang.
pub const LONGEST_BATCH: Duration = Duration::from_secs(60);
/// Longest time of a transaction of the worker that reads whole tables, or drops them.
pub const LONGEST_SCAN: Duration = Duration::from_secs(60 * 60);

/// The methods with a body are those of a call whose transaction is its caller's.
pub trait Budget {
    /// Whether the time of the step is up.
    fn is_spent(&self) -> bool;

    /// Counts what has been done, and commits once rows have been locked for long enough.
    fn progress(&self, _count: i64) {}

    /// Commits, and so releases all locks, if the step has transactions of its own.
    fn commit(&self) {}

    /// Commits, now and from here on after each small batch, so that no transaction takes long.
    fn shorten(&self) {}

    /// Whether the worker runs the step, so that no caller waits for it or sees what it did.
    fn is_unattended(&self) -> bool {
        false
    }

    /// Whether partitions may be dropped now.
    fn may_drop(&self) -> bool;
}

/// The budget of a call that does all there is to do, in its caller's transaction. It drops no partition.
pub struct Unlimited;

impl Budget for Unlimited {
    fn is_spent(&self) -> bool {
        false
    }

    fn may_drop(&self) -> bool {
        false
    }
}

/// Returns a quarter of the longest wait that maintenance may cause, in milliseconds. By hand four steps share that time:
/// limits, expiry, the lock on the cache and the lock on the audit log. A session that waits for the first waits for all.
pub fn share_of_wait() -> i32 {
    (settings::LOCK_TIMEOUT.get() / 4).max(1)
}

/// Returns [`share_of_wait`] as a duration.
pub fn share_of_time() -> Duration {
    Duration::from_millis(share_of_wait().unsigned_abs().into())
}

/// Returns how many entries one statement deletes: fewer if `hurried`, to look at the clock more often.
pub fn batch_size(hurried: bool) -> i64 {
    let size = i64::from(settings::CLEANUP_BATCH_SIZE.get());
    if hurried { size.min(100) } else { size }
}
