//! Counters of each type of content, since the server started, in a fixed number of places. A type that has
//! got one keeps it; those that have none are counted together, in one place for each database.

#![allow(unsafe_code)]

use super::histogram::{BUCKETS, bucket_of};
use crate::pg::backend::database;
use crate::pg::shared_memory::{Area, Lock};
use crate::settings;
use pgrx::pg_sys;
use std::cell::Cell;
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
    /// Live entries that went because their user had more than max_entries.
    Evictions,
}

/// How long something took.
#[derive(Clone, Copy)]
pub enum Latency {
    Lookup,
    Upsert,
}

/// Counters that are not latencies.
pub const PLAIN: usize = 13;
/// All counters of a type: the plain ones, then a histogram for each [`Latency`].
pub const COUNTERS: usize = PLAIN + 2 * BUCKETS;
/// Where a counter stops; SQL's bigint holds no more.
pub const MOST: u64 = i64::MAX as u64;

pub type Values = [u64; COUNTERS];

/// Longest name of a content type, in bytes.
const NAME: usize = 255;

/// The counters of one type of content in one database. One with an empty name, which no type can have, counts
/// all that have no place of their own.
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
/// Rises whenever a place is taken or given up.
static GENERATION: AtomicPtr<AtomicU32> = AtomicPtr::new(std::ptr::null_mut());
static LOCK: AtomicPtr<pg_sys::LWLockPadded> = AtomicPtr::new(std::ptr::null_mut());

pub const AREA: Area = Area {
    name: c"infinite_pages_cache counters",
    bytes: || number_of_places() * (size_of::<Place>() + size_of::<AtomicU32>()) + size_of::<AtomicU32>(),
    locks: || 1,
    start: |memory, locks| {
        PLACES.store(memory.cast(), Relaxed);
        let tags = memory.wrapping_add(number_of_places() * size_of::<Place>()).cast::<AtomicU32>();
        TAGS.store(tags, Relaxed);
        GENERATION.store(tags.wrapping_add(number_of_places()), Relaxed);
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

    /// Whether it counts the types of its database that have no place of their own.
    pub fn is_for_others(&self) -> bool {
        self.length == 0
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
    thread_local! {
        static OTHERS: Cell<Option<u32>> = const { Cell::new(None) };
    }
    if OTHERS.get().is_none() {
        OTHERS.set(find_or_make(&[], Room::None));
    }
    OTHERS.get()
}

/// A number that differs from an earlier one if places have been taken or given up since.
pub fn generation() -> u32 {
    // SAFETY: points into the area, which lives as long as the process.
    unsafe { GENERATION.load(Relaxed).as_ref() }.map_or(0, |generation| generation.load(Relaxed))
}

fn next_generation() {
    // SAFETY: as in generation().
    if let Some(generation) = unsafe { GENERATION.load(Relaxed).as_ref() } {
        generation.fetch_add(1, Relaxed);
    }
}

/// The places that a type may take if it has none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Room {
    None,
    /// Half of them: a type that has entries, which anybody may have stored.
    Unlisted,
    /// All of them: one that whoever runs the cache has written a policy for.
    Listed,
}

/// The place of its own of a type of content.
pub fn find(name: &[u8]) -> Option<u32> {
    let (database, name) = (database(), cut(name));
    if !are_on() {
        return None;
    }
    lock().shared(|| position(database, name))
}

/// The place of a type of content: its own, else one of those that it may take, else that for all others.
pub fn find_or_make(name: &[u8], room: Room) -> Option<u32> {
    let (database, name) = (database(), cut(name));
    if !are_on() {
        return None;
    }
    let found = lock().shared(|| {
        // When all places are taken, nobody needs to be kept out to find that out again.
        position(database, name)
            .or_else(|| if free_place(name, room).is_none() { position(database, &[]) } else { None })
    });
    found.or_else(|| {
        lock().exclusive(|| {
            // The place for all others comes first: it must be there when the last one is taken.
            let others = position(database, &[]).or_else(|| make(database, &[], room));
            position(database, name).or_else(|| make(database, name, room)).or(others)
        })
    })
}

fn cut(name: &[u8]) -> &[u8] {
    &name[..name.len().min(NAME)]
}

fn position(database: pg_sys::Oid, name: &[u8]) -> Option<u32> {
    let (tag, places) = (tag_of(database, name), places());
    let matches =
        |(number, found): (usize, &AtomicU32)| found.load(Relaxed) == tag && places[number].holds(database, name);
    tags().iter().enumerate().position(matches).map(|number| number as u32)
}

/// A place that a name could have. Where there are more databases than places for all others, those for types
/// serve.
fn free_place(name: &[u8], room: Room) -> Option<usize> {
    let (unlisted, listed) = (0..capacity() / 2, capacity() / 2..capacity());
    let is_free = |number: &usize| tags()[*number].load(Relaxed) == 0;
    match room {
        _ if name.is_empty() => (capacity()..number_of_places()).chain(listed).chain(unlisted).find(is_free),
        Room::None => None,
        Room::Unlisted => unlisted.into_iter().find(is_free),
        Room::Listed => listed.chain(unlisted).find(is_free),
    }
}

/// Takes a free place. Called with the exclusive lock held.
fn make(database: pg_sys::Oid, name: &[u8], room: Room) -> Option<u32> {
    let number = free_place(name, room)?;
    // SAFETY: the lock is exclusive, and nobody counts in a place that is free.
    unsafe {
        let place = PLACES.load(Relaxed).add(number);
        (&mut (*place).name)[..name.len()].copy_from_slice(name);
        (*place).length = name.len() as u8;
        (*place).database = database;
    }
    tags()[number].store(tag_of(database, name), Relaxed);
    next_generation();
    Some(number as u32)
}

/// The counters of a type of content in this database.
pub struct Counted {
    pub number: u32,
    /// Empty for all types that have no place of their own.
    pub content_type: Vec<u8>,
    pub now: Values,
    /// What of it has not been stored yet.
    pub pending: Values,
}

/// The counters of this database. `stored`: up to which values the transaction has stored those of a slot.
pub fn all(stored: impl Fn(u32) -> Option<Values>) -> Vec<Counted> {
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
            let stored =
                stored(number).unwrap_or_else(|| std::array::from_fn(|counter| place.drained[counter].load(Relaxed)));
            let pending = std::array::from_fn(|counter| now[counter].saturating_sub(stored[counter]));
            Counted { number, content_type: place.name().to_vec(), now, pending }
        })
        .collect()
}

/// One of the histograms among the counters, without the zeros at its end.
pub fn histogram(values: &Values, number: usize) -> Vec<i64> {
    let buckets = &values[PLAIN + number * BUCKETS..][..BUCKETS];
    let used = buckets.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
    buckets[..used].iter().map(|count| *count as i64).collect()
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
                next_generation();
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
