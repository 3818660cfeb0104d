//! The partitions that a table has, as the server's own cache of them tells.

#![allow(unsafe_code)]

use crate::error::Refusal;
use crate::pg::invalidation;
use crate::pg::spi::{self, Access};
use pgrx::{PgSqlErrorCode, pg_sys};

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
        relation_name(self.oid)
    }
}

/// The name of a relation, without its schema.
pub fn relation_name(relation: pg_sys::Oid) -> String {
    // SAFETY: get_rel_name returns a palloc'd string, or NULL when the relation is gone.
    unsafe {
        let name = pg_sys::get_rel_name(relation);
        if name.is_null() {
            relation.to_u32().to_string()
        } else {
            std::ffi::CStr::from_ptr(name).to_string_lossy().into_owned()
        }
    }
}

/// Runs `f` with a relation locked, so that it stays what it is meanwhile: the server shows no definition, as of an
/// index, when a table goes while it looks. `None` when it is gone.
pub fn while_it_stays<T>(relation: pg_sys::Oid, f: impl FnOnce(pg_sys::Relation) -> T) -> Option<T> {
    const LOCK: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    // SAFETY: what is not NULL is open until it is closed; an error closes it.
    unsafe {
        let open = pg_sys::try_relation_open(relation, LOCK);
        if open.is_null() {
            return None;
        }
        let result = f(open);
        pg_sys::relation_close(open, LOCK);
        Some(result)
    }
}

/// Whether this transaction has made a relation, so that nobody else knows it yet.
pub fn is_of_this_transaction(relation: pg_sys::Oid) -> bool {
    // SAFETY: the relation is open.
    while_it_stays(relation, |relation| unsafe { (*relation).rd_createSubid != 0 }).unwrap_or(false)
}

/// The name of a relation with its schema, quoted for use in a statement.
///
/// # Errors
/// 42P01 when somebody has dropped it meanwhile.
pub fn qualified_name(relation: pg_sys::Oid) -> String {
    spi::run(
        Access::ReadLatest,
        "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1",
        &[relation.into()],
        |rows| if rows.count() > 0 { rows.get(0, 1) } else { None },
    )
    .unwrap_or_else(|| {
        Refusal::new(PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE, format!("the relation with OID {relation} is gone"))
            .detail("Somebody has dropped it meanwhile.")
            .hint("Try again.")
            .raise()
    })
}

/// The name of a function, without its schema.
pub fn function_name(function: pg_sys::Oid) -> String {
    // SAFETY: get_func_name returns a palloc'd string for a function that exists, as one being called does.
    unsafe { std::ffi::CStr::from_ptr(pg_sys::get_func_name(function)).to_string_lossy().into_owned() }
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
