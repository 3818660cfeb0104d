//! jsonb passed through as PostgreSQL stores it, because parsing and printing it costs a lookup a third of its time, and the
//! cache never looks inside.

use super::memory::Memory;
use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::datum::{Datum, FromDatum, IntoDatum};
use pgrx::nullable::Nullable;
use pgrx::pg_sys;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use std::marker::PhantomData;

/// A jsonb value where it lies: an argument of a call, or in the call's memory. There is no FromDatum for it, because that
/// would allow any lifetime, and the values that a statement returns are freed with its SPI connection.
#[derive(Clone, Copy)]
pub struct RawJsonb<'a>(pg_sys::Datum, PhantomData<&'a ()>);

impl<'a> RawJsonb<'a> {
    /// Returns the size in bytes before compression.
    pub fn size(self) -> usize {
        // SAFETY: the datum is a varlena. The function reads the size from its header or its TOAST pointer.
        unsafe { pg_sys::toast_raw_datum_size(self.0) - pg_sys::VARHDRSZ }
    }

    /// Whether the value is an object or an array without elements: nothing but the header of its container.
    pub fn is_empty(self) -> bool {
        self.size() == size_of::<pg_sys::JsonbContainer>()
    }

    /// Returns the value as JSON text.
    pub fn to_text(self) -> String {
        // SAFETY: the datum is a jsonb varlena; jsonb_out returns a palloc'd, NUL-terminated string.
        unsafe {
            let text = pgrx::direct_function_call::<&core::ffi::CStr>(pg_sys::jsonb_out, &[Some(self.0)])
                .expect("jsonb_out never returns NULL");
            text.to_string_lossy().into_owned()
        }
    }

    /// Copies a jsonb. Data out of line are fetched, and compressed data stay compressed.
    ///
    /// # Safety
    /// The datum is a jsonb.
    #[inline]
    pub(super) unsafe fn copy(datum: pg_sys::Datum, memory: Memory<'a>) -> Self {
        // SAFETY: the caller's duty; a varlena has as many bytes as its header says.
        let copy = memory.within(|| unsafe {
            let source: *mut pg_sys::varlena = datum.cast_mut_ptr();
            let fetched = pg_sys::detoast_external_attr(source);
            if fetched != source {
                return fetched;
            }
            let size = pgrx::varsize_any(source);
            let copy = pg_sys::palloc(size);
            std::ptr::copy_nonoverlapping(source.cast::<u8>(), copy.cast::<u8>(), size);
            copy.cast()
        });
        Self(pg_sys::Datum::from(copy), PhantomData)
    }
}

/// The datum of an argument, to which [`ArgAbi`] gives the call's lifetime.
struct Unowned(pg_sys::Datum);

impl FromDatum for Unowned {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, _type: pg_sys::Oid) -> Option<Self> {
        (!is_null).then_some(Self(datum))
    }
}

impl IntoDatum for RawJsonb<'_> {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        Some(self.0)
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::JSONBOID
    }
}

// SAFETY: the SQL type is jsonb, as an argument and as a result.
unsafe impl SqlTranslatable for RawJsonb<'_> {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(RawJsonb);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("jsonb"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Ok(ReturnsRef::One(SqlMappingRef::literal("jsonb")));
}

// SAFETY: an argument of type jsonb is a varlena datum, which lives as long as the call.
unsafe impl<'fcx> ArgAbi<'fcx> for RawJsonb<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: as above. pgrx calls this only for arguments that are not NULL.
        let value: Option<Unowned> = unsafe { arg.unbox_arg_using_from_datum() };
        Self(value.expect("the argument is not NULL").0, PhantomData)
    }

    unsafe fn unbox_nullable_arg(arg: Arg<'_, 'fcx>) -> Nullable<Self> {
        // SAFETY: as above.
        let value: Option<Unowned> = unsafe { arg.unbox_arg_using_from_datum() };
        value.map(|value| Self(value.0, PhantomData)).into()
    }
}

// SAFETY: the datum is a jsonb varlena that lives as long as the call.
unsafe impl BoxRet for RawJsonb<'_> {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        // SAFETY: as above.
        unsafe { fcinfo.return_raw_datum(self.0) }
    }
}
