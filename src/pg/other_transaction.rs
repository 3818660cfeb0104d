//! Transactions of other processes.

use pgrx::pg_sys;

/// Another transaction in progress.
#[derive(Clone, Copy)]
pub struct Other {
    transaction: pg_sys::TransactionId,
    /// The token of a speculative insertion, which ON CONFLICT may take back before the transaction ends; 0 for any other.
    token: u32,
}

impl Other {
    pub(super) fn new(transaction: pg_sys::TransactionId, token: u32) -> Option<Self> {
        (transaction != pg_sys::InvalidTransactionId).then_some(Self { transaction, token })
    }

    /// Waits until the transaction has ended, or its speculative insertion is over.
    pub fn wait(self) {
        // SAFETY: both take any transaction id, and return at once for a transaction that has ended.
        unsafe {
            if self.token != 0 {
                pg_sys::SpeculativeInsertionWait(self.transaction, self.token);
            } else {
                let (no_table, no_row) = (std::ptr::null_mut(), std::ptr::null_mut());
                pg_sys::XactLockTableWait(self.transaction, no_table, no_row, pg_sys::XLTW_Oper::XLTW_None);
            }
        }
    }
}

/// Returns the transactions that have locked or changed a row together. `is_lock`: none has changed it.
pub(super) fn members(multixact: pg_sys::MultiXactId, is_lock: bool) -> Vec<pg_sys::TransactionId> {
    let mut members = std::ptr::null_mut();
    // SAFETY: the server returns the number of members that it has allocated, or none.
    unsafe {
        let number = pg_sys::GetMultiXactIdMembers(multixact, &mut members, false, is_lock);
        (0..number.max(0) as usize).map(|index| (*members.add(index)).xid).collect()
    }
}
