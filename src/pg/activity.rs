//! pg_stat_activity.

use pgrx::pg_sys;
use std::ffi::{CStr, CString};

/// Shows what the process does; `None` = nothing.
pub fn report(what: Option<&str>) {
    let text = what.map(|what| CString::new(what).expect("no NUL byte"));
    // SAFETY: the text is copied by the call.
    unsafe {
        match text {
            Some(text) => pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, text.as_ptr()),
            None => pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, std::ptr::null()),
        }
    }
}

/// Shows a name of the process.
pub fn report_name(name: &CStr) {
    // SAFETY: the name is copied by the call.
    unsafe { pg_sys::pgstat_report_appname(name.as_ptr()) };
}

/// Forgets what this transaction has seen of other sessions, which else would stay what it was.
pub fn look_again() {
    // SAFETY: the server makes another copy when it is asked.
    unsafe { pg_sys::pgstat_clear_backend_activity_snapshot() };
}
