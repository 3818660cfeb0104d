//! Scans of a table through an index, for the rows with some uuids in its key columns. Where there is no index, the heap is
//! scanned row by row, and all rows are shown.

use super::jsonb::RawJsonb;
use super::memory::Memory;
use super::other_transaction::{Other, members};
use super::relation::Relation;
use super::snapshot::Snapshot;
use super::{backend, version};
use pgrx::datum::FromDatum;
use pgrx::{Uuid, pg_sys};
use std::marker::PhantomData;

const LOCK: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
const KEEP_LOCK: pg_sys::LOCKMODE = pg_sys::NoLock as pg_sys::LOCKMODE;

/// The most key columns of a scan.
pub const MAX_KEYS: usize = 2;

/// A scan of a table, for as long as [`scan`] has it open.
pub struct Scan<'a> {
    table: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    index: Option<(pg_sys::IndexScanDesc, usize)>,
    slot: *mut pg_sys::TupleTableSlot,
    columns: i16,
    lives: PhantomData<&'a ()>,
}

/// Runs `f` with a scan of a table: of its `index` by the first `keys` columns, or without an index of the whole table. The first
/// `columns` columns of each row can be read.
#[inline]
pub fn scan<T>(
    table: &Relation,
    index: Option<pg_sys::Oid>,
    keys: usize,
    snapshot: Snapshot<'_>,
    columns: i16,
    f: impl FnOnce(&Scan<'_>) -> T,
) -> T {
    assert!(table.is_heap(), "only heaps are scanned");
    let (table, snapshot) = (table.raw(), snapshot.raw());
    // SAFETY: the table is open and the snapshot stays until `f` returns. While the table is locked its index cannot be
    // dropped. After an ERROR the resource owner closes the index and releases pins; slot and scan go with their memory.
    unsafe {
        let index = index.map(|index| {
            let index = pg_sys::index_open(index, LOCK);
            assert!(is_on_uuids(index, table, keys), "the keys of the index are not uuids");
            (index, version::begin_index_scan(table, index, snapshot, keys as i32))
        });
        let slot = pg_sys::table_slot_create(table, std::ptr::null_mut());
        let of_index = index.map(|(_, scan)| (scan, keys));
        let scan = Scan { table, snapshot, index: of_index, slot, columns, lives: PhantomData };
        let result = f(&scan);
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        if let Some((index, scan)) = index {
            pg_sys::index_endscan(scan);
            pg_sys::index_close(index, KEEP_LOCK);
        }
        result
    }
}

/// Whether an index is a B-tree of the table whose first key columns are uuids.
///
/// # Safety
/// Both relations are open.
#[inline]
unsafe fn is_on_uuids(index: pg_sys::Relation, table: pg_sys::Relation, keys: usize) -> bool {
    // SAFETY: an open index has its row of pg_index, and an array with the type of each key column.
    unsafe {
        let definition = (*index).rd_index;
        (1..=MAX_KEYS).contains(&keys)
            && (*definition).indrelid == (*table).rd_id
            && (*definition).indnkeyatts as usize >= keys
            && (*(*index).rd_rel).relam == pg_sys::BTREE_AM_OID
            && (0..keys).all(|key| *(*index).rd_opcintype.add(key) == pg_sys::UUIDOID)
    }
}

impl Scan<'_> {
    /// Whether the scan finds rows by keys. Otherwise it shows all.
    pub fn has_keys(&self) -> bool {
        self.index.is_some()
    }

    /// Shows `look` the rows with the keys, or all rows where there is no index, until `look` returns false.
    #[inline]
    pub fn each(&self, keys: [&Uuid; MAX_KEYS], mut look: impl FnMut(&Row<'_>) -> bool) {
        pgrx::check_for_interrupts!();
        let row = Row { slot: self.slot, lives: PhantomData };
        match self.index {
            Some((scan, columns)) => {
                let mut keys = [equal_to(1, keys[0]), equal_to(2, keys[1])];
                // SAFETY: the scan was begun for this number of keys on uuid columns, and its relations are open. The uuids
                // that the keys point to live until the call returns. The slot holds a row when the server returns true.
                unsafe {
                    pg_sys::index_rescan(scan, keys.as_mut_ptr(), columns as i32, std::ptr::null_mut(), 0);
                    while pg_sys::index_getnext_slot(scan, pg_sys::ScanDirection::ForwardScanDirection, self.slot) {
                        pg_sys::slot_getsomeattrs_int(self.slot, self.columns.into());
                        if !look(&row) {
                            return;
                        }
                        pgrx::check_for_interrupts!();
                    }
                }
            }
            None => {
                const FLAGS: u32 = pg_sys::ScanOptions::SO_TYPE_SEQSCAN | pg_sys::ScanOptions::SO_ALLOW_STRAT;
                let forward = pg_sys::ScanDirection::ForwardScanDirection;
                let (no_keys, alone) = (std::ptr::null_mut(), std::ptr::null_mut());
                // SAFETY: the table is an open heap, and the slot is of its kind. The scan is ended here. After an ERROR the
                // resource owner releases its pin and its reference to the table, and the scan goes with its memory.
                unsafe {
                    let scan = pg_sys::heap_beginscan(self.table, self.snapshot, 0, no_keys, alone, FLAGS);
                    while pg_sys::heap_getnextslot(scan, forward, self.slot) {
                        pg_sys::slot_getsomeattrs_int(self.slot, self.columns.into());
                        if !look(&row) {
                            break;
                        }
                        pgrx::check_for_interrupts!();
                    }
                    pg_sys::heap_endscan(scan);
                }
            }
        }
    }
}

#[inline]
fn equal_to(column: i16, value: &Uuid) -> pg_sys::ScanKeyData {
    let mut key = pg_sys::ScanKeyData::default();
    // SAFETY: the call writes the key, which is then a pointer to the uuid's 16 bytes.
    unsafe {
        pg_sys::ScanKeyInit(
            &mut key,
            column,
            pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
            pg_sys::F_UUID_EQ.into(),
            pg_sys::Datum::from(value.as_bytes().as_ptr()),
        );
    }
    key
}

/// A row of a scan, until the scan moves on. Columns are read by number (the first is 1).
pub struct Row<'a> {
    slot: *mut pg_sys::TupleTableSlot,
    lives: PhantomData<&'a ()>,
}

