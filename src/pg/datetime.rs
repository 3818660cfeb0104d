//! Dates, times and intervals as text.

use pgrx::datum::{FromDatum, Interval, TimestampWithTimeZone};
use pgrx::pg_sys;
use std::ffi::CStr;
use std::time::Duration;

/// Reads an interval.
///
/// # Errors
/// Those of the server: 22007, 22008 and 22015.
pub fn read_interval(text: &CStr) -> Interval {
    // SAFETY: interval_in takes a NUL-terminated string, an OID and a type modifier, and returns an interval.
    unsafe { read(pg_sys::interval_in, text) }
}

/// Makes an interval of microseconds, with days of 24 hours, as the difference of two timestamps has them.
pub fn interval_of_microseconds(microseconds: i64) -> Interval {
    const DAY: i64 = 24 * 60 * 60 * 1_000_000;
    Interval::new(0, (microseconds / DAY) as i32, microseconds % DAY).expect("fewer days than an interval can have")
}

/// Makes an interval of a duration.
pub fn interval_of(duration: Duration) -> Interval {
    interval_of_microseconds(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX))
}

/// Returns the length of an interval, in which a month counts 30 days and a day 24 hours; `None` if it is negative.
pub fn duration_of(interval: &Interval) -> Option<Duration> {
    let hours = (i128::from(interval.months()) * 30 + i128::from(interval.days())) * 24;
    let micros = hours * 3_600_000_000 + i128::from(interval.micros());
    (micros >= 0).then(|| Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)))
}

/// Reads a timestamptz, in microseconds since 2000-01-01 UTC.
///
/// # Errors
/// Those of the server: 22007, 22008 and 22009.
pub fn read_timestamptz(text: &CStr) -> i64 {
    // SAFETY: timestamptz_in takes a NUL-terminated string, an OID and a type modifier, and returns a timestamptz.
    unsafe { read::<TimestampWithTimeZone>(pg_sys::timestamptz_in, text) }.into()
}

/// Reads a value by an input function.
///
/// # Safety
/// `function` is the input function of the type T, which takes an OID and a type modifier, too.
unsafe fn read<T: FromDatum>(function: unsafe fn(pg_sys::FunctionCallInfo) -> pg_sys::Datum, text: &CStr) -> T {
    let arguments = [Some(pg_sys::Datum::from(text.as_ptr())), Some(pg_sys::InvalidOid.into()), Some((-1i32).into())];
    // SAFETY: the caller's duty; the text lives as long as the call.
    let value = unsafe {
        pgrx::direct_function_call_as_datum(function, &arguments).and_then(|datum| T::from_datum(datum, false))
    };
    value.expect("an input function returns no NULL for a text")
}

/// Returns the text of a timestamp, given in microseconds since 2000-01-01.
pub fn show_timestamp(microseconds: i64) -> String {
    // SAFETY: timestamp_out takes a timestamp, which is a 64-bit integer, and returns a string.
    let text = unsafe { pgrx::direct_function_call::<&CStr>(pg_sys::timestamp_out, &[Some(microseconds.into())]) };
    text.map_or_else(String::new, |text| text.to_string_lossy().into_owned())
}
