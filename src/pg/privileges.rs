//! Privileges: which role has them, and calls that run with the rights of another role.

use super::{backend, version};
use pgrx::pg_sys;

/// Runs `f` with the rights of the owner of a table.
pub fn as_owner_of<T>(table: pg_sys::Oid, f: impl FnOnce() -> T) -> T {
    as_role(owner_of(table), f)
}

/// Runs `f` with the rights of a role.
pub fn as_role<T>(role: pg_sys::Oid, f: impl FnOnce() -> T) -> T {
    // SAFETY: the first call sets both variables. If `f` raises, the end of the transaction or subtransaction restores user and
    // context, as it does for any SECURITY DEFINER function.
    unsafe {
        let (mut user, mut context) = (pg_sys::InvalidOid, 0);
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        pg_sys::SetUserIdAndSecContext(role, context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32);
        let result = f();
        pg_sys::SetUserIdAndSecContext(user, context);
        result
    }
}

/// Runs `f` with the rights of the owner of a table, and confined as REINDEX is: code of the owner's that runs meanwhile,
/// such as a trigger, can neither take the caller's rights, nor change the session, nor put anything off to the end of the
/// transaction. If the owner itself calls, nothing is confined.
pub fn confined_to_owner_of<T>(table: pg_sys::Oid, f: impl FnOnce() -> T) -> T {
    // SAFETY: as above. The end of the nest level, or after an ERROR that of the transaction or subtransaction, sets back the
    // settings that `f` has changed.
    unsafe {
        let (mut user, mut context) = (pg_sys::InvalidOid, 0);
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        let owner = owner_of(table);
        if user == owner {
            return f();
        }
        pg_sys::SetUserIdAndSecContext(owner, context | pg_sys::SECURITY_RESTRICTED_OPERATION as i32);
        let level = pg_sys::NewGUCNestLevel();
        let result = f();
        pg_sys::AtEOXact_GUC(false, level);
        pg_sys::SetUserIdAndSecContext(user, context);
        result
    }
}

/// Runs `f` as [`confined_to_owner_of`] does for a caller that has the owner's rights, as a superuser has. Any other caller
/// keeps its own rights.
pub fn without_more_than_owner_of<T>(table: pg_sys::Oid, f: impl FnOnce() -> T) -> T {
    if has_rights_of(owner_of(table)) { confined_to_owner_of(table, f) } else { f() }
}

/// Returns the owner of a table.
///
/// # Errors
/// Those of the server, for a table that is gone.
pub fn owner_of(table: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: the relation is open while it is read. The lock is kept to the end of the transaction, as a statement keeps it.
    unsafe {
        let relation = pg_sys::relation_open(table, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        let owner = (*(*relation).rd_rel).relowner;
        pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        owner
    }
}

/// Whether the current user owns a table, or has its owner's rights.
pub fn is_owned(table: pg_sys::Oid) -> bool {
    has_rights_of(owner_of(table))
}

/// Returns the role of a name, if there is one.
pub fn find_role(name: &std::ffi::CStr) -> Option<pg_sys::Oid> {
    // SAFETY: a lookup in the system cache by a NUL-terminated name.
    let role = unsafe { pg_sys::get_role_oid(name.as_ptr(), true) };
    (role != pg_sys::InvalidOid).then_some(role)
}

/// Returns the name of a role.
///
/// # Errors
/// 42704 when the role is gone.
pub fn name_of_existing(role: pg_sys::Oid) -> String {
    // SAFETY: a lookup in the system caches, which returns a NUL-terminated name, or raises.
    unsafe { std::ffi::CStr::from_ptr(pg_sys::GetUserNameFromId(role, false)).to_string_lossy().into_owned() }
}

/// Returns the name of a role, or its OID when the role is gone.
pub fn name_of(role: pg_sys::Oid) -> String {
    // SAFETY: a lookup in the system caches, which returns a NUL-terminated name, or NULL for a role that is gone.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        if name.is_null() {
            role.to_u32().to_string()
        } else {
            std::ffi::CStr::from_ptr(name).to_string_lossy().into_owned()
        }
    }
}

/// Whether the current user has the rights of a role.
fn has_rights_of(role: pg_sys::Oid) -> bool {
    role_has_rights_of(backend::current_user(), role)
}

/// Whether a role has the rights of another one. A role that is gone has none.
pub fn role_has_rights_of(role: pg_sys::Oid, other: pg_sys::Oid) -> bool {
    // SAFETY: lookups in the system caches, which find nothing for a role that is gone.
    unsafe { pg_sys::has_privs_of_role(role, other) }
}

/// Whether a role is a superuser.
pub fn is_superuser(role: pg_sys::Oid) -> bool {
    // SAFETY: a lookup in the system caches.
    unsafe { pg_sys::superuser_arg(role) }
}

/// Whether the current user is a superuser.
pub fn acts_as_superuser() -> bool {
    is_superuser(backend::current_user())
}

/// Whether the current user may read a table, or what row security shows of it.
pub fn may_read(table: pg_sys::Oid) -> bool {
    holds(table, version::SELECT)
}

/// Whether the current user may insert into a table and update it, or what row security lets it.
pub fn may_store(table: pg_sys::Oid) -> bool {
    holds(table, version::INSERT) && holds(table, version::UPDATE)
}

/// Whether the current user may delete from a table, or what row security shows of it.
pub fn may_delete(table: pg_sys::Oid) -> bool {
    holds(table, version::DELETE)
}

fn holds(table: pg_sys::Oid, privilege: pg_sys::AclMode) -> bool {
    // SAFETY: a lookup in the system caches, which raises for a table that is gone.
    unsafe { pg_sys::pg_class_aclcheck(table, backend::current_user(), privilege) == pg_sys::AclResult::ACLCHECK_OK }
}

/// Whether row security restricts the current user on a table.
pub fn is_restricted(table: pg_sys::Oid) -> bool {
    // InvalidOid stands for the current user.
    is_role_restricted(table, pg_sys::InvalidOid)
}

/// Whether row security restricts a role on a table. It does not on a table that is gone.
pub fn is_role_restricted(table: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    // SAFETY: a lookup in the system caches.
    unsafe { pg_sys::check_enable_rls(table, role, true) == pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32 }
}
