//! Set-returning functions that fill a tuplestore. The tuples of a statement go there as they are, while a `#[pg_extern]`
//! returns its rows one by one, made of Rust values. That is why some functions have a C symbol of their own, and others the one
//! that pgrx gives a `#[pg_extern]`: its Rust name with `_wrapper`. Released SQL names both, so neither may change.

use super::memory::Memory;
use super::spi::Rows;
use super::types;
use pgrx::callconv::{ArgAbi, Args, FcInfo};
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;

/// Declares the C function `$symbol` with the record that PostgreSQL wants beside it. `$body` gets the [`Call`] and the
/// arguments that are named, each an `Option`: as for a `#[pg_extern]`, their Rust types must be those of the SQL declaration.
macro_rules! set_returning {
    ($symbol:ident => $body:ident($($argument:ident),*)) => {
        #[allow(unsafe_code)]
        const _: () = {
            // SAFETY: the name is this extension's own, and the record says how the function is called.
            #[unsafe(export_name = concat!("pg_finfo_", stringify!($symbol)))]
            extern "C" fn record() -> &'static ::pgrx::pg_sys::Pg_finfo_record {
                const RECORD: ::pgrx::pg_sys::Pg_finfo_record = ::pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
                &RECORD
            }

            // SAFETY: the name is this extension's own.
            #[unsafe(no_mangle)]
            #[::pgrx::pg_guard]
            unsafe extern "C-unwind" fn $symbol(fcinfo: ::pgrx::pg_sys::FunctionCallInfo) -> ::pgrx::pg_sys::Datum {
                // SAFETY: PostgreSQL calls it, with arguments as they are declared under sql/schema/.
                unsafe {
                    $crate::pg::srf::call(fcinfo, |call, _arguments| {
                        $(let $argument = $crate::pg::srf::next(_arguments);)*
                        $body(call, $($argument),*)
                    })
                }
            }
        };
    };
}
pub(crate) use set_returning;

/// A call of a set-returning function, which ends with its result.
pub struct Call<'fcx> {
    info: FcInfo<'fcx>,
}

/// What a call ends with: the set of rows has been stored.
#[must_use = "a call ends with it"]
pub struct Stored(());

/// Runs a function declared by [`set_returning`].
///
/// # Safety
/// `fcinfo` is what PostgreSQL gave the function, and `body` takes the arguments that it is declared with.
pub unsafe fn call<'fcx>(
    fcinfo: pg_sys::FunctionCallInfo,
    body: impl FnOnce(Call<'fcx>, &mut Args<'_, 'fcx>) -> Stored,
) -> pg_sys::Datum {
    // SAFETY: the caller's duty. The rows are in the result set; the value itself is NULL.
    let mut info = unsafe { FcInfo::from_ptr(fcinfo) };
    let Stored(()) = body(Call { info: info.clone() }, &mut info.args());
    info.return_null().sans_lifetime()
}

/// The next argument; `None` for NULL.
///
/// # Safety
/// The argument is declared with the type that T stands for.
pub unsafe fn next<'fcx, T: ArgAbi<'fcx>>(arguments: &mut Args<'_, 'fcx>) -> Option<T> {
    // SAFETY: the caller's duty; an Option takes NULL, too. A function that an older version declares may lack the argument.
    unsafe { arguments.next_arg_unchecked::<Option<T>>().flatten() }
}

impl<'fcx> Call<'fcx> {
    /// The memory that lives as long as the call.
    pub fn memory(&self) -> Memory<'fcx> {
        // SAFETY: the call lives as long.
        unsafe { Memory::of_call() }
    }

    /// The SQL function that is called.
    pub fn function(&self) -> pg_sys::Oid {
        // SAFETY: a function called by PostgreSQL has its lookup record.
        unsafe { (*(*self.info.as_mut_ptr()).flinfo).fn_oid }
    }

    /// Whether the SQL function has arguments.
    pub fn has_arguments(&self) -> bool {
        self.info.args().next().is_some()
    }

    /// Ends with no rows.
    pub fn nothing(self) -> Stored {
        ResultSet::begin(&self);
        Stored(())
    }

    /// Ends with the rows of a statement, which `run` runs and hands over. The statement may have further columns, for `run`
    /// itself.
    pub fn rows(self, run: impl FnOnce(&dyn Fn(&Rows))) -> Stored {
        let set = ResultSet::begin(&self);
        run(&|rows| set.put(rows, None));
        Stored(())
    }

    /// The same with a column (the first is 1) whose value in each row `value` gives. A function that an older version
    /// declares may lack it.
    pub fn rows_with(
        self,
        column: i32,
        value: impl Fn(&Rows, u64) -> DatumWithOid<'static>,
        run: impl FnOnce(&dyn Fn(&Rows)),
    ) -> Stored {
        let set = ResultSet::begin(&self);
        run(&|rows| set.put(rows, Some((column, &value))));
        Stored(())
    }

    /// Ends with rows of values; `rows` hands over each by calling what it gets. A function that an older version declares
    /// may lack the last columns.
    pub fn values<const COLUMNS: usize>(self, rows: impl FnOnce(&mut dyn FnMut([DatumWithOid; COLUMNS]))) -> Stored {
        let set = ResultSet::begin(&self);
        assert!(set.columns() <= COLUMNS, "the function returns {COLUMNS} columns at most");
        rows(&mut |values| set.put_values(&values));
        Stored(())
    }
}

