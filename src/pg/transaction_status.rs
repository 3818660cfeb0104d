//! How a transaction of any session has ended.

use pgrx::pg_sys;

/// Whether the transaction of a 64-bit id has committed; `None` while it is in progress or prepared. A transaction so old
/// that the server has forgotten how it ended counts as rolled back.
///
/// # Errors
/// Those of the server, for an id that is in the future.
pub fn has_committed(transaction: u64) -> Option<bool> {
    // SAFETY: the function takes a 64-bit transaction id by value, and returns a text or NULL.
    let status = unsafe {
        pgrx::direct_function_call::<String>(pg_sys::pg_xact_status, &[Some(pg_sys::Datum::from(transaction))])
    };
    match status.as_deref() {
        Some("in progress") => None,
        status => Some(status == Some("committed")),
    }
}
