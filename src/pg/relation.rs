//! Relations: their names, and the definition of one that is locked while we read it.

use super::nodes::Expression;
use super::scope::Scope;
use super::spi::{self, Access};
use super::version;
use crate::error::Refusal;
use pgrx::datum::FromDatum;
use pgrx::{PgList, PgSqlErrorCode, pg_sys};
use std::ffi::CStr;

const LOCK: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
const KEEP_LOCK: pg_sys::LOCKMODE = pg_sys::NoLock as pg_sys::LOCKMODE;

/// A relation that is open, and locked as for a statement that reads it.
pub struct Relation(pg_sys::Relation);

/// Runs `f` with a relation locked, because the server cannot show the definition of a table or an index that is dropped
/// meanwhile. Returns `None` when the relation is gone.
pub fn while_it_stays<T>(relation: pg_sys::Oid, f: impl FnOnce(&Relation) -> T) -> Option<T> {
    open(relation, LOCK, f)
}

/// Runs `f` as [`while_it_stays`] does, and keeps the lock until the end of the transaction, as a statement keeps it.
#[inline]
pub fn locked<T>(relation: pg_sys::Oid, f: impl FnOnce(&Relation) -> T) -> Option<T> {
    open(relation, KEEP_LOCK, f)
}

#[inline]
fn open<T>(relation: pg_sys::Oid, unlock: pg_sys::LOCKMODE, f: impl FnOnce(&Relation) -> T) -> Option<T> {
    // SAFETY: a relation that is not NULL is open until it is closed here, or after an ERROR by the resource owner.
    unsafe {
        let open = pg_sys::try_relation_open(relation, LOCK);
        if open.is_null() {
            return None;
        }
        let scope = Scope::begin();
        let result = f(&Relation(open));
        drop(scope);
        pg_sys::relation_close(open, unlock);
        Some(result)
    }
}

/// Returns the relation of a name in a schema, if there is one.
pub fn find(schema: pg_sys::Oid, name: &CStr) -> Option<pg_sys::Oid> {
    // SAFETY: a lookup in a system cache by a NUL-terminated name.
    let relation = unsafe { pg_sys::get_relname_relid(name.as_ptr(), schema) };
    (relation != pg_sys::InvalidOid).then_some(relation)
}

/// A column of a relation.
#[derive(Clone, Copy)]
pub struct Column {
    /// The first is 1.
    pub number: i16,
    pub type_oid: pg_sys::Oid,
    /// Whether the column is generated when it is read, so that rows do not hold it.
    pub is_virtual: bool,
}

/// A policy of row security.
pub struct Policy {
    /// The letter of the command in pg_policy; `*` = all.
    pub command: u8,
    pub is_permissive: bool,
    /// The roles that the policy applies to; `InvalidOid` stands for PUBLIC.
    pub roles: Vec<pg_sys::Oid>,
    pub using: Option<Expression>,
    pub with_check: Option<Expression>,
}

/// A B-tree index.
pub struct Index {
    pub is_unique: bool,
    /// Whether the index is valid, and complete for any snapshot.
    pub is_usable: bool,
    pub is_partial: bool,
    /// Each key: the number of its column in the table, 0 for an expression, and the operator family.
    pub keys: Vec<(i16, pg_sys::Oid)>,
    pub expressions: Vec<Expression>,
}

/// Returns the operator family that B-tree indexes on a type have by default.
pub fn default_operator_family(of_type: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: lookups in the system caches.
    unsafe { pg_sys::get_opclass_family(pg_sys::GetDefaultOpClass(of_type, pg_sys::BTREE_AM_OID)) }
}

impl Relation {
    #[inline]
    pub(super) fn raw(&self) -> pg_sys::Relation {
        self.0
    }

    #[inline]
    pub fn oid(&self) -> pg_sys::Oid {
        // SAFETY: the relation is open.
        unsafe { (*self.0).rd_id }
    }

