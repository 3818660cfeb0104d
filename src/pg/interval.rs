//! interval.

#![allow(unsafe_code)]

use pgrx::datum::{FromDatum, Interval};
use pgrx::pg_sys;
use std::ffi::CStr;

/// Reads an interval as the server does.
///
/// # Errors
/// 22007, 22008 and 22015 as those of the server.
pub fn read(text: &CStr) -> Interval {
    // SAFETY: interval_in takes a NUL-terminated string, an OID and a type modifier, and returns an interval.
    let interval = unsafe {
        let datum = pgrx::direct_function_call_as_datum(
            pg_sys::interval_in,
            &[Some(pg_sys::Datum::from(text.as_ptr())), Some(pg_sys::InvalidOid.into()), Some((-1i32).into())],
        );
        datum.and_then(|datum| Interval::from_datum(datum, false))
    };
    interval.expect("interval_in never returns NULL")
}
