//! Settings changed for a while.

#![allow(unsafe_code)]

use pgrx::pg_sys;
use std::ffi::{CStr, CString};

/// Runs `f` with a setting changed, and sets it back. The value is the extension's own choice, so settings
/// that only a superuser may change can be changed, too.
pub fn with_setting<T>(name: &CStr, value: &str, f: impl FnOnce() -> T) -> T {
    let value = CString::new(value).expect("the value has no NUL byte");
    with_settings(&[(name, &value)], f)
}

/// The same for several settings.
pub fn with_settings<T>(settings: &[(&CStr, &CStr)], f: impl FnOnce() -> T) -> T {
    // SAFETY: what the SET clause of a function does; if `f` raises, the end of the transaction or
    // subtransaction sets the values back.
    unsafe {
        let level = pg_sys::NewGUCNestLevel();
        for (name, value) in settings {
            pg_sys::set_config_option(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_SUSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                0,
                false,
            );
        }
        let result = f();
        pg_sys::AtEOXact_GUC(true, level);
        result
    }
}
