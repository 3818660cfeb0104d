//! The partitions that a table has, as the server's own cache of them tells.

#![allow(unsafe_code)]

use crate::pg::{invalidation, relation};
use pgrx::pg_sys;

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
    const DATUM_VALUE: i32 = pg_sys::PartitionRangeDatumKind::PARTITION_RANGE_DATUM_VALUE;
    // SAFETY: the relation is open while its partition descriptor, which lives as long, is read. Of a
    // range the entry i of `indexes` names the partition between the bounds i-1 and i, -1 a gap.
    unsafe {
        let relation = pg_sys::relation_open(parent, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        let mut partitions = Vec::new();
        let descriptor = if (*(*relation).rd_rel).relkind as u8 == pg_sys::RELKIND_PARTITIONED_TABLE {
            pg_sys::RelationGetPartitionDesc(relation, true)
        } else {
            std::ptr::null_mut()
        };
        // Without partitions there are no bounds; only those of ranges have kinds.
        let bounds = descriptor.as_ref().map_or(std::ptr::null_mut(), |descriptor| descriptor.boundinfo);
        if bounds.as_ref().is_some_and(|bounds| !bounds.kind.is_null()) {
            let bound = |index: usize| -> i64 {
                match **(*bounds).kind.add(index) as i32 {
                    DATUM_VALUE => (**(*bounds).datums.add(index)).value() as i64,
                    kind if kind < DATUM_VALUE => i64::MIN,
                    _ => i64::MAX,
                }
            };
            for index in 1..(*bounds).ndatums as usize {
                let partition = *(*bounds).indexes.add(index);
                if partition >= 0 {
                    let oid = *(*descriptor).oids.add(partition as usize);
                    partitions.push(Partition { oid, from: bound(index - 1), to: bound(index) });
                }
            }
        }
        pg_sys::relation_close(relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        partitions
    }
}
