//! The log of maintenance: a row for each step.

use crate::extension::{Extension, RUNS};
use crate::pg::privileges;
use crate::pg::spi::{self, Access};
use pgrx::datum::{AnyNumeric, DatumWithOid};

/// How a step went.
pub struct Row {
    pub step: String,
    pub status: &'static str,
    pub affected: i64,
    pub duration_ms: AnyNumeric,
    pub detail: Option<String>,
}

/// Writes the rows of one run, with the role that acted; `None` = the role of the session.
pub fn write(extension: &Extension, run_at: i64, role: Option<&str>, rows: &[Row]) {
    let runs = extension.table(RUNS);
    let sql = format!(
        "INSERT INTO {}.{RUNS} (run_at, step, status, affected, duration_ms, detail, role) \
         VALUES ($1, $2, $3, $4, $5, $6, coalesce($7, session_user))",
        extension.schema
    );
    privileges::confined_to_owner_of(runs, || {
        for row in rows {
            let args: [DatumWithOid; 7] = [
                spi::timestamptz(run_at),
                row.step.clone().into(),
                row.status.into(),
                row.affected.into(),
                row.duration_ms.clone().into(),
                row.detail.clone().into(),
                role.map(str::to_string).into(),
            ];
            spi::run(Access::Write, &sql, &args, |_| ());
        }
    });
}
