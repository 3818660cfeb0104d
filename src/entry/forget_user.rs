//! cache_forget_user(): erases a user.

use super::conflicts::{self, Left};
use super::fenced::fenced;
use super::key_lock;
use crate::access::all_rows::must_change_all;
use crate::arguments::{checked_user, or_raise};
use crate::audit::archive::find_archive;
use crate::audit::reads;
use crate::audit::writes::knows_who_acted;
use crate::error::Refusal;
use crate::extension::{AUDIT_ARCHIVE, AUDIT_LOG, BY_USER, CACHE, Extension, locks};
use crate::lease::{self, Subject};
use crate::pg::advisory_lock;
use crate::pg::backend::refuse_if_read_only;
use crate::pg::spi::{self, Access};
use crate::pg::{privileges, snapshot};
use crate::statistics::at_commit::{Change, at_commit};
use pgrx::Uuid;
use pgrx::prelude::*;

/// Erases a user's entries and audit rows, including those in the archive and those of what the user did to others'
/// entries. Works while the cache is off, because the duty to erase does not wait.
///
/// # Errors
/// 42501 if row security or a trigger keeps a row of the user, 40001 if the transaction's snapshot hides one: an erasure is
/// whole or none.
#[pg_extern(sql = false)]
fn cache_forget_user(
    user_id: Option<Uuid>,
) -> TableIterator<'static, (name!(entries_deleted, i64), name!(audit_rows_deleted, i64))> {
    let user_id = or_raise(checked_user(user_id));
    refuse_if_read_only(c"cache_forget_user()");
    TableIterator::once(fenced(&user_id, &Subject::User(user_id), || erase(user_id)))
}

/// Erases a user; returns how many entries and audit rows it deletes.
fn erase(user_id: Uuid) -> (i64, i64) {
    let extension = Extension::current();
    // Rows that a writer has not committed yet must go, too. This waits before it deletes, because the writer may be about
    // to write a row that is deleted below, and would wait for this transaction.
    key_lock::lock_out_writers(&user_id);
    while let Left::Written(other) = snapshot::with_next(|snapshot| conflicts::left_of(&user_id, snapshot)) {
        other.wait();
    }
    let delete = |table: &str| {
        // Only the audit tables have acting_user_id.
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
            // Clients that insert directly take no lock, and can come at any time.
            Left::New => {}
            Left::Old => kept(),
        }
    }
    // What is in shared memory, or being flushed, must go, too.
    advisory_lock::lock(locks::STATISTICS, 0);
    let mut audit_rows = delete(AUDIT_LOG);
    if find_archive(&extension).is_some() {
        audit_rows += delete(AUDIT_ARCHIVE);
    }
    // Only its owner may write this table.
    if let Some(summary) = extension.find_table(BY_USER) {
        privileges::as_owner_of(summary, || delete(BY_USER));
    }
    at_commit(Change::ForgetUser(user_id));
    reads::forget_at_commit(user_id);
    lease::forget_user(&user_id);
    (entries, audit_rows)
}

/// Raises the error of entries that are left, although no other transaction has written them since.
fn kept() -> ! {
    Refusal::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, "the user's entries cannot all be deleted")
        .detail("A row security policy, or a trigger, keeps some of them from being deleted.")
        .hint(format!("Call it as the owner of {CACHE}, or look at the table's policies and triggers."))
        .raise()
}

/// Raises the error of rows that the transaction's snapshot does not show: it cannot delete them, and a commit would leave
/// them.
fn hidden() -> ! {
    Refusal::new(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        "could not erase the user because of concurrent changes",
    )
    .detail("Another transaction has written entries or audit rows of the user that this one cannot see.")
    .hint("Try the transaction again.")
    .raise()
}
