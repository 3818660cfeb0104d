//! Statements through SPI. pgrx's own layer runs a statement read-only as long as the transaction has no id, assigns one before
//! a statement that may write, and cannot choose a snapshot. Here [`Access`] chooses.

pub mod saved_plan;

use super::jsonb::RawJsonb;
use super::memory::Memory;
use super::types;
use pgrx::datum::{AnyNumeric, DatumWithOid, FromDatum, Interval, IntoDatum, TimestampWithTimeZone};
use pgrx::{Uuid, pg_sys};
use std::ffi::CString;

/// How a statement sees and changes data.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The statement has the caller's snapshot, cannot write, and assigns no transaction id.
    Read,
    /// The statement sees all that is committed now, whatever the isolation level, and cannot write.
    ReadLatest,
    /// The statement may write. At READ COMMITTED it has a snapshot of its own.
    Write,
}

/// The rows that a statement has returned, for as long as its SPI connection is open.
pub struct Rows {
    table: *mut pg_sys::SPITupleTable,
    processed: u64,
}

/// Types whose values are copies of a row's data, so that they may outlive the row.
///
/// # Safety
/// `from_datum` copies what the datum points to.
pub unsafe trait Owned: FromDatum + IntoDatum {}

macro_rules! owned {
    ($($type:ty),*) => {
        // SAFETY: the value is a number, or memory of Rust's own.
        $(unsafe impl Owned for $type {})*
    };
}
owned!(bool, i32, i64, f64, String, Uuid, pg_sys::Oid, AnyNumeric, Interval, TimestampWithTimeZone, Text);
// SAFETY: the elements are copies, in memory of Rust's own.
unsafe impl<T: Owned> Owned for Vec<T> where Vec<T>: FromDatum + IntoDatum {}

impl Rows {
    /// Returns the number of rows that the statement has returned or, without RETURNING, affected.
    pub fn count(&self) -> u64 {
        self.processed
    }

    /// Returns a copy of the value of a column (the first is 1) in a row (the first is 0); `None` for NULL.
    ///
    /// # Errors
    /// 42804 if the column has another type.
    pub fn get<T: Owned>(&self, row: u64, column: i32) -> Option<T> {
        let datum = self.datum(row, column, T::type_oid(), T::is_compatible_with);
        // SAFETY: the type has been checked.
        datum.and_then(|datum| unsafe { T::from_datum(datum, false) })
    }

    /// Returns a column whose type `fits`; `None` for NULL. The datum lies in the memory of the SPI connection.
    fn datum(
        &self,
        row: u64,
        column: i32,
        wanted: pg_sys::Oid,
        fits: impl FnOnce(pg_sys::Oid) -> bool,
    ) -> Option<pg_sys::Datum> {
        self.check_row(row);
        // SAFETY: the tuple table belongs to the open SPI connection and has a row of this number.
        unsafe {
            let description = (*self.table).tupdesc;
            let actual = pg_sys::SPI_gettypeid(description, column);
            if !fits(actual) {
                types::refuse(column, actual, wanted);
            }
            let tuple = *(*self.table).vals.add(row as usize);
            let mut is_null = false;
            let datum = pg_sys::SPI_getbinval(tuple, description, column, &mut is_null);
            (!is_null).then_some(datum)
        }
    }

    /// Checks that there is a row of this number. A statement that returns no rows has no tuple table.
    fn check_row(&self, row: u64) {
        assert!(row < self.processed && !self.table.is_null(), "row {row} of {}", self.processed);
    }

    /// Whether a column is NULL, whatever its type.
    pub fn is_null(&self, row: u64, column: i32) -> bool {
        self.check_row(row);
        // SAFETY: the tuple table belongs to the open SPI connection and has a row of this number.
        unsafe {
            let mut is_null = false;
            pg_sys::SPI_getbinval(*(*self.table).vals.add(row as usize), (*self.table).tupdesc, column, &mut is_null);
            is_null
        }
    }

    /// Returns a column that should be a uuid; `None` for NULL, and if the column has another type.
    pub fn uuid(&self, row: u64, column: i32) -> Option<Uuid> {
        self.check_row(row);
        // SAFETY: the tuple table belongs to the open SPI connection.
        let found = unsafe { pg_sys::SPI_gettypeid((*self.table).tupdesc, column) };
        if found == pg_sys::UUIDOID { self.get(row, column) } else { None }
    }

    /// Returns a text column as bytes in the database's encoding.
    pub fn text(&self, row: u64, column: i32) -> Option<Vec<u8>> {
        self.get::<Text>(row, column).map(|text| text.0)
    }

    /// Returns a copy of a jsonb column.
    pub fn jsonb<'m>(&self, row: u64, column: i32, memory: Memory<'m>) -> Option<RawJsonb<'m>> {
        let datum = self.datum(row, column, pg_sys::JSONBOID, |actual| actual == pg_sys::JSONBOID);
        // SAFETY: the type has been checked, and the SPI connection is open.
        datum.map(|datum| unsafe { RawJsonb::copy(datum, memory) })
    }

    /// Returns what `f` makes of each row.
    pub fn map<T>(&self, f: impl Fn(&Rows, u64) -> T) -> Vec<T> {
        (0..self.processed).map(|row| f(self, row)).collect()
    }

    /// Returns the tuple table, whose rows `srf.rs` passes on.
    pub(super) fn raw(&self) -> *mut pg_sys::SPITupleTable {
        self.table
    }
}

