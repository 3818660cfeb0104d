//! Scans of the cache's tables: the rows of one, read through its entry index, or, where it has none, one after the other.

#![allow(unsafe_code)]

use super::entry_index::{Columns, Entries, Partition};
use crate::address::Address;
use crate::extension::Extension;
use crate::pg::{invalidation, version};
use pgrx::datum::FromDatum;
use pgrx::{Uuid, pg_sys};
use std::rc::Rc;

const LOCK: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
const KEEP_LOCK: pg_sys::LOCKMODE = pg_sys::NoLock as pg_sys::LOCKMODE;

/// Scans those of the cache's tables that `choose` takes, one after the other, until `visit` wants no more. The table of the
/// cache and what is scanned are locked as by a statement. After a change of the table it begins anew. Returns what is known
/// of the tables; `None` where none is chosen.
///
/// # Safety
/// The snapshot stays what it is meanwhile.
pub unsafe fn scan_tables(
    snapshot: pg_sys::Snapshot,
    by_digest: bool,
    mut choose: impl for<'e> FnMut(&Extension, &'e Entries) -> Option<&'e [Partition]>,
    mut visit: impl FnMut(&Scan) -> bool,
) -> Option<Rc<Entries>> {
    let mut wants_more = true;
    loop {
        pgrx::check_for_interrupts!();
        invalidation::accept_messages();
        let extension = Extension::current();
        let entries = Entries::current(&extension);
        let partitions = choose(&extension, &entries)?;
        let Some(table) = open(&entries, entries.table) else { continue };
        let unchanged = partitions.iter().all(|partition| {
            if !wants_more {
                return true;
            }
            // SAFETY: the caller's duty.
            let Some(scan) = (unsafe { Scan::begin(&entries, partition, snapshot, by_digest) }) else { return false };
            wants_more = visit(&scan);
            scan.end();
            true
        });
        // SAFETY: the relation is open.
        unsafe { pg_sys::relation_close(table, KEEP_LOCK) };
        if unchanged {
            return Some(entries);
        }
    }
}

/// Opens a table, locked as a statement would; `None` when what is known is outdated.
fn open(entries: &Entries, table: pg_sys::Oid) -> Option<pg_sys::Relation> {
    // SAFETY: the relation is checked before it is used; with the lock comes the news of changes.
    unsafe {
        let table = pg_sys::try_relation_open(table, LOCK);
        if table.is_null() {
            return None;
        }
        if !entries.is_current() {
            pg_sys::relation_close(table, KEEP_LOCK);
            return None;
        }
        Some(table)
    }
}

/// How the rows are found.
enum Way {
    Index { index: pg_sys::Relation, scan: pg_sys::IndexScanDesc, columns: i32 },
    Table,
}

/// A scan of one partition.
pub struct Scan<'a> {
    columns: &'a Columns,
    table: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    way: Way,
    slot: *mut pg_sys::TupleTableSlot,
}

impl<'a> Scan<'a> {
    /// Begins one of a user's rows: of each that has a digest, or of all. `None` when the partition is not what it was
    /// known to be.
    ///
    /// # Safety
    /// The snapshot stays what it is until the scan ends.
    unsafe fn begin(
        entries: &Entries,
        partition: &'a Partition,
        snapshot: pg_sys::Snapshot,
        by_digest: bool,
    ) -> Option<Self> {
        let table = open(entries, partition.table)?;
        // SAFETY: the relations are open until the scan ends, and the snapshot is the caller's duty. Once the table
        // is locked and known to be unchanged its index cannot go. What is open when something raises is closed with
        // the transaction or subtransaction.
        unsafe {
            let way = partition.index.map_or(Way::Table, |index| {
                let index = pg_sys::index_open(index, LOCK);
                let columns = if by_digest { 2 } else { 1 };
                Way::Index { index, scan: version::begin_index_scan(table, index, snapshot, columns), columns }
            });
            let slot = pg_sys::table_slot_create(table, std::ptr::null_mut());
            Some(Self { columns: &partition.columns, table, snapshot, way, slot })
        }
    }

