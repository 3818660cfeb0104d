//! Memory contexts.

use pgrx::callconv::{Arg, ArgAbi};
use pgrx::pg_sys;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use std::marker::PhantomData;

/// The memory that a call of a function returns its result in. A `#[pg_extern]` gets it by naming it among its arguments.
#[derive(Clone, Copy)]
pub struct Memory<'fcx>(pg_sys::MemoryContext, PhantomData<&'fcx ()>);

impl<'fcx> Memory<'fcx> {
    /// # Safety
    /// A function is called, whose call lives for `'fcx`.
    pub(super) unsafe fn of_call() -> Self {
        // SAFETY: reads a variable. A function is called with the context of its result as the current one.
        Self(unsafe { pg_sys::CurrentMemoryContext }, PhantomData)
    }

    /// Runs `f` with this as the current memory context.
    #[inline]
    pub(super) fn within<T>(self, f: impl FnOnce() -> T) -> T {
        // SAFETY: the context lives as long as the call. Should `f` raise, the handler of the error sets its own.
        unsafe {
            let before = pg_sys::MemoryContextSwitchTo(self.0);
            let result = f();
            pg_sys::MemoryContextSwitchTo(before);
            result
        }
    }
}

// SAFETY: it takes no argument of the SQL function, and lives as long as the call.
unsafe impl<'fcx> ArgAbi<'fcx> for Memory<'fcx> {
    unsafe fn unbox_arg_unchecked(_: Arg<'_, 'fcx>) -> Self {
        // SAFETY: as above.
        unsafe { Self::of_call() }
    }

    fn is_virtual_arg() -> bool {
        true
    }
}

// SAFETY: it does not stand in the SQL declaration.
unsafe impl SqlTranslatable for Memory<'_> {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(Memory);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::Skip);
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Ok(ReturnsRef::One(SqlMappingRef::Skip));
}
