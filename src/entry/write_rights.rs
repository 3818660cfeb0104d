//! Checks whose entries a session may write. It does so before the session waits for other writers, because a tenant would
//! learn of their writes from the wait.

use super::conflicts::versions_by_statement;
use super::entry_index::Entries;
use crate::access::row_security::{self, Visible};
use crate::access::tenant;
use crate::address::Address;
use crate::error::Refusal;
use crate::extension::{CACHE, Extension};
use crate::pg::{invalidation, privileges};
use pgrx::Uuid;
use pgrx::prelude::*;

/// Refuses entries of another user if row security is sure to refuse them. If it is not, row security decides at the write.
///
/// # Errors
/// 42501 for an entry of another user.
pub fn check_users<'a>(users: impl Iterator<Item = &'a Uuid>) {
    let acting = tenant::cache_current_user_id();
    let foreign = users.into_iter().find(|user| acting != Some(**user));
    if let Some(user) = foreign.filter(|_| row_security::only_own_can_be_written(Extension::current().table(CACHE))) {
        not_own(acting, user).raise();
    }
}

/// The users whose entries the caller is sure to be allowed to write.
pub struct Writer {
    rows: Visible,
    acting: Option<Uuid>,
    is_privileged: bool,
}

impl Writer {
    /// Returns what the current user may write. Where only a statement can tell, that is the user that the session acts for.
    pub fn current() -> Self {
        invalidation::accept_messages();
        let writable = Entries::current(&Extension::current()).writable();
        let is_all = writable.rows == Visible::All;
        let acting = if is_all { None } else { tenant::cache_current_user_id() };
        Self { rows: writable.rows, acting, is_privileged: writable.is_privileged }
    }

    /// As [`check_users`].
    ///
    /// # Errors
    /// 42501 for an entry of another user.
    pub fn refuse_foreign(&self, user: &Uuid) {
        if self.rows == Visible::OwnEntries && self.acting != Some(*user) {
            not_own(self.acting, user).raise();
        }
    }

    /// Whether the caller may write a user's entries. Calls nothing of the server's.
    pub fn may_write(&self, user: &Uuid) -> bool {
        self.is_privileged && (self.rows == Visible::All || self.acting == Some(*user))
    }
}

/// Returns the refusal of an entry of another user.
pub fn not_own(acting: Option<Uuid>, user_id: &Uuid) -> Refusal {
    let acting = acting.map_or_else(|| "no user".to_string(), |user| format!("user {user}"));
    Refusal::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, "an entry of another user cannot be written")
        .detail(format!("The session acts for {acting}, but the entry belongs to user {user_id}."))
        .hint("Set the claim sub in request.jwt.claims, or infinite_pages_cache.user_id, to the entry's user.")
}

/// Whether the caller may see an entry. A touch of an entry that its caller may not see does nothing, and waits for nobody.
pub fn may_see(address: &Address) -> bool {
    let extension = Extension::current();
    let entries = Entries::current(&extension);
    match entries.partitions(&extension) {
        Some((_, Visible::OwnEntries)) => tenant::cache_current_user_id() == Some(address.user_id),
        Some(_) => true,
        None => !privileges::is_restricted(entries.table) || !versions_by_statement(address).is_empty(),
    }
}
