//! Counters of each type of content, since the server started, in a fixed number of slots. A type that has
//! got one keeps it; those that have none are counted together, in one overflow slot for each database.
//!
//! Whoever knows the number of a slot counts in it without a lock. The lock guards what each slot is for: to take or give up
//! one, hold it exclusively; to find one, share it. The slots of a database are given up only once it is gone, so that
//! nobody who knows their numbers is connected to it.

use super::histogram::{BUCKETS, bucket_of};
use crate::pg::backend::database;
use crate::pg::plain::{Plain, plain};
use crate::pg::shared_memory::{Area, Array, Guarded};
use crate::settings;
use pgrx::pg_sys;
use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

plain! {
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
        /// Hits that found no slot among those counted by entry.
        UntrackedHits,
        /// Reads whose audit was overwritten before it was stored.
        AuditLost,
        /// Live entries that went because their user had more than max_entries.
        Evictions,
    }
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

plain! {
    /// The counters of one type of content in one database.
    pub struct Slot {
        now: [AtomicU64; COUNTERS],
        /// What of it has been stored in the roll-up.
        stored: [AtomicU64; COUNTERS],
    }
}

plain! {
    /// What a slot is for. One with an empty name, which no type can have, is for all that have no slot of their own.
    struct Key {
        /// `InvalidOid` when the slot is free.
        database: pg_sys::Oid,
        name: [u8; NAME],
        length: u8,
    }
}

static SLOTS: Array<Slot> = Array::new(number_of_slots);
/// A tag for each slot, close together so that all are soon looked through; 0 is a free slot's.
static TAGS: Array<AtomicU32> = Array::new(number_of_slots);
/// Rises whenever a slot is taken or given up.
static GENERATION: Array<AtomicU32> = Array::new(|| 1);
static KEYS: Guarded<Key> = Guarded::new(number_of_slots);

pub static AREA: Area = Area { name: c"infinite_pages_cache counters", parts: &[&SLOTS, &TAGS, &GENERATION, &KEYS] };

/// Slots for content types; those behind them are for all others of a database.
fn capacity() -> usize {
    settings::MAX_TRACKED_CONTENT_TYPES.get() as usize
}

fn number_of_slots() -> usize {
    const DATABASES: usize = 64;
    capacity() + DATABASES
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

impl Key {
    fn is_of(&self, database: pg_sys::Oid, name: &[u8]) -> bool {
        self.database == database && self.name() == name
    }

    fn name(&self) -> &[u8] {
        &self.name[..self.length as usize]
    }
}

impl Slot {
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

/// The slot of this number.
pub fn slot(number: u32) -> &'static Slot {
    &SLOTS.elements()[number as usize]
}

/// The name of the content type that a slot counts; empty for an overflow slot.
pub fn name_of(number: u32) -> Vec<u8> {
    // Nothing is allocated under the lock.
    let mut name = Vec::with_capacity(NAME);
    KEYS.shared(|_, keys| name.extend_from_slice(keys[number as usize].name()));
    name
}

/// The slot for all types of this database that have none of their own.
pub fn overflow_slot() -> Option<u32> {
    thread_local! {
        static OVERFLOW: Cell<Option<u32>> = const { Cell::new(None) };
    }
    if OVERFLOW.get().is_none() {
        OVERFLOW.set(find_or_make(&[], Quota::None));
    }
    OVERFLOW.get()
}

/// A number that differs from an earlier one if slots have been taken or given up since.
pub fn generation() -> u32 {
    GENERATION.elements().first().map_or(0, |generation| generation.load(Relaxed))
}

fn next_generation() {
    if let Some(generation) = GENERATION.elements().first() {
        generation.fetch_add(1, Relaxed);
    }
}

/// The slots that a type may take if it has none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    None,
    /// Half of them: a type that has entries, which anybody may have stored.
    Unlisted,
    /// All of them: one that whoever runs the cache has written a policy for.
    Listed,
}

