//! Which entries a role may read, decided as row security would for a statement.

use super::tenant;
use crate::extension::Extension;
use crate::pg::nodes::Expression;
use crate::pg::relation::{Relation, while_it_stays};
use crate::pg::{backend, function, privileges, version};
use pgrx::{Uuid, pg_sys};

/// Which rows of a table a role may use in some way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Visible {
    /// Every entry.
    All,
    /// The entries of the user that the session acts for.
    OwnEntries,
    /// Only a statement can tell. Where a role has no right, the statement raises the error.
    AskSql,
}

/// A use that policies decide, with the letter of its command in pg_policy.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Use {
    Read = b'r',
    Insert = b'a',
    Update = b'w',
    Delete = b'd',
}

impl Visible {
    /// Returns what the current user may read of the table of the cache.
    pub fn to_current_user(extension: &Extension, table: pg_sys::Oid) -> Self {
        let role = backend::current_user();
        if !privileges::may_read(table) || !version::may_use_schema(extension.namespace, role) {
            Self::AskSql
        } else if !privileges::is_restricted(table) {
            Self::All
        } else {
            while_it_stays(table, |table| Self::by_policies(table, role, Use::Read)).unwrap_or(Self::AskSql)
        }
    }

    /// Returns the rows that the policies of a table let a role use in a way. Each permissive policy adds to them. A
    /// policy that is restrictive, or not one of the extension's own, has to be evaluated: then only SQL can tell.
    pub fn by_policies(table: &Relation, role: pg_sys::Oid, way: Use) -> Self {
        let user_id = table.column(c"user_id").map(|column| column.number);
        let mut found = Vec::new();
        for policy in table.policies() {
            let is_for_role =
                |&other: &pg_sys::Oid| other == pg_sys::InvalidOid || privileges::role_has_rights_of(role, other);
            if ![b'*', way as u8].contains(&policy.command) || !policy.roles.iter().any(is_for_role) {
                continue;
            }
            let with_check = policy.with_check.filter(|_| way == Use::Insert);
            found.push(match with_check.or(policy.using) {
                _ if !policy.is_permissive => Self::AskSql,
                Some(Expression::True) => Self::All,
                Some(condition) if is_of_session(&condition, user_id) => Self::OwnEntries,
                _ => Self::AskSql,
            });
        }
        [Self::AskSql, Self::All, Self::OwnEntries]
            .into_iter()
            .find(|visible| found.contains(visible))
            .unwrap_or(Self::AskSql)
    }
}

/// Which entries row security lets the current user insert and update. Privileges on the table are another matter.
pub fn can_be_written(table: pg_sys::Oid) -> Visible {
    if !privileges::is_restricted(table) {
        return Visible::All;
    }
    let role = backend::current_user();
    let by_policies = |table: &Relation| {
        let [insert, update] = [Use::Insert, Use::Update].map(|way| Visible::by_policies(table, role, way));
        if insert == update { insert } else { Visible::AskSql }
    };
    while_it_stays(table, by_policies).unwrap_or(Visible::AskSql)
}

/// Whether row security is sure to let the current user write only entries of the user that the session acts for.
pub fn only_own_can_be_written(table: pg_sys::Oid) -> bool {
    can_be_written(table) == Visible::OwnEntries
}

/// Whether privileges and row security are sure to let the current user read and delete every entry.
pub fn all_can_be_deleted(table: pg_sys::Oid) -> bool {
    let role = backend::current_user();
    let allows_all = |table: &Relation| {
        [Use::Read, Use::Delete].into_iter().all(|way| Visible::by_policies(table, role, way) == Visible::All)
    };
    privileges::may_read(table)
        && privileges::may_delete(table)
        && (!privileges::is_restricted(table) || while_it_stays(table, allows_all).unwrap_or(false))
}

/// Whether the current user may keep answers of a user out of the cache: if it is sure to be let delete the user's entries, or
/// if the session acts for the user. What only a statement can tell, such as the policies of another library, lets it reach no
/// other user's. Its own are fenced rather too often, because what it deletes must be.
pub fn may_fence(table: pg_sys::Oid, user: &Uuid) -> bool {
    let is_own = || tenant::cache_current_user_id() == Some(*user);
    let may_all =
        || all_can_be_deleted(table) && !(privileges::is_restricted(table) && backend::has_row_security_hook());
    privileges::may_delete(table) && (is_own() || may_all())
}

/// Whether an expression is `user_id = cache_current_user_id()`. The name of the function does not tell, because it may have
/// been replaced: it must be this library's.
fn is_of_session(expression: &Expression, user_id: Option<i16>) -> bool {
    let Expression::Operator(operator, sides) = expression else { return false };
    let [Expression::Column(column), Expression::Call(function, arguments)] = sides.as_slice() else { return false };
    *operator == pg_sys::Oid::from(pg_sys::F_UUID_EQ)
        && Some(*column) == user_id
        && arguments.is_empty()
        && function::is_of_library(*function, tenant::cache_current_user_id_wrapper as *const ())
}
