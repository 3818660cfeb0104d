//! The entry index of each partition, as the backend knows it until something about the table, its partitions
//! or roles changes: what a lookup needs to go to the index by itself.

#![allow(unsafe_code)]

use crate::compat;
use crate::home::{self, CACHE, Home};
use crate::partition::catalog::{partitions_of, while_it_stays};
use crate::setting_scope::with_setting;
use crate::spi::{self, Access};
use pgrx::pg_sys;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The columns of a partition that a lookup reads, by number.
#[derive(Clone, Copy)]
pub struct Columns {
    pub content_type: i16,
    pub cache_key: i16,
    pub content: i16,
    pub expires_at: i16,
    pub token_cost: i16,
    pub created_at: i16,
    /// The last of them.
    pub last: i16,
}

#[derive(Clone, Copy)]
pub struct Partition {
    pub table: pg_sys::Oid,
    /// Unique on the user and the digest of the entry.
    pub index: pg_sys::Oid,
    pub columns: Columns,
}

/// What is known of the table.
pub struct Entries {
    pub table: pg_sys::Oid,
    /// The newest first; `None` when a statement has to find the way.
    partitions: Option<Vec<Partition>>,
    schema: pg_sys::Oid,
    home_generation: u64,
    generation: u64,
    /// Whether a role may read the table, all of it, and which role that was last asked of.
    allowed: Cell<(pg_sys::Oid, bool)>,
}

/// Rises with each change that outdates what is known.
static GENERATION: AtomicU64 = AtomicU64::new(1);

thread_local! {
    static ENTRIES: RefCell<Option<Rc<Entries>>> = const { RefCell::new(None) };
    static WATCHED: RefCell<Watched> = const { RefCell::new(Watched::Unknown(Vec::new())) };
}

/// The relations whose change matters.
enum Watched {
    /// These.
    Known(Vec<pg_sys::Oid>),
    /// They are being read; these have changed meanwhile.
    Unknown(Vec<pg_sys::Oid>),
}

/// Has the backend notice changes; called once when the library is loaded.
pub fn watch_for_changes() {
    // With a database goes the membership in pg_database_owner.
    use pg_sys::SysCacheIdentifier::{AUTHMEMMEMROLE, AUTHMEMROLEMEM, AUTHOID, DATABASEOID};
    // SAFETY: the callbacks neither raise nor call PostgreSQL, and live as long as the library, which PostgreSQL
    // never unloads.
    unsafe {
        pg_sys::CacheRegisterRelcacheCallback(Some(relation_changed), pg_sys::Datum::null());
        for cache in [AUTHOID, AUTHMEMMEMROLE, AUTHMEMROLEMEM, DATABASEOID] {
            pg_sys::CacheRegisterSyscacheCallback(cache as i32, Some(role_changed), pg_sys::Datum::null());
        }
    }
}

unsafe extern "C-unwind" fn relation_changed(_arg: pg_sys::Datum, relation: pg_sys::Oid) {
    note_change(relation);
}

fn note_change(relation: pg_sys::Oid) {
    // Who looks seldom is not to keep all that has changed since.
    const MOST: usize = 10_000;
    let matters = WATCHED.with_borrow_mut(|watched| match watched {
        _ if relation == pg_sys::InvalidOid => true,
        Watched::Known(relations) => relations.contains(&relation),
        Watched::Unknown(changed) if changed.len() < MOST => {
            changed.push(relation);
            false
        }
        Watched::Unknown(_) => true,
    });
    if matters {
        GENERATION.fetch_add(1, Relaxed);
    }
}

unsafe extern "C-unwind" fn role_changed(_arg: pg_sys::Datum, _cache: i32, _hash: u32) {
    GENERATION.fetch_add(1, Relaxed);
}

impl Entries {
    /// What is known of the table of the cache.
    ///
    /// # Errors
    /// 42P01 when it does not exist.
    pub fn current(home: &Home) -> Rc<Entries> {
        let known = ENTRIES.with_borrow(|entries| entries.clone());
        known.filter(|entries| entries.is_current()).unwrap_or_else(|| Self::read(home))
    }

    /// Whether nothing has changed that PostgreSQL has told this backend of.
    pub fn is_current(&self) -> bool {
        self.generation == GENERATION.load(Relaxed) && self.home_generation == home::generation()
    }

    fn read(home: &Home) -> Rc<Entries> {
        // A change that comes while the catalog is read outdates what is read. Which relations matter is known at
        // the end only; others are not to have it read again, since in a busy database there is no end of them.
        WATCHED.set(Watched::Unknown(Vec::new()));
        let generation = GENERATION.load(Relaxed);
        let table = home.table(CACHE);
        let tables: Vec<pg_sys::Oid> = partitions_of(table).iter().rev().map(|partition| partition.oid).collect();
        let partitions = partitions(home, table, &tables);
        // A change of an index is told as one of its table.
        let mut watched = tables;
        watched.push(table);
        let before = WATCHED.replace(Watched::Known(watched));
        if let Watched::Unknown(changed) = before {
            changed.into_iter().for_each(note_change);
        }
        let entries = Rc::new(Entries {
            table,
            partitions,
            schema: home.namespace,
            home_generation: home.generation,
            generation,
            allowed: Cell::new((pg_sys::InvalidOid, false)),
        });
        ENTRIES.set(Some(Rc::clone(&entries)));
        entries
    }

    /// The partitions, the newest first, for a lookup that goes to their indexes by itself. `None` when a
    /// statement has to find the way: row security applies to the caller, or there is an error to be raised,
    /// or somebody checks permissions in a way of their own, or wants no index scans.
    pub fn partitions(&self) -> Option<&[Partition]> {
        // SAFETY: reads variables of this backend.
        let (wanted, hook) = unsafe { (pg_sys::enable_indexscan, pg_sys::ExecutorCheckPerms_hook) };
        if !wanted || hook.is_some() {
            return None;
        }
        let partitions = self.partitions.as_ref()?;
        self.may_read_all().then_some(partitions)
    }

