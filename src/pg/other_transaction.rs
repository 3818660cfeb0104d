//! Transactions of other processes.

use pgrx::pg_sys;

/// Another transaction in progress.
#[derive(Clone, Copy)]
pub struct Other {
    transaction: pg_sys::TransactionId,
    /// Of an insertion that is not yet sure of its row, and may take it back before the transaction ends; else 0.
    token: u32,
}

impl Other {
    pub(super) fn new(transaction: pg_sys::TransactionId, token: u32) -> Option<Self> {
        (transaction != pg_sys::InvalidTransactionId).then_some(Self { transaction, token })
    }

    /// Waits until it has ended, or has taken back what it was not sure of.
    pub fn wait(self) {
        // SAFETY: the transaction was in progress a moment ago; that it has ended since does no harm.
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

/// The transactions that have locked or changed a row together; `is_lock` says that none has changed it.
pub(super) fn members(multixact: pg_sys::MultiXactId, is_lock: bool) -> Vec<pg_sys::TransactionId> {
    let mut members = std::ptr::null_mut();
    // SAFETY: the server allocates so many members, or none.
    unsafe {
        let number = pg_sys::GetMultiXactIdMembers(multixact, &mut members, false, is_lock);
        (0..number.max(0) as usize).map(|index| (*members.add(index)).xid).collect()
    }
}
