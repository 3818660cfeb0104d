//! Types of columns: the error for a column that has another type than the code reads.

use crate::error::Refusal;
use pgrx::{PgSqlErrorCode, pg_sys};
use std::ffi::CStr;

/// Refuses to read a column that has another type than the caller needs, because the owner has changed the table.
///
/// # Errors
/// 42804.
pub fn refuse(column: i32, has: pg_sys::Oid, wanted: pg_sys::Oid) -> ! {
    Refusal::new(PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH, "a column of the cache's tables has the wrong type")
        .detail(format!("Column {column} of a statement is {} instead of {}.", name_of(has), name_of(wanted)))
        .hint("Compare the tables with those that CREATE EXTENSION makes in an empty database, and give the column its type back.")
        .raise()
}

fn name_of(of_type: pg_sys::Oid) -> String {
    // SAFETY: takes any OID, and returns a palloc'd string, `???` for a type that is gone.
    unsafe { CStr::from_ptr(pg_sys::format_type_be(of_type)).to_string_lossy().into_owned() }
}
