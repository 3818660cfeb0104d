//! Relations: their names, and a look at one that stays what it is meanwhile.

#![allow(unsafe_code)]

use super::spi::{self, Access};
use crate::error::Refusal;
use pgrx::{PgSqlErrorCode, pg_sys};

/// The name of a relation, without its schema.
pub fn name_of(relation: pg_sys::Oid) -> String {
    // SAFETY: get_rel_name returns a palloc'd string, or NULL when the relation is gone.
    unsafe {
        let name = pg_sys::get_rel_name(relation);
        if name.is_null() {
            relation.to_u32().to_string()
        } else {
            std::ffi::CStr::from_ptr(name).to_string_lossy().into_owned()
        }
    }
}

/// Runs `f` with a relation locked, so that it stays what it is meanwhile: the server shows no definition, as of an
/// index, when a table goes while it looks. `None` when it is gone.
pub fn while_it_stays<T>(relation: pg_sys::Oid, f: impl FnOnce(pg_sys::Relation) -> T) -> Option<T> {
    const LOCK: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    // SAFETY: what is not NULL is open until it is closed; an error closes it.
    unsafe {
        let open = pg_sys::try_relation_open(relation, LOCK);
        if open.is_null() {
            return None;
        }
        let result = f(open);
        pg_sys::relation_close(open, LOCK);
        Some(result)
    }
}

/// Whether this transaction has made a relation, so that nobody else knows it yet.
pub fn is_of_this_transaction(relation: pg_sys::Oid) -> bool {
    // SAFETY: the relation is open.
    while_it_stays(relation, |relation| unsafe { (*relation).rd_createSubid != 0 }).unwrap_or(false)
}

/// The name of a relation with its schema, quoted for use in a statement.
///
/// # Errors
/// 42P01 when somebody has dropped it meanwhile.
pub fn qualified_name(relation: pg_sys::Oid) -> String {
    spi::run(
        Access::ReadLatest,
        "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1",
        &[relation.into()],
        |rows| if rows.count() > 0 { rows.get(0, 1) } else { None },
    )
    .unwrap_or_else(|| {
        Refusal::new(PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE, format!("the relation with OID {relation} is gone"))
            .detail("Somebody has dropped it meanwhile.")
            .hint("Try again.")
            .raise()
    })
}

/// Locks a table as INSERT, UPDATE and DELETE do.
pub fn lock_to_write(table: pg_sys::Oid) {
    // SAFETY: the end of the transaction releases the lock. One on a table that has just been dropped hurts nobody.
    unsafe { pg_sys::LockRelationOid(table, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE) };
}

/// Whether a relation has a column.
pub fn has_column(relation: pg_sys::Oid, name: &std::ffi::CStr) -> bool {
    // SAFETY: a lookup in the system cache by a NUL-terminated name.
    unsafe { pg_sys::get_attnum(relation, name.as_ptr()) > 0 }
}
