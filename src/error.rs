//! Errors and warnings that a user can act on: the rule, the value, and the way out.

use core::panic::Location;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode, pg_sys};

/// An error about to be raised. `detail` says which rule was broken by which value, `hint` what to do.
#[must_use = "an error does nothing until it is raised"]
pub struct Refusal {
    /// Boxed, because a `Result` is as large as the larger of its variants.
    report: Box<ErrorReport>,
}

impl Refusal {
    /// Makes an error with the caller's file and line as its location. PostgreSQL shows no directory of the file, so the
    /// whole path takes the place of the function's name.
    #[track_caller]
    pub fn new(code: PgSqlErrorCode, message: impl Into<String>) -> Self {
        Self { report: Box::new(ErrorReport::new(code, message.into(), Location::caller().file())) }
    }

    pub fn detail(self, detail: impl Into<String>) -> Self {
        Self { report: Box::new(self.report.set_detail(detail)) }
    }

    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { report: Box::new(self.report.set_hint(hint)) }
    }

    /// Adds to the DETAIL the position of the refused entry in its batch, from 1.
    pub fn at_position(self, position: usize) -> Self {
        let detail = match self.report.detail() {
            Some(detail) => format!("Entry {position} of the batch: {detail}"),
            None => format!("Entry {position} of the batch."),
        };
        self.detail(detail)
    }

    /// Raises the error; the transaction, or the enclosing subtransaction, is rolled back.
    pub fn raise(self) -> ! {
        self.report.report(PgLogLevel::ERROR);
        unreachable!("an ERROR does not return")
    }
}

/// A warning to the client or, from a background worker, to the server's log. CREATE EXTENSION hides anything less severe.
#[must_use = "a warning does nothing until it is sent"]
pub struct Warning(ErrorReport);

impl Warning {
    #[track_caller]
    pub fn new(code: PgSqlErrorCode, message: impl Into<String>) -> Self {
        Self(ErrorReport::new(code, message.into(), Location::caller().file()))
    }

    pub fn detail(self, detail: impl Into<String>) -> Self {
        Self(self.0.set_detail(detail))
    }

    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self(self.0.set_hint(hint))
    }

    pub fn send(self) {
        self.0.report(PgLogLevel::WARNING);
    }
}

/// Refuses to read a column whose type is not the one that the function needs, because the owner has changed the table.
///
/// # Errors
/// 42804.
pub fn another_type(column: i32, has: pg_sys::Oid, wanted: pg_sys::Oid) -> ! {
    Refusal::new(PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH, "a column of the cache's tables has the wrong type")
        .detail(format!("Column {column} of a statement is {} instead of {}.", name_of_type(has), name_of_type(wanted)))
        .hint("Compare the tables with those that CREATE EXTENSION makes in an empty database, and give the column its type back.")
        .raise()
}

#[allow(unsafe_code)]
fn name_of_type(of_type: pg_sys::Oid) -> String {
    // SAFETY: takes any OID, and returns a palloc'd string: for a type that exists, its name.
    unsafe { std::ffi::CStr::from_ptr(pg_sys::format_type_be(of_type)).to_string_lossy().into_owned() }
}

/// Shortens a value for a message, so that a huge key does not become a huge log line.
pub fn shown(value: &str) -> String {
    const LIMIT: usize = 64;
    match value.char_indices().nth(LIMIT) {
        None => format!("\"{value}\""),
        Some((end, _)) => format!("\"{}…\" ({} bytes)", &value[..end], value.len()),
    }
}