    /// Whether the relation is an ordinary table whose rows lie in a heap.
    #[inline]
    pub fn is_heap(&self) -> bool {
        // SAFETY: the relation is open.
        unsafe {
            let class = (*self.0).rd_rel;
            (*class).relkind as u8 == pg_sys::RELKIND_RELATION && (*class).relam == pg_sys::HEAP_TABLE_AM_OID
        }
    }

    /// Whether row security restricts the owner, too (FORCE ROW LEVEL SECURITY).
    pub fn forces_row_security(&self) -> bool {
        // SAFETY: the relation is open.
        unsafe { (*(*self.0).rd_rel).relforcerowsecurity }
    }

    pub fn column(&self, name: &CStr) -> Option<Column> {
        // SAFETY: the relation is open. A number above 0 is that of a column of its description.
        unsafe {
            let description = (*self.0).rd_att;
            let number = pg_sys::SPI_fnumber(description, name.as_ptr());
            (number > 0).then(|| {
                let attribute = version::attribute(description, number as usize - 1);
                let is_virtual = (*attribute).attgenerated as u8 == b'v';
                Column { number: number as i16, type_oid: (*attribute).atttypid, is_virtual }
            })
        }
    }

    /// Returns the indexes of the relation.
    pub fn indexes(&self) -> Vec<pg_sys::Oid> {
        // SAFETY: the relation is open, and the server returns a copy of its list.
        unsafe { PgList::<pg_sys::Oid>::from_pg(pg_sys::RelationGetIndexList(self.0)).iter_oid().collect() }
    }

    /// Reads the definition of one of the relation's indexes; `None` if it is no B-tree.
    pub fn index(&self, index: pg_sys::Oid) -> Option<Index> {
        // SAFETY: an index cannot be dropped while its table is locked. An open index has its row of pg_index, and arrays with
        // an element for each of its columns.
        unsafe {
            let open = pg_sys::index_open(index, LOCK);
            let definition = &*(*open).rd_index;
            let index = ((*(*open).rd_rel).relam == pg_sys::BTREE_AM_OID).then(|| {
                let keys = definition.indnkeyatts as usize;
                let columns = definition.indkey.values.as_slice(keys);
                Index {
                    is_unique: definition.indisunique,
                    is_usable: definition.indisvalid && !definition.indcheckxmin,
                    is_partial: !pg_sys::RelationGetIndexPredicate(open).is_null(),
                    keys: (0..keys).map(|key| (columns[key], *(*open).rd_opfamily.add(key))).collect(),
                    expressions: Expression::of_each(pg_sys::RelationGetIndexExpressions(open)),
                }
            });
            pg_sys::index_close(open, LOCK);
            index
        }
    }

    /// Reads the policies of the relation's row security.
    pub fn policies(&self) -> Vec<Policy> {
        // SAFETY: the server keeps the policies of a relation that is open. Their expressions are whole, and their roles are an
        // array of oid without NULLs.
        unsafe {
            let Some(described) = (*self.0).rd_rsdesc.as_ref() else { return Vec::new() };
            let expression = |node: *const pg_sys::Expr| (!node.is_null()).then(|| Expression::of(node.cast()));
            let policy = |policy: *mut pg_sys::RowSecurityPolicy| Policy {
                command: (*policy).polcmd as u8,
                is_permissive: (*policy).permissive,
                roles: Vec::from_datum(pg_sys::Datum::from((*policy).roles), false).unwrap_or_default(),
                using: expression((*policy).qual),
                with_check: expression((*policy).with_check_qual),
            };
            PgList::from_pg(described.policies).iter_ptr().map(policy).collect()
        }
    }

