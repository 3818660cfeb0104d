//! Set-returning functions that fill a tuplestore: the tuples of a statement go there as they are, whereas a `#[pg_extern]`
//! makes each row of Rust values. Such a function has a C symbol of its own. A `#[pg_extern]` has the symbol that pgrx gives
//! it, its Rust name with `_wrapper`. Released SQL names both, so neither may change.

use super::memory::Memory;
use super::spi::Rows;
use super::{types, version};
use pgrx::callconv::{ArgAbi, Args, FcInfo};
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;

/// Declares the C function `$symbol`. `$body` gets the [`Call`] and the named arguments, each an `Option`. As for a `#[pg_extern]`,
/// their Rust types must be those of the SQL declaration.
macro_rules! set_returning {
    ($symbol:ident => $body:ident($($argument:ident),*)) => {
        $crate::pg::c_function::c_function! {
            $symbol => |fcinfo: ::pgrx::pg_sys::FunctionCallInfo| {
                // SAFETY: PostgreSQL calls the function, with the arguments that sql/schema/ declares.
                unsafe {
                    $crate::pg::srf::call(fcinfo, |call, _arguments| {
                        $(let $argument = $crate::pg::srf::next(_arguments);)*
                        $body(call, $($argument),*)
                    })
                }
            }
        }
    };
}
pub(crate) use set_returning;

/// A call of a set-returning function. Each of its methods that end the call takes it by value, so that it ends once.
pub struct Call<'fcx> {
    info: FcInfo<'fcx>,
    memory: Memory<'fcx>,
}

/// The proof that a call has stored its rows.
#[must_use = "a call ends with it"]
pub struct Stored(());

/// Runs a function declared by [`set_returning`].
///
/// # Safety
/// `fcinfo` is what PostgreSQL has just called the function with, and `body` takes the arguments that it is declared with.
pub unsafe fn call(
    fcinfo: pg_sys::FunctionCallInfo,
    body: impl for<'fcx> FnOnce(Call<'fcx>, &mut Args<'_, 'fcx>) -> Stored,
) -> pg_sys::Datum {
    // SAFETY: the caller's duty. The call has just begun. `body` must serve any lifetime, so it keeps nothing of the call.
    let (mut info, memory) = unsafe { (FcInfo::from_ptr(fcinfo), Memory::of_call()) };
    let Stored(()) = body(Call { info: info.clone(), memory }, &mut info.args());
    // The rows are in the result set, and the function itself returns NULL.
    info.return_null().sans_lifetime()
}

/// Returns the next argument; `None` for NULL.
///
/// # Safety
/// The argument is declared with the type that T stands for.
pub unsafe fn next<'fcx, T: ArgAbi<'fcx>>(arguments: &mut Args<'_, 'fcx>) -> Option<T> {
    // SAFETY: the caller's duty. An Option takes NULL, too, and an argument that the declaration of an older version lacks.
    unsafe { arguments.next_arg_unchecked::<Option<T>>().flatten() }
}

impl<'fcx> Call<'fcx> {
    /// Returns the memory that lives as long as the call.
    pub fn memory(&self) -> Memory<'fcx> {
        self.memory
    }

    /// Returns the SQL function that is called.
    pub fn function(&self) -> pg_sys::Oid {
        // SAFETY: a function called by PostgreSQL has its lookup record.
        unsafe { (*(*self.info.as_mut_ptr()).flinfo).fn_oid }
    }

    /// Whether the SQL function has arguments.
    pub fn has_arguments(&self) -> bool {
        self.info.args().next().is_some()
    }

    /// Ends the call without rows.
    pub fn nothing(self) -> Stored {
        ResultSet::begin(&self);
        Stored(())
    }

    /// Ends the call with the rows of a statement. `run` runs the statement, and passes its rows to the function that it
    /// gets. The statement may have further columns, which `run` reads itself.
    pub fn rows(self, run: impl FnOnce(&dyn Fn(&Rows))) -> Stored {
        let set = ResultSet::begin(&self);
        run(&|rows| set.put(rows, None));
        Stored(())
    }

    /// Ends the call as [`rows`](Self::rows) does, with a column (the first is 1) whose values `value` returns. The
    /// declaration of an older version may lack that column.
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

    /// Ends the call with rows of values. `rows` passes each row to the function that it gets. The declaration of an older
    /// version may lack the last columns.
    pub fn values<const COLUMNS: usize>(self, rows: impl FnOnce(&mut dyn FnMut([DatumWithOid; COLUMNS]))) -> Stored {
        let set = ResultSet::begin(&self);
        assert!(set.columns() <= COLUMNS, "the function returns {COLUMNS} columns at most");
        rows(&mut |values| set.put_values(&values));
        Stored(())
    }
}

