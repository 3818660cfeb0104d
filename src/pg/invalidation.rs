//! Changes of the catalogs, which the server's invalidation messages tell this backend. Code that keeps something of a catalog
//! keeps the current generation with it, and reads the catalog again when the generation is another. It reads the generation
//! first, because a change can come while the catalog is read.

use pgrx::prelude::*;
use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that rises with each change of one kind.
pub struct Generation(AtomicU64);

impl Generation {
    /// Returns the number as it is now.
    #[inline]
    pub fn current(&self) -> u64 {
        self.0.load(Relaxed)
    }

    fn rise(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// Rises with changes of functions and schemas.
pub static DEFINITIONS: Generation = Generation(AtomicU64::new(1));
/// Rises with changes of roles, their members, and databases, because a database's owner is the member of pg_database_owner.
pub static ROLES: Generation = Generation(AtomicU64::new(1));
/// Rises with changes of the relations that [`watch_relations`] was last told of.
pub static RELATIONS: Generation = Generation(AtomicU64::new(1));

/// Registers the callbacks; called once when the library is loaded.
pub fn watch() {
    use pg_sys::SysCacheIdentifier::{AUTHMEMMEMROLE, AUTHMEMROLEMEM, AUTHOID, DATABASEOID, NAMESPACEOID, PROCOID};
    // SAFETY: the callbacks call nothing of the server's, and live as long as the library, which the server never unloads.
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

/// Reads the messages about what others have committed. The server does so with each lock that is new to a transaction, so a
/// transaction that has all its locks already would hear of nothing.
#[inline]
pub fn accept_messages() {
    // SAFETY: the server calls this itself with each lock, and so at any place in a function.
    unsafe { pg_sys::AcceptInvalidationMessages() };
}

/// Makes this backend read a relation's definition anew when it is next opened.
pub fn forget_relation(relation: pg_sys::Oid) {
    // SAFETY: the server calls this itself with a message about a relation, which may be gone.
    unsafe { pg_sys::RelationCacheInvalidateEntry(relation) };
}

/// The relations whose changes matter.
enum Watched {
    Known(Vec<pg_sys::Oid>),
    /// Not known yet. These relations have changed meanwhile.
    Unknown(Vec<pg_sys::Oid>),
}

thread_local! {
    static WATCHED: RefCell<Watched> = const { RefCell::new(Watched::Unknown(Vec::new())) };
}

/// Runs `read`, which returns what it has read and the relations that this depends on. From the start of the call on,
/// [`RELATIONS`] rises with changes of these relations only. They are known at the end of `read`. Until then all changes are
/// queued, because in a busy database unrelated ones would make the caller read again for ever.
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
    // The queue is bounded, because a backend that has read nothing yet would queue every change for as long as it lives.
    const MOST: usize = 10_000;
    let matters = WATCHED.with_borrow_mut(|watched| match watched {
        // Any relation may have changed.
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
