//! Errors and warnings that a user can act on: the rule, the value, and the way out.

use core::panic::Location;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode};

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
        let detail = with_position(self.report.detail(), position);
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

    /// As [`Refusal::at_position`].
    pub fn at_position(self, position: usize) -> Self {
        let detail = with_position(self.0.detail(), position);
        self.detail(detail)
    }

    pub fn send(self) {
        self.0.report(PgLogLevel::WARNING);
    }

    /// Sends it to the client as a notice, because what it tells is in order, and is no matter for the server's log.
    pub fn send_as_notice(self) {
        self.0.report(PgLogLevel::NOTICE);
    }
}

fn with_position(detail: Option<&str>, position: usize) -> String {
    match detail {
        Some(detail) => format!("Entry {position} of the batch: {detail}"),
        None => format!("Entry {position} of the batch."),
    }
}

/// Shortens a value for a message, so that a huge key does not become a huge log line.
pub fn shown(value: &str) -> String {
    const LIMIT: usize = 64;
    match value.char_indices().nth(LIMIT) {
        None => format!("\"{value}\""),
        Some((end, _)) => format!("\"{}…\" ({} bytes)", &value[..end], value.len()),
    }
}
