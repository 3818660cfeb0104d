//! The horizon: which old versions of rows no snapshot can see any more.

use pgrx::pg_sys;

/// Whether the rows that a transaction has updated can be removed from a table like `table`, or from any if that is gone. Of
/// a partitioned table the server knows no horizon.
pub fn has_passed(transaction: pg_sys::TransactionId, table: Option<pg_sys::Oid>) -> bool {
    const LOCK: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    // SAFETY: the relation is open while the server is asked about it; NULL stands for any table.
    unsafe {
        let relation = table.map_or(std::ptr::null_mut(), |table| pg_sys::try_relation_open(table, LOCK));
        let oldest = pg_sys::GetOldestNonRemovableTransactionId(relation);
        if !relation.is_null() {
            pg_sys::relation_close(relation, LOCK);
        }
        pg_sys::TransactionIdPrecedes(transaction, oldest)
    }
}
