//! What is open in closures of this process, and would not survive the end of the transaction.

use std::sync::atomic::{AtomicU32, Ordering};

// One thread changes it, so load and store are enough. They cost a lookup less than a variable of the thread would.
static OPEN: AtomicU32 = AtomicU32::new(0);

/// Marks something as open until it is dropped, also by an ERROR that unwinds.
pub struct Scope(());

impl Scope {
    #[inline]
    pub fn begin() -> Self {
        OPEN.store(OPEN.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for Scope {
    #[inline]
    fn drop(&mut self) {
        OPEN.store(OPEN.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
    }
}

/// Whether nothing is open.
pub fn is_none_open() -> bool {
    OPEN.load(Ordering::Relaxed) == 0
}