/// What gives a column's value in a row of a statement.
type Value<'a> = dyn Fn(&Rows, u64) -> DatumWithOid<'static> + 'a;

/// The result of a call: the store of its rows, and their description. Both lie in the query's memory.
struct ResultSet {
    store: *mut pg_sys::Tuplestorestate,
    description: pg_sys::TupleDesc,
}

impl ResultSet {
    fn begin(call: &Call) -> Self {
        // SAFETY: a set-returning function called from FROM, as a view does, gets a ReturnSetInfo that
        // allows a materialized result. Store and description live in the query's memory.
        unsafe {
            let fcinfo = call.info.as_mut_ptr();
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
            Self { store, description }
        }
    }

    fn columns(&self) -> usize {
        // SAFETY: the description is that of the result.
        unsafe { (*self.description).natts as usize }
    }

    /// Stores the rows of a statement. The column that `replaced` names, if the result has it, gets the value beside it.
    fn put(&self, rows: &Rows, replaced: Option<(i32, &Value)>) {
        let replaced = replaced.filter(|(column, _)| *column as usize <= self.columns());
        // SAFETY: the tuple table belongs to the open SPI connection; its tuples have the columns of the
        // result, which is checked first.
        unsafe {
            let table = rows.raw();
            self.check_columns((*table).tupdesc);
            let columns = (*(*table).tupdesc).natts as usize;
            let (mut values, mut nulls) = (vec![pg_sys::Datum::null(); columns], vec![false; columns]);
            for row in 0..rows.count() {
                let tuple = *(*table).vals.add(row as usize);
                if columns == self.columns() && replaced.is_none() {
                    pg_sys::tuplestore_puttuple(self.store, tuple);
                    continue;
                }
                pg_sys::heap_deform_tuple(tuple, (*table).tupdesc, values.as_mut_ptr(), nulls.as_mut_ptr());
                if let Some((column, value)) = replaced {
                    let place = column as usize - 1;
                    (values[place], nulls[place]) = self.checked(column, &value(rows, row));
                }
                pg_sys::tuplestore_putvalues(self.store, self.description, values.as_mut_ptr(), nulls.as_mut_ptr());
            }
        }
    }

    fn put_values<const COLUMNS: usize>(&self, row: &[DatumWithOid; COLUMNS]) {
        let (mut values, mut nulls) = ([pg_sys::Datum::null(); COLUMNS], [false; COLUMNS]);
        for (place, value) in row.iter().enumerate().take(self.columns()) {
            (values[place], nulls[place]) = self.checked(place as i32 + 1, value);
        }
        // SAFETY: the store copies a value of its type for each column of the description.
        unsafe { pg_sys::tuplestore_putvalues(self.store, self.description, values.as_mut_ptr(), nulls.as_mut_ptr()) };
    }

    /// A value of a column, and whether it is NULL.
    fn checked(&self, column: i32, value: &DatumWithOid) -> (pg_sys::Datum, bool) {
        self.check_type(column, value.oid());
        let datum = value.datum().map(pgrx::datum::Datum::sans_lifetime);
        (datum.unwrap_or(pg_sys::Datum::null()), datum.is_none())
    }

    /// Checks that the columns of a statement are those of the result.
    fn check_columns(&self, actual: pg_sys::TupleDesc) {
        let columns = self.columns();
        // SAFETY: a valid description of rows, whose columns are numbered from 1.
        unsafe {
            assert!(
                (*actual).natts as usize >= columns,
                "the statement has {} columns, the function {columns}",
                (*actual).natts
            );
            for column in 1..=columns as i32 {
                self.check_type(column, pg_sys::SPI_gettypeid(actual, column));
            }
        }
    }

    fn check_type(&self, column: i32, has: pg_sys::Oid) {
        // SAFETY: the description is that of the result, and has this column.
        let wants = unsafe { pg_sys::SPI_gettypeid(self.description, column) };
        if has != wants {
            types::refuse(column, has, wants);
        }
    }
}
