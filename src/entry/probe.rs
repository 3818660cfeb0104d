//! The direct way to an entry: through the index of each partition, the newest first, without a statement. It
//! sees what the caller's snapshot shows, and takes the locks that a statement would, until the end of the
//! transaction.

#![allow(unsafe_code)]

use super::Address;
use crate::clock;
use crate::compat;
use crate::home::{Home, read_news};
use crate::jsonb::RawJsonb;
use crate::partition::entry_index::{Columns, Entries, Partition};
use crate::partition::sight::Sight;
use crate::statistics::{Hit, tokens::Tokens};
use crate::tenant;
use pgrx::datum::FromDatum;
use pgrx::{Uuid, pg_sys};
use std::rc::Rc;

const LOCK: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
const KEEP_LOCK: pg_sys::LOCKMODE = pg_sys::NoLock as pg_sys::LOCKMODE;

/// The newest version of an entry.
pub enum Version {
    /// Its content, in memory of the caller's, and what is counted of it.
    Live(RawJsonb, Hit),
    Expired,
}

/// Finds the newest version of each entry: hands the number of its address, and the version, to `found`. Fastest
/// in the order of users and digests. Returns whether it could; if not, a statement has to find the way.
pub fn newest(addresses: &[&Address], mut found: impl FnMut(usize, Version)) -> bool {
    let mut missing: Vec<usize> = (0..addresses.len()).collect();
    walk(|scan| {
        missing.retain(|&number| {
            let version = scan.find(addresses[number], |row| row.version());
            version.map(|version| found(number, version)).is_none()
        });
        !missing.is_empty()
    })
}

/// When each version of each entry was made that is committed now, or written by this transaction; `None` when
/// statements have to find them. Fastest in the order of users and digests.
pub fn versions(addresses: &[&Address]) -> Option<Vec<Vec<i64>>> {
    let mut versions = vec![Vec::new(); addresses.len()];
    // SAFETY: the snapshot is given back at the end; when something raises, the end of the transaction or
    // subtransaction does that.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot()) };
    let could = walk(|scan| {
        for (address, versions) in addresses.iter().zip(&mut versions) {
            let created_at = scan.find(address, |row| row.created_at());
            // A partition may be walked over twice.
            versions.extend(created_at.filter(|moment| !versions.contains(moment)));
        }
        true
    });
    // SAFETY: as above.
    unsafe { pg_sys::PopActiveSnapshot() };
    could.then_some(versions)
}

/// Shows the partitions to `look`, the newest first, until it wants no more; those before a change of the table
/// again after it. Returns whether it could.
fn walk(mut look: impl FnMut(&Scan) -> bool) -> bool {
    let mut wants_more = true;
    loop {
        let Some((entries, table)) = open() else { return false };
        let Some((partitions, sight)) = entries.partitions(&Home::current()) else {
            // SAFETY: the relation is open.
            unsafe { pg_sys::relation_close(table, KEEP_LOCK) };
            return false;
        };
        let only = (sight == Sight::OneUser).then(tenant::cache_current_user_id);
        let unchanged = partitions.iter().all(|partition| {
            if !wants_more {
                return true;
            }
            let Some(scan) = Scan::begin(&entries, partition, only) else { return false };
            wants_more = look(&scan);
            scan.end();
            true
        });
        // SAFETY: the relation is open.
        unsafe { pg_sys::relation_close(table, KEEP_LOCK) };
        if unchanged {
            return true;
        }
    }
}

/// What is known of the table, and the table itself, locked; `None` when a statement has to find the way.
fn open() -> Option<(Rc<Entries>, pg_sys::Relation)> {
    read_news();
    loop {
        pgrx::check_for_interrupts!();
        let entries = Entries::current(&Home::current());
        entries.partitions(&Home::current())?;
        // SAFETY: the relation is checked before it is used; with the lock comes the news of changes.
        unsafe {
            let table = pg_sys::try_relation_open(entries.table, LOCK);
            if !table.is_null() {
                if entries.is_current() {
                    return Some((entries, table));
                }
                pg_sys::relation_close(table, KEEP_LOCK);
            }
        }
    }
}

/// A scan of the index of one partition.
struct Scan<'a> {
    partition: &'a Partition,
    /// The user that the session acts for, if it may see that one's entries only.
    only: Option<Option<Uuid>>,
    table: pg_sys::Relation,
    index: pg_sys::Relation,
    scan: pg_sys::IndexScanDesc,
    slot: *mut pg_sys::TupleTableSlot,
}

