//! Finds entries without a statement: through the entry index of each partition, the newest first. A scan sees what the
//! caller's snapshot shows, and takes the locks that a statement would, until the end of the transaction.

use super::entry_index::Values;
use super::user_rows::{Row, Scan, scan_tables};
use crate::access::row_security::Visible;
use crate::access::tenant;
use crate::address::Address;
use crate::pg::clock;
use crate::pg::jsonb::RawJsonb;
use crate::pg::memory::Memory;
use crate::pg::snapshot::Snapshot;
use crate::statistics::tokens::Tokens;
use crate::statistics::{Found, Hit};
use std::cell::Cell;

/// Finds the newest version of each entry that has one, as the snapshot shows it, and calls `found` with the number of its
/// address and what `read` makes of the version. Fastest in the order of users and digests. Returns false if the caller must use
/// a statement instead.
pub fn newest<T>(
    snapshot: Snapshot<'_>,
    addresses: &[&Address],
    read: impl Fn(&Row) -> T,
    mut found: impl FnMut(usize, T),
) -> bool {
    let mut missing: Vec<usize> = (0..addresses.len()).collect();
    // The only user whose entries the caller may see, unless it may see all.
    let only = Cell::new(None);
    let visit = |scan: &Scan| {
        let only = only.get();
        missing.retain(|&number| {
            let address = addresses[number];
            if only.is_some_and(|user| user != Some(address.user_id)) {
                return true;
            }
            let mut is_missing = true;
            scan.each(&address.user_id, Some(&address.digest), |row| {
                if row.is_of(address) {
                    found(number, read(row));
                    is_missing = false;
                }
                is_missing
            });
            is_missing
        });
        !missing.is_empty()
    };
    let entries = scan_tables(
        snapshot,
        true,
        |extension, entries| {
            let (partitions, visible) = entries.partitions(extension)?;
            only.set((visible == Visible::OwnEntries).then(tenant::cache_current_user_id));
            Some(partitions)
        },
        visit,
    );
    entries.is_some()
}

/// Reads what a lookup needs of a version.
pub fn found<'a>(row: &Row, memory: Memory<'a>) -> Found<RawJsonb<'a>> {
    let columns = values(row);
    if row.tuple.timestamptz(columns.expires_at).is_none_or(|moment| moment <= clock::now()) {
        return Found::Expired;
    }
    let Some(content) = row.tuple.jsonb(columns.content, memory) else { return Found::Expired };
    Found::Live(content, hit(row))
}

/// Returns the columns of a row that a lookup reads.
pub fn values<'a>(row: &Row<'a>) -> &'a Values {
    row.columns.values.as_ref().expect("lookups scan only partitions that have these columns")
}

pub fn hit(row: &Row) -> Hit {
    let columns = values(row);
    let cost = row.tuple.numeric(columns.token_cost).map(Tokens::of_double);
    Hit { id: row.tuple.uuid(columns.id), cost }
}