/// Whether all statements of the transaction see what its first one saw: at REPEATABLE READ and SERIALIZABLE.
pub fn uses_transaction_snapshot() -> bool {
    // SAFETY: a plain variable.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// Runs a statement, whose plan is not kept.
pub fn run<T>(access: Access, sql: &str, args: &[DatumWithOid], f: impl FnOnce(&Rows) -> T) -> T {
    let sql = CString::new(sql).expect("a statement has no NUL byte");
    connected(access, || {
        let (mut types, mut values, nulls) = split(args);
        // SAFETY: SPI is connected. The three arrays have as many elements as there are arguments, and the statement's text
        // lives until the call returns.
        let code = unsafe {
            pg_sys::SPI_execute_with_args(
                sql.as_ptr(),
                args.len() as i32,
                types.as_mut_ptr(),
                values.as_mut_ptr(),
                nulls.as_ptr(),
                access != Access::Write,
                0,
            )
        };
        f(&rows(code))
    })
}

/// Runs a statement without arguments whose result is not wanted, such as DDL.
pub fn execute(sql: &str) {
    run(Access::Write, sql, &[], |_| ());
}

/// Makes a timestamptz argument of microseconds since 2000-01-01 UTC.
pub fn timestamptz(microseconds: i64) -> DatumWithOid<'static> {
    // SAFETY: a timestamptz datum is a 64-bit integer.
    unsafe { DatumWithOid::new(microseconds, pg_sys::TIMESTAMPTZOID) }
}

/// Makes a uuid argument that points to the value.
pub fn uuid(value: &Uuid) -> DatumWithOid<'_> {
    let datum = pg_sys::Datum::from(value.as_bytes().as_ptr());
    // SAFETY: a uuid datum points to its 16 bytes, which live as long as the value.
    unsafe { DatumWithOid::new(datum, pg_sys::UUIDOID) }
}

/// Makes the same argument again.
pub fn again<'a>(value: &DatumWithOid<'a>) -> DatumWithOid<'a> {
    // SAFETY: datum, type and lifetime stay together.
    unsafe { DatumWithOid::new_from_datum(value.datum(), value.oid()) }
}

/// Makes a text[] argument of texts in the database's encoding.
pub fn texts<'a>(values: impl Iterator<Item = &'a [u8]>) -> DatumWithOid<'static> {
    values.map(|value| Text(value.to_vec())).collect::<Vec<_>>().into()
}

/// Runs `f` with SPI connected.
fn connected<T>(access: Access, f: impl FnOnce() -> T) -> T {
    // SAFETY: connection and snapshot are taken and given back in order. If a statement raises, the end of the transaction or
    // subtransaction gives both back, so there is no guard.
    unsafe {
        // In a parallel query no new snapshot may be taken, and the query's own serves.
        let latest = access == Access::ReadLatest && !pg_sys::IsInParallelMode();
        if latest {
            pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
        }
        let code = pg_sys::SPI_connect();
        assert!(code == pg_sys::SPI_OK_CONNECT as i32, "SPI_connect returned {code}");
        let result = f();
        pg_sys::SPI_finish();
        if latest {
            pg_sys::PopActiveSnapshot();
        }
        result
    }
}

/// Splits arguments into what SPI takes: types, values, and a mark for each NULL.
fn split(args: &[DatumWithOid]) -> (Vec<pg_sys::Oid>, Vec<pg_sys::Datum>, Vec<std::ffi::c_char>) {
    let mut types = Vec::with_capacity(args.len());
    let mut values = Vec::with_capacity(args.len());
    let mut nulls = Vec::with_capacity(args.len());
    for arg in args {
        types.push(arg.oid());
        match arg.datum() {
            Some(datum) => {
                values.push(datum.sans_lifetime());
                nulls.push(b' ' as std::ffi::c_char);
            }
            None => {
                values.push(pg_sys::Datum::null());
                nulls.push(b'n' as std::ffi::c_char);
            }
        }
    }
    (types, values, nulls)
}

/// Returns the rows of the statement that has just been executed with a result code.
fn rows(code: i32) -> Rows {
    assert!(code >= 0, "SPI returned {code}");
    // SAFETY: SPI has set both variables for the statement that has just been executed.
    unsafe { Rows { table: pg_sys::SPI_tuptable, processed: pg_sys::SPI_processed } }
}

/// A text value as bytes in the database's encoding.
struct Text(Vec<u8>);

impl FromDatum for Text {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, oid: pg_sys::Oid) -> Option<Self> {
        // SAFETY: text has the layout of bytea.
        unsafe { Vec::from_polymorphic_datum(datum, is_null, oid).map(Self) }
    }
}

impl IntoDatum for Text {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        self.0.into_datum()
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::TEXTOID
    }
}

/// Makes a text argument of bytes in the database's encoding.
pub fn text(bytes: &[u8]) -> DatumWithOid<'static> {
    // SAFETY: text and bytea have the same layout, and the bytes come from text values of this database.
    unsafe { DatumWithOid::new(bytes, pg_sys::TEXTOID) }
}
