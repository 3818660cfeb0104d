//! The clock.

use pgrx::datum::AnyNumeric;
use pgrx::pg_sys;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

static START: OnceLock<Instant> = OnceLock::new();

/// Begins to measure the time of [`since_start`]. Called in the postmaster, so that all its processes measure from there.
pub fn start() {
    START.get_or_init(Instant::now);
}

/// Returns the milliseconds since the server has started, which go on whatever the clock is set to.
pub fn since_start() -> u64 {
    START.get_or_init(Instant::now).elapsed().as_millis() as u64
}

/// Returns the time in microseconds since 2000-01-01 UTC, that of the call and not of the transaction's start.
pub fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// Returns a duration in milliseconds, with two decimals.
pub fn milliseconds(duration: Duration) -> AnyNumeric {
    AnyNumeric::try_from(format!("{:.2}", duration.as_secs_f64() * 1000.0).as_str()).expect("a decimal number")
}
