//! Keeps drops of months from failing a dump. A dump takes its snapshot first and its locks then, so a month must not go in
//! between. It is connected for several round trips before its snapshot, so a check as the last thing before the commit of
//! a drop finds it.

use crate::error::Refusal;
use crate::extension::{CACHE, Extension};
use crate::pg::activity;
use crate::pg::guc::with_setting;
use crate::pg::spi::{self, Access};
use crate::pg::transaction_end::{AtCommit, Queue};
use pgrx::PgSqlErrorCode;

/// Why a month is kept.
pub const AT_WORK: &str = "a dump or a restore is at work (pg_dump, pg_restore)";

/// Whether a dump or a restore of this database is at work.
pub fn is_at_work(extension: &Extension) -> bool {
    is_connected(extension, &["pg_dump", "pg_restore"])
}

/// Whether one of these programs is connected to this database. Clients choose their application_name, so only that of a
/// role with the owner's rights counts.
pub fn is_connected(extension: &Extension, programs: &[&str]) -> bool {
    activity::look_again();
    let programs: Vec<String> = programs.iter().map(|program| (*program).to_string()).collect();
    spi::run(
        Access::ReadLatest,
        "SELECT EXISTS (SELECT 1 FROM pg_stat_activity a JOIN pg_class c ON c.relnamespace = $1 AND c.relname = $2 \
         WHERE a.datname = current_database() AND a.application_name = ANY ($3) AND a.pid <> pg_backend_pid() \
           AND pg_has_role(a.usesysid, c.relowner, 'USAGE'))",
        &[extension.namespace.into(), CACHE.into(), programs.into()],
        |rows| rows.get::<bool>(0, 1).unwrap_or(false),
    )
}

/// Returns the error of what has to wait for a dump or a restore: 55006.
pub fn refusal(message: &str, detail: &str) -> Refusal {
    Refusal::new(PgSqlErrorCode::ERRCODE_OBJECT_IN_USE, message)
        .detail(format!("pg_dump or pg_restore is connected. {detail}"))
        .hint("Try again when it has ended.")
}

/// A dropped month, which a dump that has begun meanwhile would miss.
pub struct MonthDropped;

thread_local! {
    pub static DROPPED: Queue<MonthDropped> = const { Queue::new() };
}

/// Makes this transaction, which drops a month, look for dumps once more before it commits.
pub fn ask_at_commit() {
    DROPPED.with(|dropped| dropped.push(MonthDropped, |_, _| true));
}

impl AtCommit for MonthDropped {
    /// Looks for dumps, whatever search_path the session has.
    ///
    /// # Errors
    /// 55006 while a dump or a restore is at work.
    fn before_commit() {
        with_setting(c"search_path", "pg_catalog, pg_temp", || {
            // The transaction may have dropped the extension.
            if Extension::find().is_some_and(|extension| is_at_work(&extension)) {
                let message = "cannot commit because the transaction drops months that a dump may have begun to read";
                refusal(
                    message,
                    "A dump fails if a table that its snapshot shows is dropped before the dump has locked it.",
                )
                .raise();
            }
        });
    }

    /// Refuses PREPARE TRANSACTION, because COMMIT PREPARED, maybe of another session, does not look for dumps: 0A000.
    fn refuses_prepare(&self) -> Option<Refusal> {
        let code = PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED;
        let refusal = Refusal::new(code, "cannot PREPARE a transaction that has dropped a month")
            .detail("COMMIT PREPARED does not check for dumps, and a dump that has begun to read the month would fail.")
            .hint("Drop months in a transaction that ends with COMMIT.");
        Some(refusal)
    }

    fn committed(self) {}
}
