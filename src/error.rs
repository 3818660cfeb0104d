//! Errors that a user can act on: the rule, the value, and the way out.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode, function_name};

/// An error about to be raised. `detail` says which rule was broken by which value, `hint` what to do.
#[must_use = "an error does nothing until it is raised"]
pub struct Refusal {
    /// Boxed, since it is much larger than what it stands in for in a `Result`.
    report: Box<ErrorReport>,
}

impl Refusal {
    pub fn new(code: PgSqlErrorCode, message: impl Into<String>) -> Self {
        Self { report: Box::new(ErrorReport::new(code, message.into(), function_name!())) }
    }

    pub fn detail(self, detail: impl Into<String>) -> Self {
        Self { report: Box::new(self.report.set_detail(detail)) }
    }

    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { report: Box::new(self.report.set_hint(hint)) }
    }

    /// Says where in a batch the refused entry stands (the first is 1).
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

/// Shortens a value for a message, so that a huge key does not become a huge log line.
pub fn shown(value: &str) -> String {
    const LIMIT: usize = 64;
    match value.char_indices().nth(LIMIT) {
        None => format!("\"{value}\""),
        Some((end, _)) => format!("\"{}…\" ({} bytes)", &value[..end], value.len()),
    }
}
