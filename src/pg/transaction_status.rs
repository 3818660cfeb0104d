//! How transactions of any session have ended.

use pgrx::pg_sys;

/// Whether a transaction has committed, by its 64-bit id, which has been assigned; `None` while it is in progress or
/// prepared. One so old that nobody knows any more counts as rolled back.
pub fn has_committed(transaction: u64) -> Option<bool> {
    // SAFETY: the function takes a 64-bit transaction id, which is passed by value, and returns a text or NULL.
    let status = unsafe {
        pgrx::direct_function_call::<String>(pg_sys::pg_xact_status, &[Some(pg_sys::Datum::from(transaction))])
    };
    match status.as_deref() {
        Some("in progress") => None,
        status => Some(status == Some("committed")),
    }
}
