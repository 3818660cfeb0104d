//! The budget of a step: how long it may work, and where its transactions end. By hand all steps run in one transaction; the
//! worker has many.

use crate::settings;
use std::time::Duration;

/// Longest that a transaction of the worker may take which changes a small batch of rows. What triggers and
/// indexes of users run may hang.
pub const LONGEST_BATCH: Duration = Duration::from_secs(60);
/// The same of one that reads whole tables, or drops them.
pub const LONGEST_SCAN: Duration = Duration::from_secs(60 * 60);

pub trait Budget {
    /// Whether the time of the step is up.
    fn is_spent(&self) -> bool;

    /// Counts what has been done, and commits once rows have been locked for long enough.
    fn progress(&self, count: i64);

    /// Commits, and so gives up all locks, where a step has transactions of its own.
    fn commit(&self);

    /// Commits, and from here on does so after each small batch: no transaction takes long any more.
    fn shorten(&self);

    /// Whether nobody waits for the step or looks at what it did.
    fn is_unattended(&self) -> bool;

    /// Whether partitions may be dropped now.
    fn may_drop(&self) -> bool;
}

/// A quarter of the time that maintenance may hold anybody up, in milliseconds: for limits, for expiry, for
/// the lock on the cache, and for the lock on the audit log. Each holds up who waits for what the one
/// before it has locked.
pub fn share_of_wait() -> i32 {
    (settings::LOCK_TIMEOUT.get() / 4).max(1)
}

/// The same as a duration.
pub fn share_of_time() -> Duration {
    Duration::from_millis(share_of_wait().unsigned_abs().into())
}

/// Entries that one statement deletes. One whose time is limited looks at the clock more often.
pub fn batch_size(hurried: bool) -> i64 {
    let size = i64::from(settings::CLEANUP_BATCH_SIZE.get());
    if hurried { size.min(100) } else { size }
}
