//! The type `cache_ttl`: a positive number of microseconds, or [`INFINITE`]. PostgreSQL has no infinite interval before
//! version 17.

use crate::calendar::DAY;
use crate::error::{Refusal, shown};
use crate::pg::{datetime, subtransaction};
use pgrx::datum::Interval;
use pgrx::prelude::*;
use std::ffi::{CStr, CString};

/// A time to live without end; the expiry of such an entry is `infinity`.
pub const INFINITE: i64 = i64::MAX;

/// First microsecond after the last timestamp, in the year 294276, counted from 2000-01-01.
pub const END_OF_TIME: i64 = 9_223_371_331_200_000_000;

#[pg_extern(sql = false)]
fn cache_ttl_in(text: &CStr) -> i64 {
    parse(text)
}

/// Reads an interval, or any number as seconds. Numbers are read here, because interval knows neither exponents nor
/// infinity, and its largest number of seconds differs between versions of PostgreSQL. Casts of numeric types pass their text.
///
/// # Errors
/// Those of interval for text that it cannot read; 22023 unless positive.
pub fn parse(text: &CStr) -> i64 {
    if let Some(total) = read_seconds(text) {
        return within_time(total).unwrap_or_else(|| not_positive(&text.to_string_lossy()));
    }
    let interval = subtransaction::translate_any(
        || datetime::read_interval(text),
        |code, message| {
            Refusal::new(code, message)
                .detail(format!("The time to live is {}.", shown(&text.to_string_lossy())))
                .hint("Write it as an interval, such as '7 days', or as 'infinity'.")
        },
    );
    microseconds(&interval)
}

/// Returns the microseconds of a number of seconds; `None` if the text is no number. NaN counts as 0.
fn read_seconds(text: &CStr) -> Option<i128> {
    let text = std::str::from_utf8(text.to_bytes().trim_ascii()).ok()?;
    let whole = text.parse::<i64>().ok().map(|seconds| i128::from(seconds) * 1_000_000);
    // The conversion to an integer saturates, and makes 0 of NaN.
    whole.or_else(|| Some((text.parse::<f64>().ok()? * 1e6).round_ties_even() as i128))
}

#[pg_extern(sql = false)]
fn cache_ttl_from_interval(value: Interval) -> i64 {
    microseconds(&value)
}

#[pg_extern(sql = false)]
fn cache_ttl_out(ttl: i64) -> CString {
    let text = if ttl == INFINITE {
        "infinity".to_string()
    } else {
        let interval = Interval::new(0, (ttl / DAY) as i32, ttl % DAY).expect("a time to live is a valid interval");
        interval.to_string()
    };
    CString::new(text).expect("an interval has no NUL byte")
}

/// Returns the microseconds of a time to live. A month counts 30 days and a day 24 hours, so that an interval means the same
/// on every day and in every time zone.
///
/// # Errors
/// 22023 unless positive.
pub fn microseconds(interval: &Interval) -> i64 {
    microseconds_of(interval).unwrap_or_else(|| not_positive(&interval.to_string()))
}

fn not_positive(value: &str) -> ! {
    Refusal::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "a time to live must be positive")
        .detail(format!("It is {}.", shown(value)))
        .hint("To remove an entry call cache_invalidate(); to keep it for ever use 'infinity'.")
        .raise()
}

/// Returns the microseconds of any interval, [`INFINITE`] from [`END_OF_TIME`] on; `None` unless positive.
pub fn microseconds_of(interval: &Interval) -> Option<i64> {
    microseconds_from(interval.months(), interval.days(), interval.micros())
}

fn microseconds_from(months: i32, days: i32, rest: i64) -> Option<i64> {
    within_time((i128::from(months) * 30 + i128::from(days)) * i128::from(DAY) + i128::from(rest))
}

/// Makes a time to live of `total` microseconds; `None` unless positive.
fn within_time(total: i128) -> Option<i64> {
    // The infinite interval of PostgreSQL 17 is longer than all of time, so it becomes INFINITE.
    let finite = i64::try_from(total).ok().filter(|total| *total < END_OF_TIME);
    (total > 0).then_some(finite.unwrap_or(INFINITE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// To the microsecond up to 30 years, as doubles go.
        #[test]
        fn a_number_is_seconds_however_it_is_written(micros in 0..10_i64.pow(15), places in 0_usize..10) {
            let (whole, fraction) = (micros / 1_000_000, micros % 1_000_000);
            let zeros = "0".repeat(places);
            for text in [format!("{whole}.{fraction:06}{zeros}"), format!(" +{micros}e-6 "), format!("{micros}{zeros}e-{}", places + 6)] {
                prop_assert_eq!(read_seconds(&CString::new(text).unwrap()), Some(i128::from(micros)));
            }
            prop_assert_eq!(read_seconds(&CString::new(micros.to_string()).unwrap()), Some(i128::from(micros) * 1_000_000));
        }

        /// Against arithmetic in floating point, which cannot overflow.
        #[test]
        fn a_time_to_live_is_positive_and_finite_within_time(months in any::<i32>(), days in any::<i32>(), rest in any::<i64>()) {
            let approximately = (f64::from(months) * 30.0 + f64::from(days)) * 86_400e6 + rest as f64;
            match microseconds_from(months, days, rest) {
                None => prop_assert!(approximately < 1e6),
                Some(INFINITE) => prop_assert!(approximately > END_OF_TIME as f64 * 0.999_999),
                Some(ttl) => {
                    prop_assert!(ttl > 0 && ttl < END_OF_TIME);
                    prop_assert!((ttl as f64 - approximately).abs() <= 1e-9 * approximately.abs() + 1e6);
                }
            }
        }
    }
}
