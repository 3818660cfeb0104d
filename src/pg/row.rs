//! Functions with OUT parameters, which return one row. The type of the row is made once in a backend. A call does not read the
//! catalog for it, as it would for a `#[pg_extern]`.

use super::memory::Memory;
use pgrx::callconv::{Args, FcInfo};
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::CStr;
use std::thread::LocalKey;

/// Declares the C function `$symbol`. `$body` gets the [`Memory`] of the call and the named arguments, each an `Option`, and returns
/// a value for each column.
macro_rules! returning_row {
    ($symbol:ident => $body:ident($($argument:ident),*) -> $columns:expr) => {
        $crate::pg::c_function::c_function! {
            $symbol => |fcinfo: ::pgrx::pg_sys::FunctionCallInfo| {
                ::std::thread_local! {
                    static TYPE: $crate::pg::row::Known = const { ::std::cell::Cell::new(::std::ptr::null_mut()) };
                }
                // SAFETY: PostgreSQL calls the function, with the arguments that sql/schema/ declares.
                unsafe {
                    $crate::pg::row::call(fcinfo, &TYPE, &$columns, |memory, _arguments| {
                        $(let $argument = $crate::pg::srf::next(_arguments);)*
                        $body(memory, $($argument),*)
                    })
                }
            }
        }
    };
}
pub(crate) use returning_row;

/// A column's name and type.
pub type Column = (&'static CStr, pg_sys::Oid);
/// The type of a function's row; NULL until it has been made.
pub type Known = Cell<pg_sys::TupleDesc>;

/// Runs a function declared by [`returning_row`].
///
/// # Safety
/// `fcinfo` is what PostgreSQL has just called the function with, and `body` takes the arguments that it is declared with.
pub unsafe fn call<const COLUMNS: usize>(
    fcinfo: pg_sys::FunctionCallInfo,
    known: &'static LocalKey<Known>,
    columns: &[Column; COLUMNS],
    body: impl for<'fcx> FnOnce(Memory<'fcx>, &mut Args<'_, 'fcx>) -> [DatumWithOid<'fcx>; COLUMNS],
) -> pg_sys::Datum {
    // SAFETY: the caller's duty. The call has just begun. `body` must serve any lifetime, so it keeps nothing of the call.
    let (info, memory) = unsafe { (FcInfo::from_ptr(fcinfo), Memory::of_call()) };
    let row = body(memory, &mut info.args());
    if known.get().is_null() {
        known.set(row_type(columns));
    }
    let (mut values, mut nulls) = ([pg_sys::Datum::null(); COLUMNS], [true; COLUMNS]);
    for (index, value) in row.iter().enumerate() {
        assert!(value.oid() == columns[index].1, "column {index} of the row is of another type");
        if let Some(datum) = value.datum() {
            (values[index], nulls[index]) = (datum.sans_lifetime(), false);
        }
    }
    // SAFETY: there is a value for each column, of its type. The row is a copy of them in the call's memory, and its header names
    // the type, by which the server compares it with the function's declaration.
    memory.within(|| unsafe {
        let tuple = pg_sys::heap_form_tuple(known.get(), values.as_mut_ptr(), nulls.as_mut_ptr());
        pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data)
    })
}

/// Makes a row type, which lasts as long as the backend.
fn row_type(columns: &[Column]) -> pg_sys::TupleDesc {
    // SAFETY: the description has an entry for each column, whose name is NUL-terminated and copied. What an ERROR leaves in
    // TopMemoryContext is small.
    unsafe {
        let before = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        let description = pg_sys::CreateTemplateTupleDesc(columns.len() as i32);
        for (number, (name, type_oid)) in (1..).zip(columns) {
            pg_sys::TupleDescInitEntry(description, number, name.as_ptr(), *type_oid, -1, 0);
        }
        let description = pg_sys::BlessTupleDesc(description);
        pg_sys::MemoryContextSwitchTo(before);
        description
    }
}
