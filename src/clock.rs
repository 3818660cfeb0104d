//! The clock.

#![allow(unsafe_code)]

use crate::error::Refusal;
use crate::partition::month::Month;
use pgrx::{PgSqlErrorCode, pg_sys};

/// Now, in microseconds since 2000-01-01 UTC; not the start of the transaction.
pub fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// The month that a moment of the clock lies in.
///
/// # Errors
/// 22008 unless it is of the years 1 to 9999, the ones that have a partition name.
pub fn month_of(moment: i64) -> Month {
    Month::of(moment).unwrap_or_else(|| {
        Refusal::new(PgSqlErrorCode::ERRCODE_DATETIME_FIELD_OVERFLOW, "the cache has months in the years 1 to 9999")
            .detail("The server's clock shows another year.")
            .hint("Set the clock of the server.")
            .raise()
    })
}
