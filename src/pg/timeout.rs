//! The longest time of a transaction of a background worker.

use pgrx::pg_sys;
use std::ffi::c_int;
use std::time::Duration;

/// STATEMENT_TIMEOUT, of the enum TimeoutId.
const STATEMENT: c_int = 3;

// Declared here, because pgrx does not declare them. Neither raises.
// SAFETY: the signatures, and the number, are those of PostgreSQL 14 to 18.
unsafe extern "C-unwind" {
    fn enable_timeout_after(id: c_int, milliseconds: c_int);
    fn disable_timeout(id: c_int, keep_indicator: bool);
}

/// Cancels what this process does after `limit`. Each call restarts the clock. The setting statement_timeout would do nothing,
/// because the server applies it to statements of clients only.
pub fn begin(limit: Duration) {
    let milliseconds = limit.as_millis().try_into().unwrap_or(c_int::MAX);
    // SAFETY: the server registers this timeout in every process that is connected to a database. It cancels as
    // pg_cancel_backend() does.
    unsafe { enable_timeout_after(STATEMENT, milliseconds) };
}

/// Ends the limit, and forgets a cancellation that came too late.
pub fn end() {
    // SAFETY: as above. Only signal handlers set the flag, after which nothing is left to cancel here.
    unsafe {
        disable_timeout(STATEMENT, false);
        pg_sys::QueryCancelPending = 0;
    }
}
