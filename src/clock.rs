//! The clock.

#![allow(unsafe_code)]

use crate::partition::month::Month;
use pgrx::pg_sys;

/// Now, in microseconds since 2000-01-01 UTC; not the start of the transaction.
pub fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// The month that a moment of the clock lies in.
pub fn month_of(moment: i64) -> Month {
    Month::of(moment).expect("the clock shows a year with four digits")
}
