//! Caught errors: a subtransaction that may fail without the transaction, and errors raised again in better words.

use crate::error::Refusal;
use core::fmt;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::{CaughtError, ErrorReportWithLevel};
use pgrx::prelude::*;
use std::panic::AssertUnwindSafe;

/// The fields of a caught error.
#[derive(Clone, Debug)]
pub struct Caught {
    code: PgSqlErrorCode,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
}

impl Caught {
    pub fn message(&self) -> &str {
        &self.message
    }

    pub fn new(error: &CaughtError) -> Self {
        let report = report_of(error);
        Self {
            code: report.sql_error_code(),
            message: report.message().to_string(),
            detail: report.detail().map(str::to_string),
            hint: report.hint().map(str::to_string),
        }
    }
}

/// Stands before the SQLSTATE in the text of a caught error.
pub const MARK: &str = "(SQLSTATE ";

/// Writes one line, as the maintenance log has it. A mark within the error's own text is changed, so that a SQLSTATE follows
/// each mark.
impl fmt::Display for Caught {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unmarked = |text: &str| text.replace(MARK, "(SQLSTATE: ");
        write!(f, "{} {MARK}{})", unmarked(&self.message), sqlstate(self.code))?;
        let mut end = ".";
        for (name, text) in [("DETAIL", &self.detail), ("HINT", &self.hint)] {
            if let Some(text) = text {
                write!(f, "{end} {name}: {}", unmarked(text))?;
                end = "";
            }
        }
        Ok(())
    }
}

/// Returns the five characters of a code, which has six bits for each.
fn sqlstate(code: PgSqlErrorCode) -> String {
    (0..5).map(|digit| char::from(b'0' + ((code as usize >> (6 * digit)) & 0x3f) as u8)).collect()
}

/// Runs `f` in a subtransaction. If `f` raises, the subtransaction is rolled back and the error is returned. The errors of a
/// cancelled query and a terminated backend are raised again.
pub fn attempt<T>(f: impl FnOnce() -> T) -> Result<T, Caught> {
    in_subtransaction(f).map_err(|error| {
        let caught = Caught::new(&error);
        if matches!(caught.code, PgSqlErrorCode::ERRCODE_QUERY_CANCELED | PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN) {
            error.rethrow();
        }
        caught
    })
}

/// Runs `f` in a subtransaction; `None` when `f` failed because a lock was not available in time. Every other error is raised
/// again.
pub fn unless_locked<T>(f: impl FnOnce() -> T) -> Option<T> {
    match in_subtransaction(f) {
        Ok(value) => Some(value),
        Err(error) if report_of(&error).sql_error_code() == PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE => None,
        Err(error) => error.rethrow(),
    }
}

fn in_subtransaction<T>(f: impl FnOnce() -> T) -> Result<T, Box<CaughtError>> {
    // SAFETY: the calls are those of PL/pgSQL, in its order. Memory context and resource owner are the same after the
    // subtransaction as before, however it ends.
    unsafe {
        let context = pg_sys::CurrentMemoryContext;
        let owner = pg_sys::CurrentResourceOwner;
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(context);
        let result = PgTryBuilder::new(AssertUnwindSafe(|| {
            let value = f();
            pg_sys::ReleaseCurrentSubTransaction();
            Ok(value)
        }))
        .catch_others(|error| Err(Box::new(error)))
        .catch_rust_panic(|error| Err(Box::new(error)))
        .execute();
        if result.is_err() {
            pg_sys::MemoryContextSwitchTo(context);
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
        }
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
        result
    }
}

/// Runs `f`. If it raises, and `explain` returns an error for its code, message and DETAIL, that error is raised instead.
pub fn translate<T>(
    f: impl FnOnce() -> T,
    explain: impl Fn(PgSqlErrorCode, &str, Option<&str>) -> Option<Refusal>,
) -> T {
    let explain = AssertUnwindSafe(explain);
    PgTryBuilder::new(AssertUnwindSafe(f))
        .catch_others(move |error| {
            let report = report_of(&error);
            let AssertUnwindSafe(explain) = &explain;
            match explain(report.sql_error_code(), report.message(), report.detail()) {
                Some(refusal) => refusal.raise(),
                None => error.rethrow(),
            }
        })
        .execute()
}

/// Runs `f`. If it raises, the error that `explain` returns for its code and message is raised instead.
pub fn translate_any<T>(f: impl FnOnce() -> T, explain: impl Fn(PgSqlErrorCode, &str) -> Refusal) -> T {
    let explain = AssertUnwindSafe(explain);
    PgTryBuilder::new(AssertUnwindSafe(f))
        .catch_others(move |error| {
            let report = report_of(&error);
            let AssertUnwindSafe(explain) = &explain;
            explain(report.sql_error_code(), report.message()).raise()
        })
        .execute()
}

/// Whether an error is that of a cancelled statement.
pub fn is_cancellation(error: &CaughtError) -> bool {
    report_of(error).sql_error_code() == PgSqlErrorCode::ERRCODE_QUERY_CANCELED
}

fn report_of(error: &CaughtError) -> &ErrorReportWithLevel {
    match error {
        CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic { ereport: report, .. } => report,
    }
}
