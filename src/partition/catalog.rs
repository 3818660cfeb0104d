//! Reads which partitions a table has, from the server's relation cache.

use crate::pg::{invalidation, relation};
use pgrx::pg_sys;

/// A query for the partitions of all tables with their bounds, which reports join with other tables. It takes the bounds
/// from text. Lookups, upserts and maintenance call [`partitions_of`], which runs no statement, and sees a partition that
/// was attached after the caller's snapshot.
pub const PARTITIONS: &str = include_str!("../../sql/reports/partitions.sql");

/// A query for the partitions of the cache that have their entry index, as `indrelid`.
pub const ENTRY_INDEXES: &str = include_str!("../../sql/reports/entry_indexes.sql");

/// A partition and its bounds, in microseconds since 2000-01-01 UTC.
#[derive(Clone, Copy, Debug)]
pub struct Partition {
    pub oid: pg_sys::Oid,
    /// The first timestamp that it holds; `i64::MIN` for MINVALUE.
    pub from: i64,
    /// The first timestamp after those; `i64::MAX` for MAXVALUE.
    pub to: i64,
}

impl Partition {
    pub fn holds(&self, timestamp: i64) -> bool {
        self.from <= timestamp && timestamp < self.to
    }

    /// Returns the partition's name, without its schema.
    pub fn name(&self) -> String {
        relation::name_of(self.oid)
    }
}

/// Makes this backend read the partitions of a table anew at their next use. A backend may keep a list without a partition
/// that was attached while it read the list: the invalidation comes in the middle, and is forgotten when the list is
/// stored. Statements would then never see that partition.
pub fn forget_partitions(parent: pg_sys::Oid) {
    invalidation::accept_messages();
    invalidation::forget_relation(parent);
}

/// Returns the partitions of a table partitioned by a range of one timestamp, oldest first; none of any other table. Leaves
/// out a DEFAULT partition, because it holds no range.
pub fn partitions_of(parent: pg_sys::Oid) -> Vec<Partition> {
    let partition = |(oid, from, to)| Partition { oid, from, to };
    relation::range_partitions(parent).into_iter().map(partition).collect()
}
