//! Counters of each type of content, since the server started. A type gets its place when it is first
//! counted and keeps it; when all places are taken, the others of a database are counted together.

#![allow(unsafe_code)]

use super::at_commit::drained_counters;
use super::histogram::{BUCKETS, bucket_of};
use crate::settings;
use crate::shared_memory::{Area, Lock};
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering::Relaxed};

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Count {
    Hits,
    Misses,
    /// Misses for which there was an entry that has expired.
    Stale,
    Upserts,
    Invalidations,
    Expirations,
    /// Whole units of each cost; what a cost has beyond them is counted in millionths.
    TokensSpent,
    MillionthsSpent,
    TokensSaved,
    MillionthsSaved,
    /// Hits that found no place among those counted by entry.
    UntrackedHits,
    /// Reads whose audit was overwritten before it was stored.
    AuditLost,
}

/// How long something took.
#[derive(Clone, Copy)]
pub enum Latency {
    Lookup,
    Upsert,
}

/// Counters that are not latencies.
pub const PLAIN: usize = 12;
/// All counters of a type: the plain ones, then a histogram for each [`Latency`].
pub const COUNTERS: usize = PLAIN + 2 * BUCKETS;
/// Where a counter stops; SQL's bigint holds no more.
pub const MOST: u64 = i64::MAX as u64;

pub type Values = [u64; COUNTERS];

/// Longest name of a content type, in bytes.
const NAME: usize = 255;

/// The counters of one type of content in one database. One with an empty name, which no type has, counts
/// all that found no place of their own.
#[repr(C)]
pub struct Place {
    database: pg_sys::Oid,
    name: [u8; NAME],
    length: u8,
    now: [AtomicU64; COUNTERS],
    /// What of it has been stored in the roll-up.
    drained: [AtomicU64; COUNTERS],
}

static PLACES: AtomicPtr<Place> = AtomicPtr::new(std::ptr::null_mut());
/// A tag for each place, close together so that all are soon looked through; 0 is a free place's.
static TAGS: AtomicPtr<AtomicU32> = AtomicPtr::new(std::ptr::null_mut());
static LOCK: AtomicPtr<pg_sys::LWLockPadded> = AtomicPtr::new(std::ptr::null_mut());

pub const AREA: Area = Area {
    name: c"infinite_pages_cache counters",
    bytes: || number_of_places() * (size_of::<Place>() + size_of::<AtomicU32>()),
    locks: || 1,
    start: |memory, locks| {
        PLACES.store(memory.cast(), Relaxed);
        TAGS.store(memory.wrapping_add(number_of_places() * size_of::<Place>()).cast(), Relaxed);
        LOCK.store(locks, Relaxed);
    },
};

/// Places for content types; those behind them are for all others of a database.
fn capacity() -> usize {
    settings::MAX_TRACKED_CONTENT_TYPES.get() as usize
}

fn number_of_places() -> usize {
    const DATABASES: usize = 64;
    capacity() + DATABASES
}

/// Whether there is shared memory to count in.
pub fn are_on() -> bool {
    !PLACES.load(Relaxed).is_null()
}

fn places() -> &'static [Place] {
    let places = PLACES.load(Relaxed);
    if places.is_null() {
        return &[];
    }
    // SAFETY: the area holds as many places as the setting says, which cannot change while the server runs,
    // all zeros or valid. Name and database of a place change under the exclusive lock only.
    unsafe { std::slice::from_raw_parts(places, number_of_places()) }
}

fn tags() -> &'static [AtomicU32] {
    if !are_on() {
        return &[];
    }
    // SAFETY: the tags follow the places in the area, one for each.
    unsafe { std::slice::from_raw_parts(TAGS.load(Relaxed), number_of_places()) }
}

/// FNV-1a, which needs no key: a type's name is no secret, and a false match costs one comparison.
fn tag_of(database: pg_sys::Oid, name: &[u8]) -> u32 {
    let bytes = database.to_u32().to_ne_bytes();
    let hash = bytes
        .iter()
        .chain(name)
        .fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    hash.max(1)
}

fn lock() -> Lock {
    // SAFETY: the area has one lock.
    unsafe { Lock::of(LOCK.load(Relaxed), 0) }
}

impl Place {
    fn holds(&self, database: pg_sys::Oid, name: &[u8]) -> bool {
        self.database == database && self.name() == name
    }

    fn name(&self) -> &[u8] {
        &self.name[..self.length as usize]
    }

    pub fn add(&self, count: Count, number: u64) {
        if number > 0 {
            add(&self.now[count as usize], number);
        }
    }

    /// Takes back what was counted in error, and has not been stored.
    pub fn take_back(&self, count: Count, number: u64) {
        self.now[count as usize].fetch_sub(number, Relaxed);
    }

    pub fn took(&self, latency: Latency, microseconds: u64) {
        add(&self.now[PLAIN + latency as usize * BUCKETS + bucket_of(microseconds)], 1);
    }

    /// The counters now.
    fn values(&self) -> Values {
        std::array::from_fn(|counter| self.now[counter].load(Relaxed))
    }
}

/// Adds to a counter, which stops at [`MOST`]. There is room above it for what others add meanwhile.
pub fn add(counter: &AtomicU64, number: u64) {
    let number = number.min(MOST / 4);
    if counter.fetch_add(number, Relaxed) > MOST - number {
        counter.store(MOST, Relaxed);
    }
}

/// Places that a backend remembers; a type that found none of its own is remembered, too.
const REMEMBERED: usize = 16_384;