impl<'a> Scan<'a> {
    /// `None` when the partition is not what it was known to be.
    fn begin(entries: &Entries, partition: &'a Partition, only: Option<Option<Uuid>>) -> Option<Self> {
        // SAFETY: the relations are open until the scan ends, and so is the snapshot of the caller's statement.
        // Once the table is locked and known to be unchanged its index cannot go. What is open when something
        // raises is closed with the transaction or subtransaction.
        unsafe {
            let table = pg_sys::try_relation_open(partition.table, LOCK);
            if table.is_null() {
                return None;
            }
            if !entries.is_current() {
                pg_sys::relation_close(table, KEEP_LOCK);
                return None;
            }
            let index = pg_sys::index_open(partition.index, LOCK);
            let scan = compat::begin_index_scan(table, index, pg_sys::GetActiveSnapshot(), 2);
            let slot = pg_sys::table_slot_create(table, std::ptr::null_mut());
            Some(Self { partition, only, table, index, scan, slot })
        }
    }

    /// What `read` makes of the row of an entry, if the partition has one that the session may see.
    fn find<T>(&self, address: &Address, read: impl FnOnce(&Row) -> T) -> Option<T> {
        pgrx::check_for_interrupts!();
        if self.only.is_some_and(|user| user != Some(address.user_id)) {
            return None;
        }
        let equal_to = |column, value: &Uuid| {
            let mut key = pg_sys::ScanKeyData::default();
            // SAFETY: the key is written by the call; the value lives as long as the search.
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
        };
        let mut keys = [equal_to(1, &address.user_id), equal_to(2, &address.digest)];
        let columns = &self.partition.columns;
        // SAFETY: the scan is one on two columns of type uuid, and its relations are open. The slot holds a row
        // when it has been given one, with all columns up to the last that is read.
        unsafe {
            pg_sys::index_rescan(self.scan, keys.as_mut_ptr(), 2, std::ptr::null_mut(), 0);
            while pg_sys::index_getnext_slot(self.scan, pg_sys::ScanDirection::ForwardScanDirection, self.slot) {
                pg_sys::slot_getsomeattrs_int(self.slot, columns.last.into());
                let row = Row { slot: self.slot, columns };
                if row.is_of(address) {
                    return Some(read(&row));
                }
            }
        }
        None
    }

    fn end(self) {
        // SAFETY: ends what `begin` began.
        unsafe {
            pg_sys::ExecDropSingleTupleTableSlot(self.slot);
            pg_sys::index_endscan(self.scan);
            pg_sys::index_close(self.index, KEEP_LOCK);
            pg_sys::relation_close(self.table, KEEP_LOCK);
        }
    }
}

/// A row of a partition, for as long as the scan stays where it is.
struct Row<'a> {
    slot: *mut pg_sys::TupleTableSlot,
    columns: &'a Columns,
}

impl Row<'_> {
    fn value(&self, column: i16) -> Option<pg_sys::Datum> {
        let column = column as usize - 1;
        // SAFETY: the slot holds the values of the columns up to the last that is read.
        unsafe {
            let is_null = *(*self.slot).tts_isnull.add(column);
            (!is_null).then_some(*(*self.slot).tts_values.add(column))
        }
    }

    fn is_text(&self, column: i16, expected: &[u8]) -> bool {
        // SAFETY: a column of type text; what is compressed or out of line is copied.
        self.value(column).is_some_and(|value| unsafe {
            let text = pg_sys::pg_detoast_datum_packed(value.cast_mut_ptr());
            pgrx::varlena::varlena_to_byte_slice(text) == expected
        })
    }

    /// Whether it is that of an entry, and not of another with the same digest.
    fn is_of(&self, address: &Address) -> bool {
        self.is_text(self.columns.cache_key, address.cache_key)
            && self.is_text(self.columns.content_type, address.content_type)
    }

    fn created_at(&self) -> i64 {
        self.value(self.columns.created_at).map_or(i64::MIN, |moment| moment.value() as i64)
    }

    fn version(&self) -> Version {
        let moment = self.value(self.columns.expires_at);
        let is_live = moment.is_some_and(|moment| moment.value() as i64 > clock::now());
        let Some(content) = self.value(self.columns.content).filter(|_| is_live) else { return Version::Expired };
        // SAFETY: columns of type uuid, jsonb and numeric; the content is copied into the memory of the caller.
        unsafe {
            let content = RawJsonb::from_datum(content, false).expect("it is not NULL");
            let id = self.value(self.columns.id).and_then(|id| Uuid::from_datum(id, false));
            let cost = self.value(self.columns.token_cost).map(|cost| Tokens::of_numeric(cost));
            Version::Live(content.copied_into(pg_sys::CurrentMemoryContext), Hit { id, cost })
        }
    }
}
