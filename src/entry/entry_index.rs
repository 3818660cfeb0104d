//! The entry index of each partition, kept in the backend until the table, its partitions or roles change. A lookup needs
//! it to go to the index without a statement.

use crate::access::row_security::{Visible, can_be_written};
use crate::extension::{CACHE, Extension};
use crate::partition::catalog::{forget_partitions, partitions_of};
use crate::pg::backend;
use crate::pg::function;
use crate::pg::guc::with_setting;
use crate::pg::invalidation::{DEFINITIONS, RELATIONS, ROLES, watch_relations};
use crate::pg::nodes::Expression;
use crate::pg::privileges;
use crate::pg::relation::{self, Index, Relation, default_operator_family, while_it_stays};
use crate::pg::spi::{self, Access};
use pgrx::pg_sys;
use std::cell::{Cell, RefCell};
use std::ffi::CStr;
use std::rc::Rc;

/// The numbers of the columns of a partition by which an entry is found.
#[derive(Clone, Copy)]
pub struct Columns {
    pub user_id: i16,
    pub content_type: i16,
    pub cache_key: i16,
    pub created_at: i16,
    /// The highest number, of these and of `values`.
    pub last: i16,
    /// `None` in an adopted table where one is of another type.
    pub values: Option<Values>,
}

/// The numbers of the columns that a lookup reads, too.
#[derive(Clone, Copy)]
pub struct Values {
    pub id: i16,
    pub content: i16,
    pub expires_at: i16,
    pub token_cost: i16,
}

#[derive(Clone, Copy)]
pub struct Partition {
    pub table: pg_sys::Oid,
    /// The entry index. Each partition that lookups scan without a statement has it.
    pub index: Option<pg_sys::Oid>,
    pub columns: Columns,
}

/// What the backend knows of the table of the cache.
pub struct Entries {
    pub table: pg_sys::Oid,
    /// The newest first; `None` if lookups need a statement.
    partitions: Option<Vec<Partition>>,
    /// Empty unless lookups need a statement.
    tables: Tables,
    generation: Generation,
    /// What the current role may read, and the role that it was read for.
    visible: Cell<(pg_sys::Oid, Visible)>,
    /// What the current role may write, and the role that it was read for.
    writable: Cell<(pg_sys::Oid, Writable)>,
}

/// Which entries a role may write.
#[derive(Clone, Copy)]
pub struct Writable {
    /// By row security.
    pub rows: Visible,
    /// Whether it has the privileges on the table.
    pub is_privileged: bool,
}

/// The tables that hold entries.
#[derive(Default)]
pub struct Tables {
    pub known: Vec<Partition>,
    /// Whether there are others, whose rows lie elsewhere, or whose columns are not those of the cache.
    pub others: bool,
}

/// The generations at which the catalog was read.
#[derive(PartialEq, Eq)]
struct Generation {
    definitions: u64,
    roles: u64,
    relations: u64,
}

impl Generation {
    #[inline]
    fn current() -> Self {
        Self { definitions: DEFINITIONS.current(), roles: ROLES.current(), relations: RELATIONS.current() }
    }
}

thread_local! {
    static ENTRIES: RefCell<Option<Rc<Entries>>> = const { RefCell::new(None) };
}

impl Entries {
    /// Returns what is known of the table of the cache. Reads it anew if it is outdated.
    ///
    /// # Errors
    /// 42P01 if the table does not exist.
    pub fn current(extension: &Extension) -> Rc<Entries> {
        let known = ENTRIES.with_borrow(|entries| entries.clone());
        known.filter(|entries| entries.is_current()).unwrap_or_else(|| Self::read(extension))
    }

    /// Whether PostgreSQL has told this backend of no change since.
    pub fn is_current(&self) -> bool {
        self.generation == Generation::current()
    }