/// A function that returns a column's value for a row of a statement.
type Value<'a> = dyn Fn(&Rows, u64) -> DatumWithOid<'static> + 'a;

/// The result of a call: the store of its rows, and their description. Both lie in the query's memory.
struct ResultSet {
    store: *mut pg_sys::Tuplestorestate,
    description: pg_sys::TupleDesc,
    /// The type of each column.
    types: Vec<pg_sys::Oid>,
}

impl ResultSet {
    fn begin(call: &Call) -> Self {
        // SAFETY: a set-returning function in FROM gets a ReturnSetInfo that allows a materialized result, which is checked.
        // Store and description live in the query's memory.
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
            let columns = (*description).natts as usize;
            let types = (0..columns).map(|column| (*version::attribute(description, column)).atttypid).collect();
            Self { store, description, types }
        }
    }

    fn columns(&self) -> usize {
        self.types.len()
    }

    /// Stores the rows of a statement. `replaced`: a column, if the result has it, and the function that returns its value.
    fn put(&self, rows: &Rows, replaced: Option<(i32, &Value)>) {
        let replaced = replaced.filter(|(column, _)| *column as usize <= self.columns());
        assert!(!rows.raw().is_null(), "the statement returns no rows");
        // SAFETY: the tuple table belongs to the open SPI connection. Its tuples have the columns of the result, which is
        // checked first.
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
                    let index = column as usize - 1;
                    (values[index], nulls[index]) = self.checked(column, &value(rows, row));
                }
                pg_sys::tuplestore_putvalues(self.store, self.description, values.as_mut_ptr(), nulls.as_mut_ptr());
            }
        }
    }

    fn put_values<const COLUMNS: usize>(&self, row: &[DatumWithOid; COLUMNS]) {
        let (mut values, mut nulls) = ([pg_sys::Datum::null(); COLUMNS], [false; COLUMNS]);
        for (index, value) in row.iter().enumerate().take(self.columns()) {
            (values[index], nulls[index]) = self.checked(index as i32 + 1, value);
        }
        // SAFETY: there is a value for each column of the description, of its type, and the store copies it.
        unsafe { pg_sys::tuplestore_putvalues(self.store, self.description, values.as_mut_ptr(), nulls.as_mut_ptr()) };
    }

    /// Returns a column's value, whose type is checked, and whether it is NULL.
    fn checked(&self, column: i32, value: &DatumWithOid) -> (pg_sys::Datum, bool) {
        self.check_type(column, value.oid());
        let datum = value.datum().map(pgrx::datum::Datum::sans_lifetime);
        (datum.unwrap_or(pg_sys::Datum::null()), datum.is_none())
    }

    /// Checks that the columns of a statement are those of the result.
    fn check_columns(&self, actual: pg_sys::TupleDesc) {
        let columns = self.columns();
        // SAFETY: a valid description of rows, in which SPI numbers columns from 1.
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
        let wants = self.types[column as usize - 1];
        if has != wants {
            types::refuse(column, has, wants);
        }
    }
}
