//! The horizon: which old versions of rows no snapshot can see any more.

use pgrx::pg_sys;

/// Whether the versions of rows that a transaction has outdated can be removed from a table of the same kind as `table`, or
/// from any table if that is gone. `table` is not partitioned, because the server knows no horizon of a partitioned table.
pub fn has_passed(transaction: pg_sys::TransactionId, table: Option<pg_sys::Oid>) -> bool {
    const LOCK: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    // SAFETY: the relation is open while the server reads it; NULL stands for any table.
    unsafe {
        let relation = table.map_or(std::ptr::null_mut(), |table| pg_sys::try_relation_open(table, LOCK));
        let oldest = pg_sys::GetOldestNonRemovableTransactionId(relation);
        if !relation.is_null() {
            pg_sys::relation_close(relation, LOCK);
        }
        pg_sys::TransactionIdPrecedes(transaction, oldest)
    }
}
