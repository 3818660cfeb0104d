//! Scans of the cache's tables: the rows of one, read through its entry index, or, where it has none, one after the other.

use super::entry_index::{Columns, Entries, Partition};
use crate::address::Address;
use crate::extension::Extension;
use crate::pg::heap_scan::{self, scan};
use crate::pg::invalidation;
use crate::pg::relation::{self, Relation};
use crate::pg::snapshot::Snapshot;
use pgrx::{Uuid, pg_sys};
use std::rc::Rc;

/// Scans those of the cache's tables that `choose` takes, one after the other, until `visit` wants no more. The table of the
/// cache and what is scanned are locked as by a statement. After a change of the table it begins anew. Returns what is known
/// of the tables; `None` where none is chosen.
pub fn scan_tables(
    snapshot: Snapshot<'_>,
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
        let unchanged = with_open(&entries, entries.table, |_| {
            partitions.iter().all(|partition| {
                if !wants_more {
                    return true;
                }
                let visited = Scan::with(&entries, partition, snapshot, by_digest, &mut visit);
                wants_more = visited.unwrap_or(true);
                visited.is_some()
            })
        });
        if unchanged == Some(true) {
            return Some(entries);
        }
    }
}

/// Runs `f` with a table open, and locked as a statement would lock it; `None` when what is known is outdated: with the lock
/// comes the news of changes.
#[inline]
fn with_open<T>(entries: &Entries, table: pg_sys::Oid, f: impl FnOnce(&Relation) -> T) -> Option<T> {
    relation::locked(table, |table| entries.is_current().then(|| f(table))).flatten()
}

/// A scan of one partition.
pub struct Scan<'a> {
    columns: &'a Columns,
    scan: &'a heap_scan::Scan<'a>,
}

impl Scan<'_> {
    /// Runs `f` with a scan for rows of a user: for each that has a digest, or for all. `None` when the partition is not what
    /// it was known to be.
    #[inline]
    fn with<T>(
        entries: &Entries,
        partition: &Partition,
        snapshot: Snapshot<'_>,
        by_digest: bool,
        f: impl FnOnce(&Scan) -> T,
    ) -> Option<T> {
        let (columns, keys) = (&partition.columns, if by_digest { 2 } else { 1 });
        with_open(entries, partition.table, |table| {
            scan(table, partition.index, keys, snapshot, columns.last, |scan| f(&Scan { columns, scan }))
        })
    }

    /// Shows `look` the rows of a user until it wants no more. A scan by digest that has an index shows those of the digest
    /// only, which must be given.
    #[inline]
    pub fn each(&self, user: &Uuid, digest: Option<&Uuid>, mut look: impl FnMut(&Row) -> bool) {
        let shows_all = !self.scan.has_keys();
        self.scan.each([user, digest.unwrap_or(user)], |row| {
            let row = Row { row, columns: self.columns };
            (shows_all && row.row.uuid(self.columns.user_id) != Some(*user)) || look(&row)
        });
    }
}

/// A row of a partition, for as long as the scan stays where it is.
pub struct Row<'a> {
    pub row: &'a heap_scan::Row<'a>,
    pub columns: &'a Columns,
}

impl Row<'_> {
    /// Whether it is that of an entry, and not of another with the same digest.
    #[inline]
    pub fn is_of(&self, address: &Address) -> bool {
        self.row.is_text(self.columns.cache_key, address.cache_key)
            && self.row.is_text(self.columns.content_type, address.content_type)
    }

    pub fn created_at(&self) -> i64 {
        self.row.timestamptz(self.columns.created_at).unwrap_or(i64::MIN)
    }
}
