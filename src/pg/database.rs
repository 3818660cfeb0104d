//! The databases of the server, for a process that is in none of them.

use pgrx::pg_sys;

/// Databases, sorted.
#[derive(Default)]
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
        self.position(database).is_some()
    }

    pub fn position(&self, database: pg_sys::Oid) -> Option<usize> {
        self.0.binary_search(&database.to_u32()).ok()
    }

    pub fn iter(&self) -> impl Iterator<Item = pg_sys::Oid> {
        self.0.iter().map(|database| (*database).into())
    }
}

/// Returns the databases that take connections and are no templates. Called in a transaction.
pub fn usable_databases() -> DatabaseList {
    // A database whose DROP was interrupted cannot be used any more.
    list(|database| {
        let valid = database.datconnlimit != pg_sys::DATCONNLIMIT_INVALID_DB;
        database.datallowconn && !database.datistemplate && valid
    })
}

/// Returns all databases. Called in a transaction.
pub fn all_databases() -> DatabaseList {
    list(|_| true)
}

fn list(is_wanted: impl Fn(&pg_sys::FormData_pg_database) -> bool) -> DatabaseList {
    let mut found = Vec::new();
    // SAFETY: a scan of pg_database, which a process in no database can open, too. A tuple is valid until the next is fetched.
    // The fields read are of fixed length and not NULL.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let relation = pg_sys::table_open(pg_sys::DatabaseRelationId, lock);
        let (no_index, newest) = (pg_sys::InvalidOid, std::ptr::null_mut());
        let scan = pg_sys::systable_beginscan(relation, no_index, false, newest, 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            let database = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>();
            if is_wanted(database) {
                found.push(database.oid.to_u32());
            }
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, lock);
    }
    DatabaseList::new(found)
}

/// Whether a database can be connected to: no session has, or waits for, the lock that DROP, RENAME and a copy by CREATE
/// DATABASE take before they wait until nobody is connected. Called in a transaction: until its end no session gets that lock.
pub fn is_open(database: pg_sys::Oid) -> bool {
    let tag = pg_sys::LOCKTAG {
        locktag_field1: pg_sys::InvalidOid.to_u32(),
        locktag_field2: pg_sys::DatabaseRelationId.to_u32(),
        locktag_field3: database.to_u32(),
        locktag_field4: 0,
        locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
    };
    // SAFETY: the tag is that of a shared object, as SET_LOCKTAG_OBJECT makes it. The call takes the lock that a new connection
    // takes, without waiting, and the end of the transaction releases it.
    let result = unsafe { pg_sys::LockAcquire(&tag, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE, false, true) };
    result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}
