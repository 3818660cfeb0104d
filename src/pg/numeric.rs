//! numeric.

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;

/// A number of millionths.
pub fn of_millionths(millionths: i64) -> DatumWithOid<'static> {
    // SAFETY: makes a numeric in the current memory context.
    unsafe {
        DatumWithOid::new(pg_sys::Datum::from(pg_sys::int64_div_fast_to_numeric(millionths, 6)), pg_sys::NUMERICOID)
    }
}
