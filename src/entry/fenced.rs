//! Removes entries within the fence, so that an answer that was made from what is outdated is not stored afterwards.

use crate::access::row_security;
use crate::error::Refusal;
use crate::extension::{CACHE, Extension};
use crate::lease::{self, Subject};
use crate::pg::spi::{self, Access};
use pgrx::Uuid;
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use std::collections::HashSet;

/// Runs `remove`, which removes entries of a user that a subject names. A caller that may not delete these for sure does not
/// reach the fence, because it could keep the user's answers out without a right to.
pub fn fenced<T>(user_id: &Uuid, subject: &Subject, remove: impl FnOnce() -> T) -> T {
    let table = Extension::current().table(CACHE);
    if !row_security::may_fence(table, user_id) {
        return remove();
    }
    lease::invalidating(subject, || row_security::all_can_be_deleted(table), remove)
}

/// Makes sure, after a removal, that no entry of its condition is left that the transaction's snapshot hides. An entry that it
/// shows, and that is still there, is kept by a policy or trigger.
///
/// # Errors
/// 40001 if there is one: the removal would leave it.
pub fn refuse_hidden(condition: &str, args: &[DatumWithOid]) {
    if !spi::uses_transaction_snapshot() {
        return;
    }
    let schema = &Extension::current().schema;
    let sql = format!("SELECT pg_catalog.concat_ws(' ', tableoid, ctid) FROM {schema}.{CACHE} WHERE {condition}");
    let left = |access| -> HashSet<String> {
        spi::run(access, &sql, args, |rows| rows.map(|rows, row| rows.get(row, 1).expect("a text")))
            .into_iter()
            .collect()
    };
    let now = left(Access::ReadLatest);
    // A statement that may write sees what this transaction has deleted.
    if !now.is_empty() && !now.is_subset(&left(Access::Write)) {
        Refusal::new(
            PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
            "could not invalidate because of concurrent changes",
        )
        .detail("Another transaction has stored an entry that this one cannot see.")
        .hint("Try the transaction again.")
        .raise();
    }
}
