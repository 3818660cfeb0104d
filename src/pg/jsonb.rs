//! jsonb passed through as PostgreSQL holds it. Parsing it into a tree and back costs a lookup a third
//! of its time, and the cache never needs to look inside.

#![allow(unsafe_code)]

use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::datum::{Datum, FromDatum, IntoDatum};
use pgrx::nullable::Nullable;
use pgrx::pg_sys;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};

/// A jsonb value that stays where it is: a pointer into memory that lives as long as the function call.
#[derive(Clone, Copy)]
pub struct RawJsonb(pg_sys::Datum);

impl RawJsonb {
    /// Size in bytes before compression.
    pub fn size(self) -> usize {
        // SAFETY: the datum is a varlena; the function reads its header, or its TOAST pointer's.
        unsafe { pg_sys::toast_raw_datum_size(self.0) - pg_sys::VARHDRSZ }
    }

    /// The value as JSON text.
    pub fn to_text(self) -> String {
        // SAFETY: the datum is a jsonb varlena; jsonb_out returns a palloc'd, NUL-terminated string.
        unsafe {
            let text = pgrx::direct_function_call::<&core::ffi::CStr>(pg_sys::jsonb_out, &[Some(self.0)])
                .expect("jsonb_out never returns NULL");
            text.to_string_lossy().into_owned()
        }
    }

    /// A copy in the given memory context; out-of-line data are fetched, compressed data stay so.
    ///
    /// # Safety
    /// `context` must be a live memory context.
    pub unsafe fn copied_into(self, context: pg_sys::MemoryContext) -> Self {
        // SAFETY: the datum is a varlena, the context is live (the caller's duty), and the old context
        // is restored. If the fetch raises, PostgreSQL resets CurrentMemoryContext itself.
        unsafe {
            let old = pg_sys::MemoryContextSwitchTo(context);
            let source: *mut pg_sys::varlena = self.0.cast_mut_ptr();
            let fetched = pg_sys::detoast_external_attr(source);
            let copy = if fetched == source {
                let size = pgrx::varsize_any(source);
                let copy = pg_sys::palloc(size);
                std::ptr::copy_nonoverlapping(source.cast::<u8>(), copy.cast::<u8>(), size);
                copy.cast()
            } else {
                fetched
            };
            pg_sys::MemoryContextSwitchTo(old);
            Self(pg_sys::Datum::from(copy))
        }
    }
}

impl FromDatum for RawJsonb {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, _type: pg_sys::Oid) -> Option<Self> {
        (!is_null).then_some(Self(datum))
    }
}

impl IntoDatum for RawJsonb {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        Some(self.0)
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::JSONBOID
    }
}

// SAFETY: the SQL type is jsonb, both ways.
unsafe impl SqlTranslatable for RawJsonb {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(RawJsonb);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("jsonb"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Ok(ReturnsRef::One(SqlMappingRef::literal("jsonb")));
}

// SAFETY: an argument of type jsonb is passed as a varlena datum that outlives the call.
unsafe impl<'fcx> ArgAbi<'fcx> for RawJsonb {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: as above; the wrapper calls this for arguments that are not NULL only.
        unsafe { arg.unbox_arg_using_from_datum() }.expect("the argument is not NULL")
    }

    unsafe fn unbox_nullable_arg(arg: Arg<'_, 'fcx>) -> Nullable<Self> {
        // SAFETY: as above.
        unsafe { arg.unbox_arg_using_from_datum().into() }
    }
}

// SAFETY: the datum is a jsonb varlena in memory of the calling context.
unsafe impl BoxRet for RawJsonb {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        // SAFETY: as above.
        unsafe { fcinfo.return_raw_datum(self.0) }
    }
}
