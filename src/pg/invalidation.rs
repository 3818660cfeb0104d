//! Changes of the catalogs, as the server's invalidation messages tell this backend of them. What is kept of a catalog
//! is kept with the generation that it was read at, and is outdated when there is another. The generation is read first,
//! because a change can come while the catalog is read.

use pgrx::prelude::*;
use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that rises with each change of some kind.
pub struct Generation(AtomicU64);

impl Generation {
    /// The number now.
    #[inline]
    pub fn current(&self) -> u64 {
        self.0.load(Relaxed)
    }

    fn rise(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// Of functions and schemas.
pub static DEFINITIONS: Generation = Generation(AtomicU64::new(1));
/// Of roles, their members, and databases: with a database goes the membership in pg_database_owner.
pub static ROLES: Generation = Generation(AtomicU64::new(1));
/// Of the relations that [`watch_relations`] was last told of.
pub static RELATIONS: Generation = Generation(AtomicU64::new(1));

/// Registers the callbacks; called once when the library is loaded.
pub fn watch() {
    use pg_sys::SysCacheIdentifier::{AUTHMEMMEMROLE, AUTHMEMROLEMEM, AUTHOID, DATABASEOID, NAMESPACEOID, PROCOID};
    // SAFETY: the callbacks call nothing of the server's, and live as long as the library, which it never unloads.
    unsafe {
        pg_sys::CacheRegisterRelcacheCallback(Some(relation_changed), pg_sys::Datum::null());
        for cache in [PROCOID, NAMESPACEOID] {
            pg_sys::CacheRegisterSyscacheCallback(cache as i32, Some(definition_changed), pg_sys::Datum::null());
        }
        for cache in [AUTHOID, AUTHMEMMEMROLE, AUTHMEMROLEMEM, DATABASEOID] {
            pg_sys::CacheRegisterSyscacheCallback(cache as i32, Some(role_changed), pg_sys::Datum::null());
        }
    }
}

/// Takes note of what others have committed. The server does so with each lock that is new to a transaction: one that
/// holds all that it needs would hear of nothing.
#[inline]
pub fn accept_messages() {
    // SAFETY: what the server does itself with each lock, at any place in a function.
    unsafe { pg_sys::AcceptInvalidationMessages() };
}

/// Makes this backend read a relation's definition anew when it is next opened.
pub fn forget_relation(relation: pg_sys::Oid) {
    // SAFETY: what the server does itself with a message about the relation, which may be gone.
    unsafe { pg_sys::RelationCacheInvalidateEntry(relation) };
}

/// The relations whose change matters.
enum Watched {
    /// These.
    Known(Vec<pg_sys::Oid>),
    /// They are being read; these have changed meanwhile.
    Unknown(Vec<pg_sys::Oid>),
}

thread_local! {
    static WATCHED: RefCell<Watched> = const { RefCell::new(Watched::Unknown(Vec::new())) };
}

/// Runs `read`, which returns what it has read and the relations that it depends on; [`RELATIONS`] rises with their changes
/// only, from its start on. Only at its end are they known: until then changes are queued, because in a busy database
/// unrelated ones would have it read for ever.
pub fn watch_relations<T>(read: impl FnOnce() -> (T, Vec<pg_sys::Oid>)) -> T {
    WATCHED.set(Watched::Unknown(Vec::new()));
    let (value, relations) = read();
    let before = WATCHED.replace(Watched::Known(relations));
    if let Watched::Unknown(changed) = before {
        changed.into_iter().for_each(note_change_of_relation);
    }
    value
}

fn note_change_of_relation(relation: pg_sys::Oid) {
    // A backend that looks seldom must not keep all that has changed since.
    const MOST: usize = 10_000;
    let matters = WATCHED.with_borrow_mut(|watched| match watched {
        // All relations.
        _ if relation == pg_sys::InvalidOid => true,
        Watched::Known(relations) => relations.contains(&relation),
        Watched::Unknown(changed) if changed.len() < MOST => {
            changed.push(relation);
            false
        }
        Watched::Unknown(_) => true,
    });
    if matters {
        RELATIONS.rise();
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn relation_changed(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    note_change_of_relation(relation);
}

#[pg_guard]
unsafe extern "C-unwind" fn definition_changed(_argument: pg_sys::Datum, _cache: i32, _hash: u32) {
    DEFINITIONS.rise();
}

#[pg_guard]
unsafe extern "C-unwind" fn role_changed(_argument: pg_sys::Datum, _cache: i32, _hash: u32) {
    ROLES.rise();
}