    /// Whether the current user may read the table, and row security does not apply.
    fn may_read_all(&self) -> bool {
        const ENABLED: i32 = pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32;
        // SAFETY: reads a variable of this backend.
        let user = unsafe { pg_sys::GetUserId() };
        let (asked_of, allowed) = self.allowed.get();
        if asked_of == user {
            return allowed;
        }
        // SAFETY: lookups in the system caches, for a table and a schema that exist.
        let allowed = unsafe {
            pg_sys::check_enable_rls(self.table, pg_sys::InvalidOid, true) != ENABLED
                && pg_sys::pg_class_aclcheck(self.table, user, compat::SELECT) == pg_sys::AclResult::ACLCHECK_OK
                && compat::may_use_schema(self.schema, user)
        };
        self.allowed.set((user, allowed));
        allowed
    }
}

/// The partitions that are these tables, in the same order. `None` unless each is an ordinary table with a valid
/// entry index and the columns of the cache, and nothing of the whole lies elsewhere.
fn partitions(home: &Home, table: pg_sys::Oid, tables: &[pg_sys::Oid]) -> Option<Vec<Partition>> {
    // A partition that is being detached is there for some snapshots only. One that takes what fits nowhere
    // else has no place among months. The shards of a distributed table are elsewhere.
    const IS_PLAIN: &str = "\
        SELECT FROM pg_partitioned_table t WHERE t.partrelid = $1 AND t.partdefid = 0 \
            AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = t.partrelid AND i.inhdetachpending)";
    const MAY_BE_DISTRIBUTED: &str = "SELECT WHERE to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL AND $1 <> 0";
    const IS_DISTRIBUTED: &str = "SELECT FROM pg_catalog.pg_dist_partition WHERE logicalrelid = $1::regclass";
    // Of the index: on the two columns in the order of their types, complete, and ready for any snapshot.
    const OF_PARTITION: &str = "\
        SELECT x.indexrelid, a.content_type, a.cache_key, a.content, a.expires_at, a.token_cost, a.created_at \
        FROM pg_class c, pg_index x, \
             LATERAL (SELECT min(attnum) FILTER (WHERE attname = 'user_id' AND atttypid = 'uuid'::regtype), \
                             min(attnum) FILTER (WHERE attname = 'content_type' AND atttypid = 'text'::regtype), \
                             min(attnum) FILTER (WHERE attname = 'cache_key' AND atttypid = 'text'::regtype), \
                             min(attnum) FILTER (WHERE attname = 'content' AND atttypid = 'jsonb'::regtype), \
                             min(attnum) FILTER (WHERE attname = 'expires_at' AND atttypid = 'timestamptz'::regtype), \
                             min(attnum) FILTER (WHERE attname = 'token_cost' AND atttypid = 'numeric'::regtype), \
                             min(attnum) FILTER (WHERE attname = 'created_at' AND atttypid = 'timestamptz'::regtype) \
                      FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped) \
                 a (user_id, content_type, cache_key, content, expires_at, token_cost, created_at) \
        WHERE c.oid = $1 AND c.relkind = 'r' AND x.indrelid = c.oid \
          AND x.indisunique AND x.indisvalid AND NOT x.indcheckxmin AND x.indpred IS NULL AND x.indnkeyatts = 2 \
          AND x.indkey::text = a.user_id || ' 0' \
          AND replace(pg_get_indexdef(x.indexrelid, 2, false), '\"', '') LIKE '%cache_entry_digest(content_type, cache_key)' \
          AND EXISTS (SELECT FROM pg_depend d JOIN pg_proc p ON p.oid = d.refobjid \
                      WHERE d.classid = 'pg_class'::regclass AND d.objid = x.indexrelid \
                        AND d.refclassid = 'pg_proc'::regclass AND p.proname = 'cache_entry_digest' AND p.pronamespace = $2) \
          AND NOT EXISTS (SELECT FROM unnest(x.indclass) o JOIN pg_opclass k ON k.oid = o \
                          WHERE k.opcintype <> 'uuid'::regtype OR NOT k.opcdefault) \
          AND EXISTS (SELECT FROM pg_class i JOIN pg_am m ON m.oid = i.relam WHERE i.oid = x.indexrelid AND m.amname = 'btree') \
        ORDER BY x.indexrelid";
    with_setting(c"search_path", "pg_catalog, pg_temp", || {
        let exists = |sql| spi::run(Access::ReadLatest, sql, &[table.into()], |rows| rows.count() > 0);
        if !exists(IS_PLAIN) || (exists(MAY_BE_DISTRIBUTED) && exists(IS_DISTRIBUTED)) {
            return None;
        }
        tables
            .iter()
            .map(|&partition| {
                let args = [partition.into(), home.namespace.into()];
                let read = || {
                    spi::run(Access::ReadLatest, OF_PARTITION, &args, |rows| {
                        let number = |column| if rows.count() > 0 { rows.get::<i16>(0, column) } else { None };
                        let columns = Columns {
                            content_type: number(2)?,
                            cache_key: number(3)?,
                            content: number(4)?,
                            expires_at: number(5)?,
                            token_cost: number(6)?,
                            created_at: number(7)?,
                            last: (2..=7).filter_map(number).max()?,
                        };
                        Some(Partition { table: partition, index: rows.get(0, 1)?, columns })
                    })
                };
                while_it_stays(partition, read).flatten()
            })
            .collect()
    })
}
