//! Latches: a process sleeps on its latch, and another one sets the latch to wake it.

use super::plain::Plain;
use pgrx::pg_sys;
use std::time::Duration;

/// The latch of a process, or none. It belongs to the process's PGPROC in shared memory, which outlives the process and is then
/// given to another one.
#[derive(Clone, Copy)]
pub struct SharedLatch(*mut pg_sys::Latch);

// SAFETY: NULL is no latch. Any other pointer is to shared memory, which every process has at the same address.
unsafe impl Plain for SharedLatch {}

impl SharedLatch {
    /// Returns the latch of this process.
    pub fn own() -> Self {
        // SAFETY: a plain variable. In a process that is connected it points to the latch of its PGPROC.
        Self(unsafe { pg_sys::MyLatch })
    }

    pub fn none() -> Self {
        Self(std::ptr::null_mut())
    }

    /// Wakes the process that has the latch now.
    pub fn set(self) {
        if !self.0.is_null() {
            // SAFETY: a latch in shared memory, which stays. If another process has it now, it wakes and sleeps again.
            unsafe { pg_sys::SetLatch(self.0) };
        }
    }
}

/// Sleeps until the time is over or this process's latch is set. Exits when the postmaster dies.
pub fn wait(time: Option<Duration>) {
    let mut events = pg_sys::WL_LATCH_SET | pg_sys::WL_EXIT_ON_PM_DEATH;
    if time.is_some() {
        events |= pg_sys::WL_TIMEOUT;
    }
    // Rounded up to a millisecond, because what is due in less is not due yet.
    let time = time.map_or(-1, |time| time.as_micros().div_ceil(1000).max(1) as i64);
    // SAFETY: the latch is this process's own.
    unsafe {
        pg_sys::WaitLatch(pg_sys::MyLatch, events as i32, time as _, pg_sys::PG_WAIT_EXTENSION);
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
}
