//! The extension in this database: its schema, which holds its functions, views and tables, and how its statements run. The
//! schema is looked up once and kept until a function or a schema of the database changes, so that the next call notices a
//! renamed schema, or an extension that was created anew elsewhere.

pub mod grant_hint;
pub mod locks;
pub mod saved_plan;

use crate::error::Refusal;
use crate::pg::invalidation::DEFINITIONS;
use crate::pg::relation;
use crate::pg::spi::{self, Access};
use crate::pg::table_lock;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::RefCell;
use std::rc::Rc;

/// The cached entries, the parent of their partitions.
pub const CACHE: &str = "infinite_pages_cache_partitioned";
/// The audit log, the parent of its partitions.
pub const AUDIT_LOG: &str = "cache_audit_log";
/// Archived months of the audit log; exists once there are any.
pub const AUDIT_ARCHIVE: &str = "cache_audit_archive";
/// Content policies.
pub const POLICIES: &str = "cache_content_policies";
/// The table behind the view cache_maintenance_log.
pub const RUNS: &str = "cache_maintenance_runs";
/// The counters of each hour.
pub const STATISTICS: &str = "cache_statistics_hourly";
/// Entries of a large cache by partition and content type.
pub const BY_TYPE: &str = "cache_entry_summary";
/// Entries of a large cache by user.
pub const BY_USER: &str = "cache_user_summary";
/// Every table but the archive, which comes later.
pub const TABLES: [&str; 7] = [CACHE, AUDIT_LOG, POLICIES, RUNS, STATISTICS, BY_TYPE, BY_USER];

/// The extension's schema.
pub struct Extension {
    /// The schema's OID.
    pub namespace: pg_sys::Oid,
    /// The schema's name, quoted for use in a statement.
    pub schema: String,
    /// The generation of [`DEFINITIONS`]. A saved plan of another generation must be made anew, because it names the schema.
    pub generation: u64,
}

thread_local! {
    static KNOWN: RefCell<Option<Rc<Extension>>> = const { RefCell::new(None) };
}

impl Extension {
    /// Returns the schema that the extension is in now.
    ///
    /// # Errors
    /// 55000 if the extension is not installed in this database.
    pub fn current() -> Rc<Extension> {
        Self::find().unwrap_or_else(|| {
            Refusal::new(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "infinite_pages_cache is not installed in this database",
            )
            .hint("Run CREATE EXTENSION infinite_pages_cache.")
            .raise()
        })
    }

    /// As [`Self::current`], but `None` if the extension is not installed in this database.
    pub fn find() -> Option<Rc<Extension>> {
        // Read first, so that a change during the read of the catalog outdates the result.
        let generation = DEFINITIONS.current();
        if let Some(extension) =
            KNOWN.with_borrow(|extension| extension.clone().filter(|extension| extension.generation == generation))
        {
            return Some(extension);
        }
        let extension = spi::run(
            Access::ReadLatest,
            "SELECT e.extnamespace, pg_catalog.quote_ident(n.nspname) \
             FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace \
             WHERE e.extname OPERATOR(pg_catalog.=) 'infinite_pages_cache'",
            &[],
            |rows| (rows.count() > 0).then(|| (rows.get(0, 1), rows.get(0, 2))),
        );
        let Some((Some(namespace), Some(schema))) = extension else { return None };
        let extension = Rc::new(Extension { namespace, schema, generation });
        KNOWN.set(Some(Rc::clone(&extension)));
        Some(extension)
    }

    /// Returns the OID of one of the extension's tables, if it exists.
    pub fn find_table(&self, name: &str) -> Option<pg_sys::Oid> {
        let name = std::ffi::CString::new(name).expect("a table name has no NUL byte");
        relation::find(self.namespace, &name)
    }

    /// Locks one of the extension's tables as SELECT does, and returns its OID; `None` if it does not exist, or if another session
    /// has locked it, because a lookup waits for nobody.
    pub fn try_lock_to_read(&self, name: &str) -> Option<pg_sys::Oid> {
        let table = self.find_table(name).filter(|table| table_lock::try_lock_to_read(*table))?;
        // It may have been dropped before it was locked.
        (self.find_table(name) == Some(table)).then_some(table)
    }

    /// Whether the extension has a function, because its SQL may be of an older version than its library.
    pub fn has_function(&self, name: &str) -> bool {
        spi::run(
            Access::ReadLatest,
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.pronamespace OPERATOR(pg_catalog.=) $1 \
             AND p.proname OPERATOR(pg_catalog.=) $2::pg_catalog.name)",
            &[self.namespace.into(), name.into()],
            |rows| rows.get(0, 1).unwrap_or(false),
        )
    }

    /// Returns the OID of one of the extension's tables.
    ///
    /// # Errors
    /// 42P01 if it does not exist, with the way to create it.
    pub fn table(&self, name: &str) -> pg_sys::Oid {
        self.find_table(name).unwrap_or_else(|| {
            Refusal::new(
                PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
                format!("table {}.{name} does not exist", self.schema),
            )
            .detail("The cache has not been set up in this database, or its table was dropped or moved.")
            .hint(format!("Run SELECT {}.cache_setup() as the owner of the database.", self.schema))
            .raise()
        })
    }
}
