//! Locks on tables, held until the end of the transaction. A lock on a table that has just been dropped does no harm.

use pgrx::pg_sys;

/// Locks a table as SELECT does. Waits for conflicting locks.
pub fn lock_to_read(table: pg_sys::Oid) {
    lock(table, pg_sys::AccessShareLock);
}

/// Locks a table as INSERT, UPDATE and DELETE do. Waits for conflicting locks.
pub fn lock_to_write(table: pg_sys::Oid) {
    lock(table, pg_sys::RowExclusiveLock);
}

/// Whom DDL keeps out of a table, the weaker lock first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Against {
    /// As CREATE INDEX does.
    Writers,
    /// As ALTER TABLE does.
    Everybody,
}

/// Locks a table as DDL does. Waits for conflicting locks.
pub fn lock_against(table: pg_sys::Oid, whom: Against) {
    let mode = match whom {
        Against::Writers => pg_sys::ShareLock,
        Against::Everybody => pg_sys::AccessExclusiveLock,
    };
    lock(table, mode);
}

/// Locks a table as SELECT does, if that is possible without waiting. Returns whether it did.
pub fn try_lock_to_read(table: pg_sys::Oid) -> bool {
    try_lock(table, pg_sys::AccessShareLock)
}

/// Locks a table as ANALYZE and VACUUM do, if that is possible without waiting. Returns whether it did.
pub fn try_lock_to_analyze(table: pg_sys::Oid) -> bool {
    try_lock(table, pg_sys::ShareUpdateExclusiveLock)
}

fn lock(table: pg_sys::Oid, mode: u32) {
    // SAFETY: takes any OID.
    unsafe { pg_sys::LockRelationOid(table, mode as pg_sys::LOCKMODE) };
}

fn try_lock(table: pg_sys::Oid, mode: u32) -> bool {
    // SAFETY: takes any OID.
    unsafe { pg_sys::ConditionalLockRelationOid(table, mode as pg_sys::LOCKMODE) }
}
