//! Memory for a process that never ends a statement.

use pgrx::pg_sys;
use std::ffi::CStr;

/// A memory context for what a round of work allocates. No wrapper of [`crate::pg`] hands out memory of the server's that is
/// to last longer than a call, so that nothing points into it when the next round begins.
pub struct Scratch(pg_sys::MemoryContext);

impl Scratch {
    pub fn new(name: &'static CStr) -> Self {
        // SAFETY: the context lives as long as the process, as its name does.
        Self(unsafe {
            pg_sys::AllocSetContextCreateExtended(
                pg_sys::TopMemoryContext,
                name.as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            )
        })
    }

    /// Frees what earlier rounds have allocated, and allocates here from now on.
    pub fn begin_round(&mut self) {
        // SAFETY: the context is this value's own, and live.
        unsafe {
            pg_sys::MemoryContextSwitchTo(self.0);
            pg_sys::MemoryContextReset(self.0);
        }
    }
}
