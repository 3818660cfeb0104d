//! Locks on a database as an object: DROP, RENAME and the like, and a copy by CREATE DATABASE, take one that
//! excludes connections, and then wait until nobody is connected.

#![allow(unsafe_code)]

use pgrx::pg_sys;

/// Whether nobody holds such a lock on a database, or waits for one. Called in a transaction, until whose end
/// nobody can take one.
pub fn is_open(database: pg_sys::Oid) -> bool {
    let tag = pg_sys::LOCKTAG {
        locktag_field1: pg_sys::InvalidOid.to_u32(),
        locktag_field2: pg_sys::DatabaseRelationId.to_u32(),
        locktag_field3: database.to_u32(),
        locktag_field4: 0,
        locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
    };
    // SAFETY: the tag is that of a shared object, as SET_LOCKTAG_OBJECT makes it; the call does not wait, and
    // the end of the transaction releases the lock. It is the lock that a new connection takes.
    let result = unsafe { pg_sys::LockAcquire(&tag, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE, false, true) };
    result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}
