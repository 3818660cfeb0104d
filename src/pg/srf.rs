//! Functions whose rows are the rows of a statement: the statement's tuples go to the result as they
//! are, without a detour through Rust types.

#![allow(unsafe_code)]

use super::spi::Rows;
use crate::error::another_type;
use pgrx::pg_sys;

/// Declares the C function `$symbol`, with the record that PostgreSQL wants beside it. `$body` gets the
/// call's arguments and ends with [`materialize`] or [`nothing`].
macro_rules! set_returning {
    ($symbol:ident, $record:ident, $body:path) => {
        // SAFETY: the name is this extension's own, and the record says how the function is called.
        #[unsafe(no_mangle)]
        pub extern "C" fn $record() -> &'static ::pgrx::pg_sys::Pg_finfo_record {
            const RECORD: ::pgrx::pg_sys::Pg_finfo_record = ::pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
            &RECORD
        }

        /// # Safety
        /// Called by PostgreSQL, for a function declared as those under sql/schema/ are.
        // SAFETY: the name is this extension's own.
        #[unsafe(no_mangle)]
        #[::pgrx::pg_guard]
        pub unsafe extern "C-unwind" fn $symbol(fcinfo: ::pgrx::pg_sys::FunctionCallInfo) -> ::pgrx::pg_sys::Datum {
            $body(fcinfo);
            // SAFETY: the call's data are PostgreSQL's, valid throughout the call. The rows are in the
            // result set; the value itself is NULL.
            unsafe { (*fcinfo).isnull = true };
            ::pgrx::pg_sys::Datum::null()
        }
    };
}
pub(crate) use set_returning;

/// Has `run` run a statement, and makes the rows that it hands over the result of the function. The
/// statement may have further columns, for `run` itself.
pub fn materialize(fcinfo: pg_sys::FunctionCallInfo, run: impl FnOnce(&dyn Fn(&Rows))) {
    let (store, description) = result_set(fcinfo);
    run(&|rows| put(rows, store, description, None));
}

/// The same with a column (the first is 1) whose value in each row `value` gives. A function that was declared by
/// an older version may lack it.
pub fn materialize_with(
    fcinfo: pg_sys::FunctionCallInfo,
    column: i32,
    value: impl Fn(&Rows, u64) -> Option<pg_sys::Datum>,
    run: impl FnOnce(&dyn Fn(&Rows)),
) {
    let (store, description) = result_set(fcinfo);
    // SAFETY: the description is that of the function's result.
    let replaced = (unsafe { (*description).natts } >= column).then_some((column, &value as &Value));
    run(&|rows| put(rows, store, description, replaced));
}

/// What gives a column's value in a row of a statement, `None` for NULL.
type Value<'a> = dyn Fn(&Rows, u64) -> Option<pg_sys::Datum> + 'a;

fn put(
    rows: &Rows,
    store: *mut pg_sys::Tuplestorestate,
    description: pg_sys::TupleDesc,
    replaced: Option<(i32, &Value)>,
) {
    // SAFETY: the tuple table belongs to the open SPI connection; its tuples have the columns of the
    // result, which is checked first.
    unsafe {
        let table = rows.raw();
        check_columns((*table).tupdesc, description);
        let columns = (*(*table).tupdesc).natts as usize;
        let (mut values, mut nulls) = (vec![pg_sys::Datum::null(); columns], vec![false; columns]);
        for row in 0..rows.count() {
            let tuple = *(*table).vals.add(row as usize);
            if columns == (*description).natts as usize && replaced.is_none() {
                pg_sys::tuplestore_puttuple(store, tuple);
                continue;
            }
            pg_sys::heap_deform_tuple(tuple, (*table).tupdesc, values.as_mut_ptr(), nulls.as_mut_ptr());
            if let Some((column, value)) = replaced {
                let (value, place) = (value(rows, row), column as usize - 1);
                nulls[place] = value.is_none();
                values[place] = value.unwrap_or(pg_sys::Datum::null());
            }
            pg_sys::tuplestore_putvalues(store, description, values.as_mut_ptr(), nulls.as_mut_ptr());
        }
    }
}

/// Makes rows of values the result of the function, `None` for NULL; `rows` hands over each by calling what it
/// gets. A function that was declared by an older version may lack the last columns.
pub fn materialize_values<const COLUMNS: usize>(
    fcinfo: pg_sys::FunctionCallInfo,
    rows: impl FnOnce(&mut dyn FnMut([Option<pg_sys::Datum>; COLUMNS])),
) {
    let (store, description) = result_set(fcinfo);
    // SAFETY: the description is that of the function's result, which has no more columns than each row has
    // values.
    unsafe {
        assert!((*description).natts as usize <= COLUMNS, "the function returns {COLUMNS} columns at most");
        rows(&mut |values| {
            let mut nulls = values.map(|value| value.is_none());
            let mut values = values.map(|value| value.unwrap_or(pg_sys::Datum::null()));
            pg_sys::tuplestore_putvalues(store, description, values.as_mut_ptr(), nulls.as_mut_ptr());
        });
    }
}

/// Makes the result of the function empty.
pub fn nothing(fcinfo: pg_sys::FunctionCallInfo) {
    result_set(fcinfo);
}

fn result_set(fcinfo: pg_sys::FunctionCallInfo) -> (*mut pg_sys::Tuplestorestate, pg_sys::TupleDesc) {
    // SAFETY: a set-returning function called from FROM, as a view does, gets a ReturnSetInfo that
    // allows a materialized result. Store and description live in the query's memory.
    unsafe {
        let info = (*fcinfo).resultinfo.cast::<pg_sys::ReturnSetInfo>();
        let materialize = pg_sys::SetFunctionReturnMode::SFRM_Materialize;
        assert!(
            !info.is_null() && (*info).allowedModes as u32 & materialize != 0,
            "the function must be called in FROM"
        );
        let context = pg_sys::MemoryContextSwitchTo((*(*info).econtext).ecxt_per_query_memory);
        let mut description: pg_sys::TupleDesc = std::ptr::null_mut();
        let class = pg_sys::get_call_result_type(fcinfo, std::ptr::null_mut(), &mut description);
        assert!(class == pg_sys::TypeFuncClass::TYPEFUNC_COMPOSITE, "the function returns rows");
        let store = pg_sys::tuplestore_begin_heap(true, false, pg_sys::work_mem);
        (*info).returnMode = materialize;
        (*info).setResult = store;
        (*info).setDesc = description;
        pg_sys::MemoryContextSwitchTo(context);
        (store, description)
    }
}

/// # Safety
/// Both must be valid descriptions of rows.
unsafe fn check_columns(actual: pg_sys::TupleDesc, expected: pg_sys::TupleDesc) {
    // SAFETY: the caller's duty; columns are numbered from 1.
    unsafe {
        let columns = (*expected).natts;
        assert!((*actual).natts >= columns, "the statement has {} columns, the function {columns}", (*actual).natts);
        for column in 1..=columns {
            let (has, wants) = (pg_sys::SPI_gettypeid(actual, column), pg_sys::SPI_gettypeid(expected, column));
            if has != wants {
                another_type(column, has, wants);
            }
        }
    }
}