    /// Shows `look` the rows of a user until it wants no more. A scan by digest that has an index shows those of the digest
    /// only, which must be given.
    pub fn each(&self, user: &Uuid, digest: Option<&Uuid>, mut look: impl FnMut(&Row) -> bool) {
        pgrx::check_for_interrupts!();
        let row = Row { slot: self.slot, columns: self.columns };
        match self.way {
            Way::Index { scan, columns, .. } => {
                let mut keys = [equal_to(1, user), equal_to(2, digest.unwrap_or(user))];
                // SAFETY: the scan is one on so many columns of type uuid, and its relations are open. What the keys
                // point to lives as long as the search. The slot holds a row when it has been given one.
                unsafe {
                    pg_sys::index_rescan(scan, keys.as_mut_ptr(), columns, std::ptr::null_mut(), 0);
                    while pg_sys::index_getnext_slot(scan, pg_sys::ScanDirection::ForwardScanDirection, self.slot) {
                        if !look(row.read()) {
                            return;
                        }
                        pgrx::check_for_interrupts!();
                    }
                }
            }
            Way::Table => {
                const FLAGS: u32 = pg_sys::ScanOptions::SO_TYPE_SEQSCAN | pg_sys::ScanOptions::SO_ALLOW_STRAT;
                let forward = pg_sys::ScanDirection::ForwardScanDirection;
                let (no_keys, alone) = (std::ptr::null_mut(), std::ptr::null_mut());
                // SAFETY: as above, but for keys; the table is a heap, and the scan is ended where it has begun.
                unsafe {
                    let scan = pg_sys::heap_beginscan(self.table, self.snapshot, 0, no_keys, alone, FLAGS);
                    while pg_sys::heap_getnextslot(scan, forward, self.slot) {
                        if row.read().user_id() == Some(*user) && !look(&row) {
                            break;
                        }
                        pgrx::check_for_interrupts!();
                    }
                    pg_sys::heap_endscan(scan);
                }
            }
        }
    }

    fn end(self) {
        // SAFETY: ends what `begin` began.
        unsafe {
            pg_sys::ExecDropSingleTupleTableSlot(self.slot);
            if let Way::Index { index, scan, .. } = self.way {
                pg_sys::index_endscan(scan);
                pg_sys::index_close(index, KEEP_LOCK);
            }
            pg_sys::relation_close(self.table, KEEP_LOCK);
        }
    }
}

fn equal_to(column: i16, value: &Uuid) -> pg_sys::ScanKeyData {
    let mut key = pg_sys::ScanKeyData::default();
    // SAFETY: the key is written by the call.
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

/// A row of a partition, for as long as the scan stays where it is.
pub struct Row<'a> {
    pub slot: *mut pg_sys::TupleTableSlot,
    pub columns: &'a Columns,
}

impl Row<'_> {
    /// Takes the columns apart, up to the last that is read.
    fn read(&self) -> &Self {
        // SAFETY: the slot holds a row, which has these columns.
        unsafe { pg_sys::slot_getsomeattrs_int(self.slot, self.columns.last.into()) };
        self
    }

    pub fn value(&self, column: i16) -> Option<pg_sys::Datum> {
        let column = column as usize - 1;
        // SAFETY: the slot holds the values of the columns up to the last that is read.
        unsafe {
            let is_null = *(*self.slot).tts_isnull.add(column);
            (!is_null).then_some(*(*self.slot).tts_values.add(column))
        }
    }

    /// What `look` makes of the row as it lies in its buffer, which is locked meanwhile.
    ///
    /// # Safety
    /// The slot holds a row of a heap.
    pub unsafe fn in_buffer<T>(&self, look: impl FnOnce(pg_sys::HeapTuple, pg_sys::Buffer) -> T) -> T {
        // SAFETY: the slot of a heap's row has its buffer pinned. An error gives the lock back with the transaction or
        // subtransaction.
        unsafe {
            let slot = self.slot.cast::<pg_sys::BufferHeapTupleTableSlot>();
            pg_sys::LockBuffer((*slot).buffer, pg_sys::BUFFER_LOCK_SHARE as i32);
            let seen = look((*slot).base.tuple, (*slot).buffer);
            pg_sys::LockBuffer((*slot).buffer, pg_sys::BUFFER_LOCK_UNLOCK as i32);
            seen
        }
    }

    /// Whether a snapshot shows the row. A dirty one is told who is at it.
    ///
    /// # Safety
    /// The slot holds a row of a heap, and the snapshot stays.
    pub unsafe fn is_shown_by(&self, snapshot: pg_sys::Snapshot) -> bool {
        // SAFETY: the caller's duty; the function wants the buffer locked.
        unsafe { self.in_buffer(|tuple, buffer| pg_sys::HeapTupleSatisfiesVisibility(tuple, snapshot, buffer)) }
    }

    fn user_id(&self) -> Option<Uuid> {
        // SAFETY: a column of type uuid.
        self.value(self.columns.user_id).and_then(|value| unsafe { Uuid::from_datum(value, false) })
    }

    fn is_text(&self, column: i16, expected: &[u8]) -> bool {
        // SAFETY: a column of type text; what is compressed or out of line is copied.
        self.value(column).is_some_and(|value| unsafe {
            let text = pg_sys::pg_detoast_datum_packed(value.cast_mut_ptr());
            pgrx::varlena::varlena_to_byte_slice(text) == expected
        })
    }

    /// Whether it is that of an entry, and not of another with the same digest.
    pub fn is_of(&self, address: &Address) -> bool {
        self.is_text(self.columns.cache_key, address.cache_key)
            && self.is_text(self.columns.content_type, address.content_type)
    }

    pub fn created_at(&self) -> i64 {
        self.value(self.columns.created_at).map_or(i64::MIN, |moment| moment.value() as i64)
    }
}
