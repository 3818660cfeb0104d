//! Finds a user's rows in the cache's tables: through the entry index, or row by row if a table has none.

use super::entry_index::{Columns, Entries, Partition};
use crate::address::Address;
use crate::extension::Extension;
use crate::pg::index_scan::{self, scan};
use crate::pg::invalidation;
use crate::pg::relation::{self, Relation};
use crate::pg::snapshot::Snapshot;
use pgrx::{Uuid, pg_sys};
use std::rc::Rc;

/// Scans the tables that `choose` returns, one after the other, until `visit` returns false. Locks the table of the cache,
/// and each that is scanned, as a statement does. Begins again after a change of the table. Returns what is known of the
/// tables; `None` if `choose` returns none.
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

/// Runs `f` with a table open, locked as a statement would lock it; `None` if what is known is outdated. Taking
/// the lock processes pending invalidation messages.
#[inline]
fn with_open<T>(entries: &Entries, table: pg_sys::Oid, f: impl FnOnce(&Relation) -> T) -> Option<T> {
    relation::locked(table, |table| entries.is_current().then(|| f(table))).flatten()
}

/// A scan of one partition.
pub struct Scan<'a> {
    columns: &'a Columns,
    scan: &'a index_scan::Scan<'a>,
}

impl Scan<'_> {
    /// Runs `f` with a scan for the rows of a user: of one digest at a time, or all. `None` if the partition has changed.
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

    /// Shows `look` the rows of a user until it returns false. If the scan is by digest and has an index, shows only those
    /// of the digest, which must then be given.
    #[inline]
    pub fn each(&self, user: &Uuid, digest: Option<&Uuid>, mut look: impl FnMut(&Row) -> bool) {
        let shows_all = !self.scan.has_keys();
        self.scan.each([user, digest.unwrap_or(user)], |tuple| {
            let row = Row { tuple, columns: self.columns };
            (shows_all && row.tuple.uuid(self.columns.user_id) != Some(*user)) || look(&row)
        });
    }
}

/// A row of a partition, valid until the scan moves on.
pub struct Row<'a> {
    pub tuple: &'a index_scan::Row<'a>,
    pub columns: &'a Columns,
}

impl Row<'_> {
    /// Whether the row is of this entry, not of another one of the user with the same digest.
    #[inline]
    pub fn is_of(&self, address: &Address) -> bool {
        self.tuple.is_text(self.columns.cache_key, address.cache_key)
            && self.tuple.is_text(self.columns.content_type, address.content_type)
    }

    pub fn created_at(&self) -> i64 {
        self.tuple.timestamptz(self.columns.created_at).unwrap_or(i64::MIN)
    }
}
