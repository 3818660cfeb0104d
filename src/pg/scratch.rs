//! Memory for a process that runs no statements, at whose end the server would free it.

use pgrx::pg_sys;
use std::ffi::CStr;

/// A memory context for what a round of work allocates. No wrapper of [`crate::pg`] hands out memory of the server's beyond a
/// call, so nothing points into the context when the next round begins.
pub struct Scratch(pg_sys::MemoryContext);

impl Scratch {
    pub fn new(name: &'static CStr) -> Self {
        // SAFETY: the context lives as long as the process, and so does its name.
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

    /// Frees what earlier rounds have allocated, and makes this the current context.
    pub fn begin_round(&mut self) {
        // SAFETY: the context is this value's own, and is never deleted.
        unsafe {
            pg_sys::MemoryContextSwitchTo(self.0);
            pg_sys::MemoryContextReset(self.0);
        }
    }
}
