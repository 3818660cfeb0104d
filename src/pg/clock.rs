//! The clock.

#![allow(unsafe_code)]

use pgrx::pg_sys;

/// Now, in microseconds since 2000-01-01 UTC; not the start of the transaction.
pub fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}
