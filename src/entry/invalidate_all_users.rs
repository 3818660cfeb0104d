//! cache_invalidate_content_type_for_all_users(): removes every user's entries of one content type, because a prompt template or
//! a model has changed.

use super::fenced::refuse_hidden;
use super::invalidate::{Removed, record};
use crate::access::all_rows::must_change_all;
use crate::access::row_security;
use crate::arguments::{checked_content_type, or_raise};
use crate::error::Refusal;
use crate::extension::{CACHE, Extension, saved_plan};
use crate::lease::{self, Subject};
use crate::pg::backend::refuse_if_read_only;
use crate::pg::privileges;
use crate::pg::spi::{self, Access};
use crate::settings;
use pgrx::Uuid;
use pgrx::prelude::*;

/// What entries are sorted by: user and digest.
type Place = (Uuid, Uuid);

/// Removes the entries in batches, because their audit rows and hits are held in memory, and the rows of one statement, too.
///
/// # Errors
/// 42501 unless the caller may delete the entries of every user, 40001 if the transaction's snapshot hides one.
#[pg_extern(sql = false)]
fn cache_invalidate_content_type_for_all_users(content_type: Option<&[u8]>) -> i64 {
    let content_type = or_raise(checked_content_type(content_type));
    let extension = Extension::current();
    let table = extension.table(CACHE);
    if !row_security::all_can_be_deleted(table) {
        Refusal::new(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "only a service can invalidate entries of all users",
        )
        .detail("Privileges or row security may keep the role from deleting other users' entries.")
        .hint("Call cache_invalidate_content_type() for one user.")
        .raise();
    }
    refuse_if_read_only(c"cache_invalidate_content_type_for_all_users()");
    lease::invalidating(
        &Subject::TypeOfAllUsers(content_type),
        || true,
        || {
            let size = settings::CLEANUP_BATCH_SIZE.get().unsigned_abs().into();
            let mut number = 0;
            // No entry has the digest 0.
            let mut after = (Uuid::from_bytes([0; 16]), Uuid::from_bytes([0; 16]));
            loop {
                pgrx::check_for_interrupts!();
                let (removed, next) = privileges::without_more_than_owner_of(table, || {
                    must_change_all(&extension, &[CACHE]);
                    let next = lock_batch(content_type, after, size);
                    let last = next.unwrap_or((Uuid::from_bytes([0xff; 16]), Uuid::from_bytes([0xff; 16])));
                    (remove_batch(content_type, after, last), next)
                });
                number += record("invalidate_content_type_for_all_users", removed);
                match next {
                    Some(last) => after = last,
                    None => break,
                }
            }
            privileges::without_more_than_owner_of(table, || {
                refuse_hidden("content_type OPERATOR(pg_catalog.=) $1", &[spi::text(content_type)]);
            });
            number
        },
    )
}

/// Locks the next entries, in the order in which all writers lock rows. Returns the last one; `None` if no more may follow.
fn lock_batch(content_type: &[u8], (user_id, digest): Place, size: u64) -> Option<Place> {
    saved_plan::run(
        Access::Write,
        "lock to invalidate for all users",
        |schema| {
            let digest = format!("{schema}.cache_entry_digest(content_type, cache_key)");
            format!(
                "SELECT user_id, {digest} FROM {schema}.{CACHE} \
                 WHERE content_type = $1 AND (user_id, {digest}) > ($2, $3) \
                 ORDER BY user_id, {digest}, created_at LIMIT $4 FOR UPDATE"
            )
        },
        &[spi::text(content_type), user_id.into(), digest.into(), (size as i64).into()],
        |rows| {
            let last = rows.count().checked_sub(1).filter(|_| rows.count() == size)?;
            Some((rows.get(last, 1).expect("user_id is NOT NULL"), rows.get(last, 2).expect("a digest")))
        },
    )
}

/// Deletes the entries after one place up to another, also what writers have left there that the lock has waited for.
fn remove_batch(content_type: &[u8], after: Place, last: Place) -> Vec<Removed> {
    saved_plan::run(
        Access::Write,
        "invalidate for all users",
        |schema| {
            let place = format!("(user_id, {schema}.cache_entry_digest(content_type, cache_key))");
            format!(
                "DELETE FROM {schema}.{CACHE} \
                 WHERE content_type = $1 AND {place} > ($2, $3) AND {place} <= ($4, $5) \
                 RETURNING user_id, content_type::text, cache_key::text, id"
            )
        },
        &[spi::text(content_type), after.0.into(), after.1.into(), last.0.into(), last.1.into()],
        |rows| rows.map(Removed::of),
    )
}