    fn read(extension: &Extension) -> Rc<Entries> {
        let entries = Rc::new(watch_relations(|| {
            let generation = Generation { definitions: extension.generation, ..Generation::current() };
            let table = extension.table(CACHE);
            forget_partitions(table);
            let tables: Vec<pg_sys::Oid> = partitions_of(table).iter().rev().map(|partition| partition.oid).collect();
            let partitions = partitions(extension, table, &tables);
            // PostgreSQL announces a change of an index as one of its table.
            let mut watched = tables;
            watched.push(table);
            let tables = match &partitions {
                Some(_) => Tables::default(),
                None => tables_below(extension, table, &mut watched),
            };
            let visible = Cell::new((pg_sys::InvalidOid, Visible::AskSql));
            let writable = Writable { rows: Visible::AskSql, is_privileged: false };
            let writable = Cell::new((pg_sys::InvalidOid, writable));
            (Entries { table, partitions, tables, generation, visible, writable }, watched)
        }));
        ENTRIES.set(Some(Rc::clone(&entries)));
        entries
    }

    /// Returns the partitions, the newest first, and what the current role may read of them, for a lookup without a
    /// statement. Returns `None` if a statement is needed: policies other than the extension's own apply, an error has to
    /// be raised, a hook checks permissions, or index scans are switched off.
    pub fn partitions(&self, extension: &Extension) -> Option<(&[Partition], Visible)> {
        let by_itself = backend::uses_index_scans()
            && backend::applies_row_security()
            && !backend::ignores_forced_row_security()
            && !backend::has_permission_hook()
            && !backend::has_row_security_hook();
        let partitions = self.partitions.as_ref().filter(|_| by_itself)?;
        let visible = self.visible(extension);
        (visible != Visible::AskSql).then_some((partitions, visible))
    }

    /// Returns every known table with entries, the newest first if they have an order, whatever the caller may see. These
    /// include DEFAULT partitions, tables below a partition, and those without an entry index.
    pub fn tables(&self) -> &[Partition] {
        self.partitions.as_deref().unwrap_or(&self.tables.known)
    }

    /// Whether there are entries in other tables, too.
    pub fn has_others(&self) -> bool {
        self.tables.others
    }

    /// Returns what the current role may write.
    pub fn writable(&self) -> Writable {
        let role = backend::current_user();
        let (asked_of, writable) = self.writable.get();
        if asked_of == role {
            return writable;
        }
        let writable = Writable { rows: can_be_written(self.table), is_privileged: privileges::may_store(self.table) };
        self.writable.set((role, writable));
        writable
    }

    fn visible(&self, extension: &Extension) -> Visible {
        let role = backend::current_user();
        let (asked_of, visible) = self.visible.get();
        if asked_of == role {
            return visible;
        }
        let visible = Visible::to_current_user(extension, self.table);
        self.visible.set((role, visible));
        visible
    }
}

/// Returns these tables as partitions, in the same order. `None` unless each is an ordinary table with a valid entry index
/// and the columns of the cache, and together they hold the whole table.
fn partitions(extension: &Extension, table: pg_sys::Oid, tables: &[pg_sys::Oid]) -> Option<Vec<Partition>> {
    // The caller's search_path must not choose the operators of these statements.
    if !with_setting(c"search_path", "pg_catalog, pg_temp", || is_whole(table) && !is_distributed(table)) {
        return None;
    }
    tables
        .iter()
        .map(|&partition| {
            let described = while_it_stays(partition, |relation| described(extension, relation)).flatten();
            described.filter(|partition| partition.index.is_some() && partition.columns.values.is_some())
        })
        .collect()
}

/// Reads from the catalog which tables hold the rows of a table. Adds all relations of its tree to `watched`.
fn tables_below(extension: &Extension, table: pg_sys::Oid, watched: &mut Vec<pg_sys::Oid>) -> Tables {
    const BELOW: &str = "\
        WITH RECURSIVE below AS ( \
            SELECT $1 AS relid \
            UNION SELECT i.inhrelid FROM pg_inherits i JOIN below b ON i.inhparent = b.relid WHERE NOT i.inhdetachpending) \
        SELECT c.oid, c.relkind <> 'p' FROM below b JOIN pg_class c ON c.oid = b.relid";
    let (below, distributed) = with_setting(c"search_path", "pg_catalog, pg_temp", || {
        let below = spi::run(Access::ReadLatest, BELOW, &[table.into()], |rows| {
            rows.map(|rows, row| (rows.get(row, 1).expect("an OID"), rows.get(row, 2).unwrap_or(false)))
        });
        (below, is_distributed(table))
    });
    let mut tables = Tables { known: Vec::new(), others: distributed };
    for (relation, holds_rows) in below {
        watched.push(relation);
        if holds_rows {
            match while_it_stays(relation, |relation| described(extension, relation)) {
                Some(Some(partition)) => tables.known.push(partition),
                Some(None) => tables.others = true,
                // Another session has dropped it meanwhile.
                None => {}
            }
        }
    }
    tables
}

