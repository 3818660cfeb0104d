//! The memory context of a call, as a value with the call's lifetime.

use pgrx::callconv::{Arg, ArgAbi};
use pgrx::pg_sys;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use std::marker::PhantomData;

/// The memory context in which a function returns its result. A `#[pg_extern]` gets it as an argument of this type.
#[derive(Clone, Copy)]
pub struct Memory<'fcx>(pg_sys::MemoryContext, PhantomData<&'fcx ()>);

impl<'fcx> Memory<'fcx> {
    /// Returns the memory of the call that has just begun.
    ///
    /// # Safety
    /// SQL calls a function, and the call lives for `'fcx`.
    pub(super) unsafe fn of_call() -> Self {
        // SAFETY: a plain variable. A function is called with the context of its result as the current one.
        Self(unsafe { pg_sys::CurrentMemoryContext }, PhantomData)
    }

    /// Runs `f` with this as the current memory context.
    #[inline]
    pub(super) fn within<T>(self, f: impl FnOnce() -> T) -> T {
        // SAFETY: the context lives as long as the call. If `f` raises, the handler of the error switches to its own.
        unsafe {
            let before = pg_sys::MemoryContextSwitchTo(self.0);
            let result = f();
            pg_sys::MemoryContextSwitchTo(before);
            result
        }
    }
}

// SAFETY: it stands for no argument of the SQL function, and its lifetime is that of the call.
unsafe impl<'fcx> ArgAbi<'fcx> for Memory<'fcx> {
    unsafe fn unbox_arg_unchecked(_: Arg<'_, 'fcx>) -> Self {
        // SAFETY: as above.
        unsafe { Self::of_call() }
    }

    fn is_virtual_arg() -> bool {
        true
    }
}

// SAFETY: it is left out of the SQL declaration.
unsafe impl SqlTranslatable for Memory<'_> {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(Memory);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::Skip);
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Ok(ReturnsRef::One(SqlMappingRef::Skip));
}
