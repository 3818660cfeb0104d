//! A step's turn: how long it may work, and where its transactions end. By hand all steps run in one
//! transaction; the worker has many.

use std::time::Duration;

/// Longest that a transaction of the worker may take which changes a small batch of rows. What triggers and
/// indexes of users run may hang.
pub const LONGEST_BATCH: Duration = Duration::from_secs(60);
/// The same of one that reads whole tables, or drops them.
pub const LONGEST_SCAN: Duration = Duration::from_secs(60 * 60);

pub trait Turn {
    /// Whether the time of the step is up.
    fn is_over(&self) -> bool;

    /// Counts what has been done, and lets go of it once rows have been locked for long enough.
    fn did(&self, count: i64);

    /// Lets go of everything that is locked, where a step has transactions of its own.
    fn let_go(&self);

    /// Lets go, and from here on does so after each small batch: no transaction takes long any more.
    fn hurry(&self);

    /// Whether nobody waits for the step or looks at what it did.
    fn is_unattended(&self) -> bool;

    /// Whether partitions may be dropped now.
    fn may_drop(&self) -> bool;
}