    /// Returns the partitions of a table that is partitioned by a range of one timestamp, oldest first, each with its first
    /// moment and the first moment after it. Any other table has none. MINVALUE and MAXVALUE become those of `i64`. A DEFAULT
    /// partition has no range, and is left out.
    pub fn range_partitions(&self) -> Vec<(pg_sys::Oid, i64, i64)> {
        const DATUM_VALUE: i32 = pg_sys::PartitionRangeDatumKind::PARTITION_RANGE_DATUM_VALUE;
        let Some(descriptor) = self.partition_descriptor() else { return Vec::new() };
        // SAFETY: the descriptor lives as long as the relation is open. A table without partitions has no bounds, and only
        // bounds of ranges have kinds. `indexes[i]` is the partition between the bounds i-1 and i; -1 is a gap.
        unsafe {
            let Some(bounds) = (*descriptor).boundinfo.as_ref().filter(|bounds| !bounds.kind.is_null()) else {
                return Vec::new();
            };
            let bound = |index: usize| -> i64 {
                match **bounds.kind.add(index) {
                    DATUM_VALUE => (**bounds.datums.add(index)).value() as i64,
                    kind if kind < DATUM_VALUE => i64::MIN,
                    _ => i64::MAX,
                }
            };
            let partition = |index: usize| {
                let partition = *bounds.indexes.add(index);
                (partition >= 0).then(|| (*(*descriptor).oids.add(partition as usize), bound(index - 1), bound(index)))
            };
            (1..bounds.ndatums as usize).filter_map(partition).collect()
        }
    }

    /// Whether a partition of the table is being detached, or is its DEFAULT partition.
    pub fn has_irregular_partition(&self) -> bool {
        // SAFETY: the descriptor lives as long as the relation is open.
        self.partition_descriptor().is_some_and(|descriptor| unsafe {
            let bounds = (*descriptor).boundinfo;
            (*descriptor).detached_exist || (!bounds.is_null() && (*bounds).default_index >= 0)
        })
    }

    fn partition_descriptor(&self) -> Option<pg_sys::PartitionDesc> {
        // SAFETY: the relation is open. Only a partitioned table has a descriptor.
        unsafe {
            ((*(*self.0).rd_rel).relkind as u8 == pg_sys::RELKIND_PARTITIONED_TABLE)
                .then(|| pg_sys::RelationGetPartitionDesc(self.0, true))
        }
    }
}

/// Returns the partitions of a table: see [`Relation::range_partitions`].
///
/// # Errors
/// 42P01 when another session has dropped the table meanwhile.
pub fn range_partitions(table: pg_sys::Oid) -> Vec<(pg_sys::Oid, i64, i64)> {
    while_it_stays(table, Relation::range_partitions).unwrap_or_else(|| gone(table))
}

/// Whether this transaction has created a relation, so that no other session sees it yet.
pub fn is_of_this_transaction(relation: pg_sys::Oid) -> bool {
    // SAFETY: the relation is open.
    while_it_stays(relation, |relation| unsafe { (*relation.0).rd_createSubid != 0 }).unwrap_or(false)
}

/// Returns the name of a relation, without its schema, or its OID when it is gone.
pub fn name_of(relation: pg_sys::Oid) -> String {
    // SAFETY: get_rel_name returns a palloc'd string, or NULL when the relation is gone.
    unsafe {
        let name = pg_sys::get_rel_name(relation);
        if name.is_null() { relation.to_u32().to_string() } else { CStr::from_ptr(name).to_string_lossy().into_owned() }
    }
}

/// Returns the name of a relation with its schema, quoted for use in a statement.
///
/// # Errors
/// 42P01 when another session has dropped the relation meanwhile.
pub fn qualified_name(relation: pg_sys::Oid) -> String {
    spi::run(
        Access::ReadLatest,
        "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1",
        &[relation.into()],
        |rows| if rows.count() > 0 { rows.get(0, 1) } else { None },
    )
    .unwrap_or_else(|| gone(relation))
}

fn gone(relation: pg_sys::Oid) -> ! {
    Refusal::new(PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE, format!("the relation with OID {relation} is gone"))
        .detail("Somebody has dropped it meanwhile.")
        .hint("Try again.")
        .raise()
}

/// Whether a relation has a column.
pub fn has_column(relation: pg_sys::Oid, name: &std::ffi::CStr) -> bool {
    // SAFETY: a lookup in a system cache by a NUL-terminated name, which finds nothing for a relation that is gone.
    unsafe { pg_sys::get_attnum(relation, name.as_ptr()) > 0 }
}
