//! Erasure of a user.

use super::{checked_user, lock, or_raise};
use crate::advisory::{self, Class};
use crate::audit::knows_who_acted;
use crate::error::Refusal;
use crate::home::{AUDIT_ARCHIVE, AUDIT_LOG, BY_USER, CACHE, Home};
use crate::operate::archive::find_archive;
use crate::owner;
use crate::spi::{self, Access};
use crate::statistics::at_commit::{Action, at_commit};
use pgrx::Uuid;
use pgrx::prelude::*;

/// Erases a user's entries and audit rows, of what he has done to others' entries and those in the archive,
/// too. It works while the cache is
/// switched off: the duty to erase does not wait.
#[pg_extern(sql = false)]
fn cache_forget_user(
    user_id: Option<Uuid>,
) -> TableIterator<'static, (name!(entries_deleted, i64), name!(audit_rows_deleted, i64))> {
    let user_id = or_raise(checked_user(user_id));
    let home = Home::current();
    // What a writer has stored and not yet committed must go, too, and what is in memory or on its way from
    // there to the tables.
    lock::lock_user(&user_id);
    advisory::lock(Class::Statistics, 0);
    let delete = |table: &str| {
        // No other table has the column.
        let condition =
            if knows_who_acted(home.table(table)) { "$1 IN (user_id, acting_user_id)" } else { "user_id = $1" };
        let sql = format!("DELETE FROM {}.{table} WHERE {condition}", home.schema);
        owner::without_more_than_owner_of(home.table(table), || {
            let deleted = spi::run(Access::Write, &sql, &[user_id.into()], |rows| rows.count() as i64);
            if spi::uses_transaction_snapshot() {
                let left = format!("SELECT 1 FROM {}.{table} WHERE {condition} LIMIT 1", home.schema);
                if spi::run(Access::ReadLatest, &left, &[user_id.into()], |rows| rows.count() > 0) {
                    hidden();
                }
            }
            deleted
        })
    };
    let entries = delete(CACHE);
    let mut audit_rows = delete(AUDIT_LOG);
    if find_archive(&home).is_some() {
        audit_rows += delete(AUDIT_ARCHIVE);
    }
    // The owner's table, which nobody else may write.
    if let Some(summary) = home.find_table(BY_USER) {
        owner::as_owner_of(summary, || delete(BY_USER));
    }
    at_commit(Action::ForgetUser(user_id));
    TableIterator::once((entries, audit_rows))
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
