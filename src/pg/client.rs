//! The client of the session.

use pgrx::pg_sys;

/// Returns the client's address as text; `None` when it is connected through a Unix socket.
pub fn address() -> Option<String> {
    // SAFETY: the function takes no arguments, and returns an inet or NULL.
    let address = unsafe { pgrx::direct_function_call::<pgrx::Inet>(pg_sys::inet_client_addr, &[]) };
    address.map(|address| address.0)
}
