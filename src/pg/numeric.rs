//! Arguments of type numeric.

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;

/// Makes a numeric of a number of millionths.
pub fn of_millionths(millionths: i64) -> DatumWithOid<'static> {
    // SAFETY: the numeric lies in the current memory context, which lives as long as the call.
    unsafe {
        DatumWithOid::new(pg_sys::Datum::from(pg_sys::int64_div_fast_to_numeric(millionths, 6)), pg_sys::NUMERICOID)
    }
}
