//! Settings: read by name, changed for a while, and defined with a check of their values.

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use pgrx::pg_sys;
use pgrx::pg_sys::panic::pgrx_extern_c_guard;
use std::ffi::{CStr, CString, c_char, c_void};

/// Returns the value of a setting, also of one that no library has defined; `None` when it was never set.
pub fn value_of(name: &CStr) -> Option<Vec<u8>> {
    let mut value = Vec::new();
    read_into(name, &mut value).then_some(value)
}

/// Replaces `value` by the value of a setting, and uses its memory again. Returns whether the setting was ever set; if not,
/// `value` is empty.
pub fn read_into(name: &CStr, value: &mut Vec<u8>) -> bool {
    value.clear();
    // SAFETY: name and value are NUL-terminated. The value is copied, because the server frees it at the next SET.
    unsafe {
        let found = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        if !found.is_null() {
            value.extend_from_slice(CStr::from_ptr(found).to_bytes());
        }
        !found.is_null()
    }
}

/// Runs `f` with a setting changed, and sets it back. The setting may be one that only a superuser may change, because the
/// value is the extension's own choice.
pub fn with_setting<T>(name: &CStr, value: &str, f: impl FnOnce() -> T) -> T {
    let value = CString::new(value).expect("the value has no NUL byte");
    with_settings(&[(name, &value)], f)
}

/// Runs `f` with several settings changed, as [`with_setting`] does.
pub fn with_settings<T>(settings: &[(&CStr, &CStr)], f: impl FnOnce() -> T) -> T {
    // SAFETY: the calls are those of a function with a SET clause. If `f` raises, the end of the transaction or subtransaction
    // sets the values back.
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

/// Changes a setting of this process until it ends: also RESET ALL sets this value.
///
/// # Errors
/// Those of the server, for a name or a value that it does not know.
pub fn set_default(name: &CStr, value: &CStr) {
    // SAFETY: both are NUL-terminated, and copied by the call.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_OVERRIDE,
        );
    }
}

/// The check of a setting's values.
pub trait Check {
    /// Returns why a value is refused, for the DETAIL of the error.
    fn refusal(value: &CStr) -> Option<String>;
}

/// Defines a setting of text whose values are checked.
pub fn define_checked_string<C: Check>(
    name: &'static CStr,
    description: &'static CStr,
    details: &'static CStr,
    setting: &'static GucSetting<Option<CString>>,
    context: GucContext,
) {
    let flags = GucFlags::default();
    // SAFETY: the hook turns a panic into an ERROR, and the texts and the setting live as long as the library.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            name,
            description,
            details,
            setting,
            context,
            flags,
            Some(check::<C>),
            None,
            None,
        );
    }
}

unsafe extern "C-unwind" fn check<C: Check>(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: the guard turns a panic into an ERROR. The value is a NUL-terminated string, or NULL. The detail lies in the
    // current memory context, and the server reads it right after the call.
    unsafe {
        pgrx_extern_c_guard(|| {
            let refusal = if (*value).is_null() { None } else { C::refusal(CStr::from_ptr(*value)) };
            let Some(refusal) = refusal else { return true };
            let detail = CString::new(refusal).expect("what is made of values has no NUL byte");
            pg_sys::GUC_check_errdetail_string = pg_sys::pstrdup(detail.as_ptr());
            false
        })
    }
}
