//! The clock.

use pgrx::datum::AnyNumeric;
use pgrx::pg_sys;
use std::time::Duration;

/// Returns the time in microseconds since 2000-01-01 UTC, that of the call and not of the transaction's start.
pub fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// Returns a duration in milliseconds, with two decimals.
pub fn milliseconds(duration: Duration) -> AnyNumeric {
    AnyNumeric::try_from(format!("{:.2}", duration.as_secs_f64() * 1000.0).as_str()).expect("a decimal number")
}