/// What transactions have done to a row.
pub struct State {
    /// Whether the row exists now: its inserter has committed or still runs, and neither this transaction nor one that has
    /// committed has deleted it.
    pub is_there: bool,
    /// The other transaction in progress that has inserted the row.
    pub inserter: Option<Other>,
    /// The other transaction in progress that has deleted or updated the row.
    pub deleter: Option<Other>,
}

impl Row<'_> {
    /// Returns a column's value, which must be of one of some types; `None` for NULL.
    #[inline]
    fn value(&self, column: i16, types: &[pg_sys::Oid]) -> Option<pg_sys::Datum> {
        // SAFETY: the slot holds a row, and the values of its first tts_nvalid columns.
        unsafe {
            let slot = &*self.slot;
            assert!((1..=slot.tts_nvalid).contains(&column), "column {column} has not been read");
            let index = column as usize - 1;
            let type_oid = (*version::attribute(slot.tts_tupleDescriptor, index)).atttypid;
            assert!(types.contains(&type_oid), "column {column} is of another type");
            (!*slot.tts_isnull.add(index)).then_some(*slot.tts_values.add(index))
        }
    }

    #[inline]
    pub fn uuid(&self, column: i16) -> Option<Uuid> {
        // SAFETY: the type has been checked.
        self.value(column, &[pg_sys::UUIDOID]).and_then(|value| unsafe { Uuid::from_datum(value, false) })
    }

    /// Returns a timestamptz, in microseconds since 2000-01-01 UTC.
    #[inline]
    pub fn timestamptz(&self, column: i16) -> Option<i64> {
        self.value(column, &[pg_sys::TIMESTAMPTZOID]).map(|moment| moment.value() as i64)
    }

    /// Whether a column of type text or varchar, which are stored alike, has the expected value.
    #[inline]
    pub fn is_text(&self, column: i16, expected: &[u8]) -> bool {
        // SAFETY: the type has been checked, and is a varlena. The call copies it where it is compressed or out of line.
        self.value(column, &[pg_sys::TEXTOID, pg_sys::VARCHAROID]).is_some_and(|value| unsafe {
            let text = pg_sys::pg_detoast_datum_packed(value.cast_mut_ptr());
            pgrx::varlena::varlena_to_byte_slice(text) == expected
        })
    }

    /// Returns a copy of a jsonb.
    #[inline]
    pub fn jsonb<'m>(&self, column: i16, memory: Memory<'m>) -> Option<RawJsonb<'m>> {
        // SAFETY: the type has been checked, and the value lives until the scan moves on.
        self.value(column, &[pg_sys::JSONBOID]).map(|value| unsafe { RawJsonb::copy(value, memory) })
    }

    /// Returns the double nearest to a numeric.
    #[inline]
    pub fn numeric(&self, column: i16) -> Option<f64> {
        // SAFETY: the type has been checked, and is the function's.
        self.value(column, &[pg_sys::NUMERICOID])
            .and_then(|value| unsafe { pgrx::direct_function_call(pg_sys::numeric_float8_no_overflow, &[Some(value)]) })
    }

    /// Shows `look` the row in its buffer, which is locked meanwhile, so `look` must not raise.
    fn in_buffer<T>(&self, look: impl FnOnce(pg_sys::HeapTuple, pg_sys::Buffer) -> T) -> T {
        // SAFETY: the slot of a heap's row keeps its buffer pinned. Should `look` raise all the same, the end of the
        // transaction or subtransaction releases the lock.
        unsafe {
            assert!(
                std::ptr::eq((*self.slot).tts_ops, &raw const pg_sys::TTSOpsBufferHeapTuple),
                "the slot is not one of a heap's rows"
            );
            let slot = self.slot.cast::<pg_sys::BufferHeapTupleTableSlot>();
            assert!((*slot).buffer != pg_sys::InvalidBuffer as pg_sys::Buffer, "the row is not in a buffer");
            pg_sys::LockBuffer((*slot).buffer, pg_sys::BUFFER_LOCK_SHARE as i32);
            let seen = look((*slot).base.tuple, (*slot).buffer);
            pg_sys::LockBuffer((*slot).buffer, pg_sys::BUFFER_LOCK_UNLOCK as i32);
            seen
        }
    }

    /// Whether a snapshot shows the row.
    pub fn is_shown_by(&self, snapshot: Snapshot<'_>) -> bool {
        self.is_visible(snapshot.raw())
    }

    fn is_visible(&self, snapshot: pg_sys::Snapshot) -> bool {
        // SAFETY: the buffer is locked, as the function needs it, and the snapshot stays.
        self.in_buffer(|tuple, buffer| unsafe { pg_sys::HeapTupleSatisfiesVisibility(tuple, snapshot, buffer) })
    }

    /// Returns what transactions have done to the row.
    pub fn state(&self) -> State {
        let mut dirty =
            pg_sys::SnapshotData { snapshot_type: pg_sys::SnapshotType::SNAPSHOT_DIRTY, ..Default::default() };
        // The server writes the transactions in progress into a dirty snapshot.
        let is_there = self.is_visible(&mut dirty);
        let other = |transaction, token| Other::new(transaction, token).filter(|_| is_there);
        State { is_there, inserter: other(dirty.xmin, dirty.speculativeToken), deleter: other(dirty.xmax, 0) }
    }

    /// Whether this transaction has inserted, deleted or locked the row, by the row's header.
    pub fn is_of_this_transaction(&self) -> bool {
        // SAFETY: a heap's row has this header, and nothing raises while it is read.
        let (header, flags) = self.in_buffer(|tuple, _| unsafe {
            ((*(*tuple).t_data).t_choice.t_heap, u32::from((*(*tuple).t_data).t_infomask))
        });
        let is_own = backend::is_own_transaction;
        let has_inserted =
            flags & (pg_sys::HEAP_XMIN_COMMITTED | pg_sys::HEAP_XMIN_INVALID) == 0 && is_own(header.t_xmin);
        let has_changed = || {
            if flags & (pg_sys::HEAP_XMAX_COMMITTED | pg_sys::HEAP_XMAX_INVALID) != 0 {
                false
            } else if flags & pg_sys::HEAP_XMAX_IS_MULTI != 0 {
                let is_lock = flags & pg_sys::HEAP_XMAX_LOCK_ONLY != 0;
                members(header.t_xmax, is_lock).into_iter().any(is_own)
            } else {
                is_own(header.t_xmax)
            }
        };
        has_inserted || has_changed()
    }
}