thread_local! {
    /// Places that this backend has found. None is given up while somebody is connected to its database.
    static FOUND: RefCell<HashMap<Vec<u8>, u32>> = RefCell::new(HashMap::new());
}

/// The number of the place that counts a type of content, if counting is on and there is one.
pub fn place_of(content_type: &[u8]) -> Option<u32> {
    if !are_on() {
        return None;
    }
    if let Some(number) = FOUND.with_borrow(|found| found.get(content_type).copied()) {
        return Some(number);
    }
    let number = find_or_make(content_type)?;
    FOUND.with_borrow_mut(|found| {
        // Anybody can think up names of types.
        if found.len() >= REMEMBERED {
            found.clear();
        }
        found.insert(content_type.to_vec(), number);
    });
    Some(number)
}

/// The place of this number.
pub fn place(number: u32) -> &'static Place {
    &places()[number as usize]
}

/// The name of the content type that a place counts.
pub fn name_of(number: u32) -> Vec<u8> {
    place(number).name().to_vec()
}

/// The place for all types of this database that have none of their own.
pub fn place_of_others() -> Option<u32> {
    place_of(&[])
}

fn database() -> pg_sys::Oid {
    // SAFETY: reads a variable of this backend.
    unsafe { pg_sys::MyDatabaseId }
}

fn find_or_make(name: &[u8]) -> Option<u32> {
    let database = database();
    let name = &name[..name.len().min(NAME)];
    let found = lock().shared(|| {
        // When all places are taken, nobody needs to be kept out to find that out again.
        find(database, name).or_else(|| if free_place(name).is_none() { find(database, &[]) } else { None })
    });
    found.or_else(|| {
        lock().exclusive(|| {
            // The place for all others comes first: it must be there when the last one is taken.
            let others = find(database, &[]).or_else(|| make(database, &[]));
            find(database, name).or_else(|| make(database, name)).or(others)
        })
    })
}

fn find(database: pg_sys::Oid, name: &[u8]) -> Option<u32> {
    let (tag, places) = (tag_of(database, name), places());
    let matches =
        |(number, found): (usize, &AtomicU32)| found.load(Relaxed) == tag && places[number].holds(database, name);
    tags().iter().enumerate().position(matches).map(|number| number as u32)
}

/// A place that a name could have. Where there are more databases than places for all others, those for types
/// serve.
fn free_place(name: &[u8]) -> Option<usize> {
    let for_types = 0..capacity();
    let is_free = |number: &usize| tags()[*number].load(Relaxed) == 0;
    if name.is_empty() {
        (capacity()..number_of_places()).chain(for_types).find(is_free)
    } else {
        for_types.into_iter().find(is_free)
    }
}

/// Takes a free place. Called with the exclusive lock held.
fn make(database: pg_sys::Oid, name: &[u8]) -> Option<u32> {
    let number = free_place(name)?;
    // SAFETY: the lock is exclusive, and nobody counts in a place that is free.
    unsafe {
        let place = PLACES.load(Relaxed).add(number);
        (&mut (*place).name)[..name.len()].copy_from_slice(name);
        (*place).length = name.len() as u8;
        (*place).database = database;
    }
    tags()[number].store(tag_of(database, name), Relaxed);
    Some(number as u32)
}

/// The counters of a type of content in this database.
pub struct Counted {
    pub number: u32,
    /// Empty for all types that found no place of their own.
    pub content_type: Vec<u8>,
    pub now: Values,
    /// What of it has not been stored yet.
    pub pending: Values,
}

/// The counters of this database.
pub fn all() -> Vec<Counted> {
    if !are_on() {
        return Vec::new();
    }
    // Room for all, so that nothing is allocated under the lock.
    let mut mine: Vec<u32> = Vec::with_capacity(number_of_places());
    let database = database();
    lock().shared(|| {
        mine.extend(
            (0..number_of_places()).filter(|number| places()[*number].database == database).map(|number| number as u32),
        )
    });
    mine.into_iter()
        .map(|number| {
            let place = place(number);
            let now = place.values();
            // What this transaction has stored, its rows show.
            let stored = drained_counters(number);
            let stored = stored.unwrap_or_else(|| std::array::from_fn(|counter| place.drained[counter].load(Relaxed)));
            let pending = std::array::from_fn(|counter| now[counter].saturating_sub(stored[counter]));
            Counted { number, content_type: place.name().to_vec(), now, pending }
        })
        .collect()
}

/// Notes that counters have been stored up to these values.
pub fn drained(number: u32, values: &Values) {
    for (counter, value) in place(number).drained.iter().zip(values) {
        counter.store(*value, Relaxed);
    }
}

/// Gives up the places of databases that are gone.
pub fn forget_databases(is_gone: impl Fn(pg_sys::Oid) -> bool) {
    if !are_on() {
        return;
    }
    lock().exclusive(|| {
        for (number, tag) in tags().iter().enumerate() {
            if tag.load(Relaxed) != 0 && is_gone(places()[number].database) {
                tag.store(0, Relaxed);
                // SAFETY: the lock is exclusive, and nobody can be connected to a database that is gone. All
                // zeros is a free place.
                unsafe { std::ptr::write_bytes(PLACES.load(Relaxed).add(number), 0, 1) };
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_stops_at_its_maximum() {
        let counter = AtomicU64::new(MOST - 2);
        add(&counter, 1);
        assert_eq!(counter.load(Relaxed), MOST - 1);
        add(&counter, 1);
        assert_eq!(counter.load(Relaxed), MOST);
        add(&counter, 1);
        assert_eq!(counter.load(Relaxed), MOST);
        add(&counter, u64::MAX);
        assert_eq!(counter.load(Relaxed), MOST);
    }
}
