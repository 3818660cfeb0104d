//! Which entries a role may read, decided as row security would for a statement.

#![allow(unsafe_code)]

use super::tenant;
use crate::extension::Extension;
use crate::pg::relation::while_it_stays;
use crate::pg::{backend, privileges, version};
use pgrx::datum::FromDatum;
use pgrx::{PgList, pg_sys};

/// Which rows of a table a role may use in some way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Visible {
    /// Every entry.
    All,
    /// The entries of the user that the session acts for.
    OwnEntries,
    /// Only a statement can tell. Where a role may read nothing, the statement raises the error.
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
    pub fn by_policies(table: pg_sys::Relation, role: pg_sys::Oid, way: Use) -> Self {
        // SAFETY: the policies stay as long as the relation is open. A policy consists of complete expressions, and its roles
        // are an array of oid without NULLs.
        unsafe {
            let described = (*table).rd_rsdesc;
            if described.is_null() {
                return Self::AskSql;
            }
            let user_id = pg_sys::SPI_fnumber((*table).rd_att, c"user_id".as_ptr());
            let mut found = Vec::new();
            for policy in PgList::<pg_sys::RowSecurityPolicy>::from_pg((*described).policies).iter_ptr() {
                let roles = pg_sys::Datum::from((*policy).roles);
                let roles = Vec::<pg_sys::Oid>::from_datum(roles, false).unwrap_or_default();
                let is_for_this = [b'*', way as u8].contains(&((*policy).polcmd as u8));
                let is_for_role =
                    |&other: &pg_sys::Oid| other == pg_sys::InvalidOid || privileges::role_has_rights_of(role, other);
                if !is_for_this || !roles.iter().any(is_for_role) {
                    continue;
                }
                let check = (*policy).with_check_qual;
                let qual = if way == Use::Insert && !check.is_null() { check } else { (*policy).qual };
                let qual = qual.cast::<pg_sys::Node>();
                found.push(if !(*policy).permissive || qual.is_null() {
                    Self::AskSql
                } else if is_true(qual) {
                    Self::All
                } else if is_of_session(qual, user_id) {
                    Self::OwnEntries
                } else {
                    Self::AskSql
                });
            }
            [Self::AskSql, Self::All, Self::OwnEntries]
                .into_iter()
                .find(|visible| found.contains(visible))
                .unwrap_or(Self::AskSql)
        }
    }
}

/// Whether row security is sure to let the current user write only entries of the user that the session acts for.
pub fn only_own_can_be_written(table: pg_sys::Oid) -> bool {
    let role = backend::current_user();
    let allows_own_only = |table| {
        [Use::Insert, Use::Update].into_iter().all(|way| Visible::by_policies(table, role, way) == Visible::OwnEntries)
    };
    privileges::is_restricted(table) && while_it_stays(table, allows_own_only).unwrap_or(false)
}

/// Whether privileges and row security are sure to let the current user read and delete every entry.
pub fn all_can_be_deleted(table: pg_sys::Oid) -> bool {
    let role = backend::current_user();
    let allows_all =
        |table| [Use::Read, Use::Delete].into_iter().all(|way| Visible::by_policies(table, role, way) == Visible::All);
    privileges::may_read(table)
        && privileges::may_delete(table)
        && (!privileges::is_restricted(table) || while_it_stays(table, allows_all).unwrap_or(false))
}

/// Whether an expression is the constant true.
///
/// # Safety
/// The expression is a complete tree of nodes.
unsafe fn is_true(expression: *mut pg_sys::Node) -> bool {
    // SAFETY: the tag of a node says its type.
    unsafe {
        let constant = expression.cast::<pg_sys::Const>();
        (*expression).type_ == pg_sys::NodeTag::T_Const
            && (*constant).consttype == pg_sys::BOOLOID
            && !(*constant).constisnull
            && (*constant).constvalue.value() != 0
    }
}

/// Whether an expression is `user_id = cache_current_user_id()`.
///
/// # Safety
/// The expression is a complete tree of nodes.
unsafe fn is_of_session(expression: *mut pg_sys::Node, user_id: i32) -> bool {
    // SAFETY: the tag of a node says its type. Operators and functions that a policy uses exist.
    unsafe {
        if (*expression).type_ != pg_sys::NodeTag::T_OpExpr {
            return false;
        }
        let comparison = expression.cast::<pg_sys::OpExpr>();
        let sides = PgList::<pg_sys::Node>::from_pg((*comparison).args);
        let (Some(left), Some(right)) = (sides.get_ptr(0), sides.get_ptr(1)) else { return false };
        if pg_sys::get_opcode((*comparison).opno) != pg_sys::Oid::from(pg_sys::F_UUID_EQ)
            || (*left).type_ != pg_sys::NodeTag::T_Var
            || (*right).type_ != pg_sys::NodeTag::T_FuncExpr
        {
            return false;
        }
        let (column, call) = (left.cast::<pg_sys::Var>(), right.cast::<pg_sys::FuncExpr>());
        i32::from((*column).varattno) == user_id && (*call).args.is_null() && is_own((*call).funcid)
    }
}

/// Whether a function is this library's cache_current_user_id(). The name does not tell, because the function may have been
/// replaced.
///
/// # Safety
/// The function exists.
unsafe fn is_own(function: pg_sys::Oid) -> bool {
    // SAFETY: fmgr_info fills in the structure for a function that exists.
    unsafe {
        let mut called = pg_sys::FmgrInfo::default();
        pg_sys::fmgr_info(function, &mut called);
        called
            .fn_addr
            .is_some_and(|address| address as usize == tenant::cache_current_user_id_wrapper as *const () as usize)
    }
}
