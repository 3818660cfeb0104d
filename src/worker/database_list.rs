//! The databases of the server that a worker may connect to, for a process that is in none of them.

#![allow(unsafe_code)]

use pgrx::pg_sys;

/// Databases, sorted.
pub struct DatabaseList(Vec<u32>);

impl DatabaseList {
    pub fn new(mut databases: Vec<u32>) -> Self {
        databases.sort_unstable();
        Self(databases)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn contains(&self, database: pg_sys::Oid) -> bool {
        self.place_of(database).is_some()
    }

    pub fn place_of(&self, database: pg_sys::Oid) -> Option<usize> {
        self.0.binary_search(&database.to_u32()).ok()
    }

    pub fn iter(&self) -> impl Iterator<Item = pg_sys::Oid> {
        self.0.iter().map(|database| (*database).into())
    }
}

/// Databases that take connections and are no templates. Called in a transaction.
pub fn databases() -> DatabaseList {
    let mut found = Vec::new();
    // SAFETY: a scan of pg_database, which every process can open; the tuples are valid until the next is
    // fetched, and the fields read are of fixed length and not NULL.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let relation = pg_sys::table_open(pg_sys::DatabaseRelationId, lock);
        let scan = pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            let database = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>();
            // One whose DROP was interrupted cannot be used any more.
            let valid = database.datconnlimit != pg_sys::DATCONNLIMIT_INVALID_DB;
            if database.datallowconn && !database.datistemplate && valid {
                found.push(database.oid.to_u32());
            }
        }
        pg_sys::table_endscan(scan);
        pg_sys::table_close(relation, lock);
    }
    DatabaseList::new(found)
}
