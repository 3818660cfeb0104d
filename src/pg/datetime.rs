//! Dates, times and intervals as text.

use pgrx::datum::{FromDatum, Interval, TimestampWithTimeZone};
use pgrx::pg_sys;
use std::ffi::CStr;

/// Reads an interval.
///
/// # Errors
/// Those of the server: 22007, 22008 and 22015.
pub fn read_interval(text: &CStr) -> Interval {
    // SAFETY: interval_in takes a NUL-terminated string, an OID and a type modifier, and returns an interval.
    unsafe { read(pg_sys::interval_in, text) }
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