/// Whether the table is partitioned by created_at, and the partitions with bounds hold all its rows. A DEFAULT partition
/// has no place among the months; one that is being detached is there for some snapshots only.
fn is_whole(table: pg_sys::Oid) -> bool {
    const BY_CREATION: &str = "\
        SELECT FROM pg_partitioned_table t JOIN pg_attribute a ON a.attrelid = t.partrelid AND a.attnum = t.partattrs[0] \
        WHERE t.partrelid = $1 AND t.partstrat = 'r' AND t.partnatts = 1 AND a.attname = 'created_at' \
          AND a.atttypid = 'timestamptz'::regtype";
    spi::run(Access::ReadLatest, BY_CREATION, &[table.into()], |rows| rows.count() > 0)
        && while_it_stays(table, |table| !table.has_irregular_partition()).unwrap_or(false)
}

/// Whether the rows of a table are in shards elsewhere.
fn is_distributed(table: pg_sys::Oid) -> bool {
    const IS_DISTRIBUTED: &str = "SELECT FROM pg_catalog.pg_dist_partition WHERE logicalrelid = $1::regclass";
    let distributes = relation::find(pg_sys::PG_CATALOG_NAMESPACE.into(), c"pg_dist_partition").is_some();
    distributes && spi::run(Access::ReadLatest, IS_DISTRIBUTED, &[table.into()], |rows| rows.count() > 0)
}

/// Describes an ordinary table in which entries can be found; `None` for any other.
fn described(extension: &Extension, table: &Relation) -> Option<Partition> {
    if !table.is_heap() {
        return None;
    }
    let column = |name: &CStr, types: &[pg_sys::Oid]| {
        let column = table.column(name)?;
        (types.contains(&column.type_oid) && !column.is_virtual).then_some(column.number)
    };
    // varchar is stored as text is.
    let text = [pg_sys::TEXTOID, pg_sys::VARCHAROID];
    let user_id = column(c"user_id", &[pg_sys::UUIDOID])?;
    let content_type = column(c"content_type", &text)?;
    let cache_key = column(c"cache_key", &text)?;
    let created_at = column(c"created_at", &[pg_sys::TIMESTAMPTZOID])?;
    let values = || {
        Some(Values {
            id: column(c"id", &[pg_sys::UUIDOID])?,
            content: column(c"content", &[pg_sys::JSONBOID])?,
            expires_at: column(c"expires_at", &[pg_sys::TIMESTAMPTZOID])?,
            token_cost: column(c"token_cost", &[pg_sys::NUMERICOID])?,
        })
    };
    let values = values();
    let of_values =
        values.map_or(0, |values| values.id.max(values.content).max(values.expires_at).max(values.token_cost));
    let last = user_id.max(content_type).max(cache_key).max(created_at).max(of_values);
    let columns = Columns { user_id, content_type, cache_key, created_at, last, values };
    let is_entry_index =
        |index: &pg_sys::Oid| table.index(*index).is_some_and(|index| is_entry_index(extension, &index, &columns));
    let index = table.indexes().into_iter().find(is_entry_index);
    Some(Partition { table: table.oid(), index, columns })
}

/// Whether an index is unique on the user and the digest of the entry, in the default order of their types, not partial,
/// and ready for any snapshot.
fn is_entry_index(extension: &Extension, index: &Index, columns: &Columns) -> bool {
    let of_uuid = default_operator_family(pg_sys::UUIDOID);
    index.is_unique
        && index.is_usable
        && !index.is_partial
        && index.keys == [(columns.user_id, of_uuid), (0, of_uuid)]
        && index.expressions.first().is_some_and(|expression| is_digest(extension, expression, columns))
}

/// Whether an index expression is the digest of content type and key.
fn is_digest(extension: &Extension, expression: &Expression, columns: &Columns) -> bool {
    let Expression::Call(called, arguments) = expression else { return false };
    *arguments == [Expression::Column(columns.content_type), Expression::Column(columns.cache_key)]
        && function::namespace_of(*called) == extension.namespace
        && function::name_of(*called) == "cache_entry_digest"
}
