//! Erasure of a user.

use super::conflicts::{self, Left};
use super::key_lock;
use crate::access::all_rows::must_change_all;
use crate::arguments::{checked_user, or_raise};
use crate::audit::archive::find_archive;
use crate::audit::reads;
use crate::audit::writes::knows_who_acted;
use crate::error::Refusal;
use crate::extension::{AUDIT_ARCHIVE, AUDIT_LOG, BY_USER, CACHE, Extension, locks};
use crate::pg::advisory_lock;
use crate::pg::backend::refuse_if_read_only;
use crate::pg::spi::{self, Access};
use crate::pg::{privileges, snapshot};
use crate::statistics::at_commit::{Change, at_commit};
use pgrx::Uuid;
use pgrx::prelude::*;

/// Erases a user's entries and audit rows, of what the user has done to others' entries and those in the archive, too. It
/// works while the cache is switched off: the duty to erase does not wait.
///
/// # Errors
/// 42501 where row security, or a trigger, keeps something of the user: an erasure is whole or none.
#[pg_extern(sql = false)]
fn cache_forget_user(
    user_id: Option<Uuid>,
) -> TableIterator<'static, (name!(entries_deleted, i64), name!(audit_rows_deleted, i64))> {
    let user_id = or_raise(checked_user(user_id));
    let extension = Extension::current();
    refuse_if_read_only(c"cache_forget_user()");
    // What a writer has stored and not yet committed must go, too. It may be about to write what is deleted below, and would
    // wait for this transaction.
    key_lock::erase(&user_id);
    while let Left::Written(other) = snapshot::with_next(|snapshot| conflicts::left_of(&user_id, snapshot)) {
        other.wait();
    }
    let delete = |table: &str| {
        // No other table has the column.
        let condition =
            if knows_who_acted(extension.table(table)) { "$1 IN (user_id, acting_user_id)" } else { "user_id = $1" };
        let sql = format!("DELETE FROM {}.{table} WHERE {condition}", extension.schema);
        privileges::without_more_than_owner_of(extension.table(table), || {
            if table != CACHE {
                must_change_all(&extension, &[table]);
            }
            let deleted = spi::run(Access::Write, &sql, &[user_id.into()], |rows| rows.count() as i64);
            if table != CACHE && spi::uses_transaction_snapshot() {
                let left = format!("SELECT 1 FROM {}.{table} WHERE {condition} LIMIT 1", extension.schema);
                if spi::run(Access::ReadLatest, &left, &[user_id.into()], |rows| rows.count() > 0) {
                    hidden();
                }
            }
            deleted
        })
    };
    let mut entries = 0;
    loop {
        let left = snapshot::with_next(|snapshot| {
            entries += delete(CACHE);
            conflicts::left_of(&user_id, snapshot)
        });
        match left {
            Left::Nothing => break,
            Left::Written(other) => other.wait(),
            Left::New if spi::uses_transaction_snapshot() => hidden(),
            // Clients that insert directly can come at any time.
            Left::New => {}
            Left::Old => kept(),
        }
    }
    // What is in memory, or on its way from there to the tables, must go, too.
    advisory_lock::lock(locks::STATISTICS, 0);
    let mut audit_rows = delete(AUDIT_LOG);
    if find_archive(&extension).is_some() {
        audit_rows += delete(AUDIT_ARCHIVE);
    }
    // The owner's table, which nobody else may write.
    if let Some(summary) = extension.find_table(BY_USER) {
        privileges::as_owner_of(summary, || delete(BY_USER));
    }
    at_commit(Change::ForgetUser(user_id));
    reads::forget_at_commit(user_id);
    TableIterator::once((entries, audit_rows))
}

/// Entries are left that were there, and that nobody else has written since.
fn kept() -> ! {
    Refusal::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, "the user's entries cannot all be deleted")
        .detail("A row security policy, or a trigger, keeps some of them from being deleted.")
        .hint(format!("Call it as the owner of {CACHE}, or look at the table's policies and triggers."))
        .raise()
}

/// The transaction's snapshot does not show all that there is of the user: it cannot be deleted, and to commit would
/// leave it.
fn hidden() -> ! {
    Refusal::new(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        "could not erase the user because of concurrent changes",
    )
    .detail("Another transaction has written entries or audit rows of the user that this one cannot see.")
    .hint("Try the transaction again.")
    .raise()
}
