//! Every difference between the versions of PostgreSQL.

#![allow(unsafe_code)]

#[cfg(not(feature = "pg14"))]
use pgrx::pg_sys;
#[cfg(not(feature = "pg14"))]
use pgrx::prelude::*;

/// Has `request` called when shared memory may be requested: since PostgreSQL 15 in a hook, before that at
/// once. Called while the server preloads the library.
#[cfg(feature = "pg14")]
pub fn on_shared_memory_request(request: fn()) {
    request();
}

/// Has `request` called when shared memory may be requested: since PostgreSQL 15 in a hook, before that at
/// once. Called while the server preloads the library.
#[cfg(not(feature = "pg14"))]
pub fn on_shared_memory_request(request: fn()) {
    static mut EARLIER: pg_sys::shmem_request_hook_type = None;
    static mut REQUEST: Option<fn()> = None;

    #[pg_guard]
    unsafe extern "C-unwind" fn hook() {
        // SAFETY: the postmaster has one thread; both are set before the hook is.
        unsafe {
            if let Some(earlier) = EARLIER {
                earlier();
            }
            if let Some(request) = REQUEST {
                request();
            }
        }
    }

    // SAFETY: the postmaster, which has one thread, loads the library once.
    unsafe {
        REQUEST = Some(request);
        EARLIER = pg_sys::shmem_request_hook;
        pg_sys::shmem_request_hook = Some(hook);
    }
}
