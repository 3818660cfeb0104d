//! The partitions that a table has, as the server's own cache of them tells.

use crate::pg::{invalidation, relation};
use pgrx::pg_sys;

/// The partitions of all tables with their bounds: a query, for reports, which join them with what else they read. It has to
/// take the bounds from text. Lookups, upserts and maintenance call [`partitions_of`], which runs no statement, and sees a
/// partition that was attached after the caller's snapshot.
pub const PARTITIONS: &str = include_str!("../../sql/reports/partitions.sql");

/// The partitions of the cache that have their entry index, as `indrelid`: a query.
pub const ENTRY_INDEXES: &str = include_str!("../../sql/reports/entry_indexes.sql");

/// A partition and the timestamps it holds, in microseconds since 2000-01-01 UTC.
#[derive(Clone, Copy, Debug)]
pub struct Partition {
    pub oid: pg_sys::Oid,
    /// The first microsecond; `i64::MIN` for MINVALUE.
    pub from: i64,
    /// The first microsecond after it; `i64::MAX` for MAXVALUE.
    pub to: i64,
}

impl Partition {
    pub fn holds(&self, timestamp: i64) -> bool {
        self.from <= timestamp && timestamp < self.to
    }

    /// The partition's name, without its schema.
    pub fn name(&self) -> String {
        relation::name_of(self.oid)
    }
}

/// Makes this backend read the partitions of a table anew when they are next asked for. A backend that reads them while
/// another attaches one can keep the list without it: the news comes in the middle of the reading, and is forgotten
/// when what was read is stored. Statements then do not see the partition, whatever is in it.
pub fn forget_partitions(parent: pg_sys::Oid) {
    invalidation::accept_messages();
    invalidation::forget_relation(parent);
}

/// The partitions of a table partitioned by a range of one timestamp, oldest first; none of any other table. A
/// DEFAULT partition, which holds no range, is left out.
pub fn partitions_of(parent: pg_sys::Oid) -> Vec<Partition> {
    let partition = |(oid, from, to)| Partition { oid, from, to };
    relation::range_partitions(parent).into_iter().map(partition).collect()
}
