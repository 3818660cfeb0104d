//! The clock.

use pgrx::datum::AnyNumeric;
use pgrx::pg_sys;
use std::time::Duration;

/// Now, in microseconds since 2000-01-01 UTC; not the start of the transaction.
pub fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// A duration in milliseconds, with two decimals.
pub fn milliseconds(duration: Duration) -> AnyNumeric {
    AnyNumeric::try_from(format!("{:.2}", duration.as_secs_f64() * 1000.0).as_str()).expect("a decimal number")
}
