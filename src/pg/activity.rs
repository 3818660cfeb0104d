//! pg_stat_activity: what this process shows there, and a fresh look at other sessions.

use pgrx::pg_sys;
use std::ffi::{CStr, CString};

/// Shows what the process does; `None` shows it idle.
pub fn report(what: Option<&str>) {
    let text = what.map(|what| CString::new(what).expect("no NUL byte"));
    // SAFETY: the text is NUL-terminated, and copied by the call.
    unsafe {
        match text {
            Some(text) => pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, text.as_ptr()),
            None => pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, std::ptr::null()),
        }
    }
}

/// Shows a name of the process.
pub fn report_name(name: &CStr) {
    // SAFETY: the name is NUL-terminated, and copied by the call.
    unsafe { pg_sys::pgstat_report_appname(name.as_ptr()) };
}

/// Drops this transaction's copy of the state of other sessions, which would stay the same until the transaction ends.
pub fn look_again() {
    // SAFETY: the server makes a new copy at the next look.
    unsafe { pg_sys::pgstat_clear_backend_activity_snapshot() };
}