/// The slot of its own of a type of content.
pub fn find(name: &[u8]) -> Option<u32> {
    let (database, name) = (database(), cut(name));
    KEYS.shared(|_, keys| position(keys, database, name))?
}

/// The slot of a type of content: its own, else one of those that it may take, else that for all others.
pub fn find_or_make(name: &[u8], quota: Quota) -> Option<u32> {
    let (database, name) = (database(), cut(name));
    let found = KEYS.shared(|_, keys| {
        // When all slots are taken, nobody needs to be kept out to find that out again.
        position(keys, database, name)
            .or_else(|| if free_slot(name, quota).is_none() { position(keys, database, &[]) } else { None })
    })?;
    found.or_else(|| {
        KEYS.exclusive(|_, keys| {
            // The slot for all others comes first: it must be there when the last one is taken.
            let overflow = position(keys, database, &[]).or_else(|| make(keys, database, &[], quota));
            position(keys, database, name).or_else(|| make(keys, database, name, quota)).or(overflow)
        })?
    })
}

fn cut(name: &[u8]) -> &[u8] {
    &name[..name.len().min(NAME)]
}

fn position(keys: &[Key], database: pg_sys::Oid, name: &[u8]) -> Option<u32> {
    let tag = tag_of(database, name);
    let matches =
        |(number, found): (usize, &AtomicU32)| found.load(Relaxed) == tag && keys[number].is_of(database, name);
    TAGS.elements().iter().enumerate().position(matches).map(|number| number as u32)
}

/// A slot that a name could have. Where there are more databases than slots for all others, those for types
/// serve.
fn free_slot(name: &[u8], quota: Quota) -> Option<usize> {
    let tags = TAGS.elements();
    let (unlisted, listed) = (0..capacity() / 2, capacity() / 2..capacity());
    let is_free = |number: &usize| tags[*number].load(Relaxed) == 0;
    match quota {
        _ if name.is_empty() => (capacity()..tags.len()).chain(listed).chain(unlisted).find(is_free),
        Quota::None => None,
        Quota::Unlisted => unlisted.into_iter().find(is_free),
        Quota::Listed => listed.chain(unlisted).find(is_free),
    }
}

/// Takes a free slot.
fn make(keys: &mut [Key], database: pg_sys::Oid, name: &[u8], quota: Quota) -> Option<u32> {
    let number = free_slot(name, quota)?;
    let key = &mut keys[number];
    key.name[..name.len()].copy_from_slice(name);
    key.length = name.len() as u8;
    key.database = database;
    TAGS.elements()[number].store(tag_of(database, name), Relaxed);
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
    // Room for all, so that nothing is allocated under the lock.
    let mut mine: Vec<u32> = Vec::with_capacity(KEYS.length());
    let database = database();
    KEYS.shared(|_, keys| {
        let numbered = (0..).zip(keys).filter(|(_, key)| key.database == database);
        mine.extend(numbered.map(|(number, _)| number));
    });
    mine.into_iter()
        .map(|number| {
            let slot = slot(number);
            let now = slot.values();
            let stored =
                stored(number).unwrap_or_else(|| std::array::from_fn(|counter| slot.stored[counter].load(Relaxed)));
            let pending = std::array::from_fn(|counter| now[counter].saturating_sub(stored[counter]));
            Counted { number, content_type: name_of(number), now, pending }
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
pub fn note_stored(number: u32, values: &Values) {
    for (counter, value) in slot(number).stored.iter().zip(values) {
        counter.store(*value, Relaxed);
    }
}

/// Gives up the slots of databases that are gone.
pub fn forget_databases(is_gone: impl Fn(pg_sys::Oid) -> bool) {
    KEYS.exclusive(|_, keys| {
        for ((key, tag), slot) in keys.iter_mut().zip(TAGS.elements()).zip(SLOTS.elements()) {
            if tag.load(Relaxed) != 0 && is_gone(key.database) {
                tag.store(0, Relaxed);
                next_generation();
                *key = Key::zeroed();
                slot.now.iter().chain(&slot.stored).for_each(|counter| counter.store(0, Relaxed));
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
