//! Counters of each content type, since the server started, in a fixed number of slots. A type that has got a slot keeps it.
//! Types without one are counted together, in one overflow slot for each database.
//!
//! A backend that knows the number of a slot counts in it without a lock. The lock guards what each slot is for: it is shared
//! to find a slot, and exclusive to take or free one. The slots of a database are freed only when the database is gone, because
//! then no backend that knows their numbers is left.

use super::histogram::{BUCKETS, bucket_of};
use crate::pg::backend::database;
use crate::pg::plain::{Plain, plain};
use crate::pg::shared_memory::{Area, Array, Guarded};
use crate::settings;
use pgrx::pg_sys;
use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

plain! {
    /// What is counted.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub enum Count {
        Hits,
        Misses,
        /// Misses that found an expired entry.
        Stale,
        Upserts,
        Invalidations,
        Expirations,
        /// Whole units of each cost. The rest of a cost is counted in millionths.
        TokensSpent,
        MillionthsSpent,
        TokensSaved,
        MillionthsSaved,
        /// Hits of entries for which `hits.rs` had no free slot.
        UntrackedHits,
        /// Reads whose audit record was overwritten before it was stored.
        AuditLost,
        /// Live entries that were removed because their user had more than `max_entries`.
        Evictions,
        LeasesGranted,
        /// Leases that were not granted because there was no room.
        LeasesDenied,
        /// Leases whose time ended before an answer was stored.
        LeasesExpired,
        /// Fetches that waited for another's generation.
        Waits,
        /// Those of the waits that ended in a hit.
        WaitsHit,
        /// Hits of expired entries, within their `stale_ttl`, whose callers got no lease: a plain miss would have generated.
        StaleServed,
        /// Answers that were not stored because of an invalidation, or because their lease had ended.
        RefusedFills,
        /// Answers that were not stored because of `accept_if`.
        RefusedByGate,
        /// Generations that their clients gave up as failed.
        Failures,
        /// Answers that were stored with a lease.
        Generations,
        /// How long these took, in milliseconds, each at most [`LONGEST_GENERATION`].
        GenerationMs,
    }
}

/// What takes time, and how it is measured.
#[derive(Clone, Copy)]
pub enum Latency {
    /// A call, in microseconds.
    Lookup,
    Upsert,
    /// From the grant of a lease until its answer is stored, in milliseconds.
    Generation,
}

/// Counters that are not latencies.
pub const PLAIN: usize = Count::GenerationMs as usize + 1;
const LATENCIES: usize = Latency::Generation as usize + 1;
/// All counters of a type: the plain ones, then a histogram for each [`Latency`].
pub const COUNTERS: usize = PLAIN + LATENCIES * BUCKETS;
/// A generation that took longer counts as this in the mean, which early refresh uses: a client may have done other things.
pub const LONGEST_GENERATION: Duration = Duration::from_secs(60);
/// The greatest value of a counter, which is that of SQL's bigint.
pub const MOST: u64 = i64::MAX as u64;

pub type Values = [u64; COUNTERS];

plain! {
    /// One of the counters of a type.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub struct Counter {
        place: u16,
    }
}

impl Counter {
    /// Returns the bucket that counts what took this time.
    pub fn bucket(latency: Latency, time: u64) -> Self {
        Self { place: (buckets_of(latency).start + bucket_of(time)) as u16 }
    }

    pub fn place(self) -> usize {
        self.place.into()
    }
}

impl From<Count> for Counter {
    fn from(count: Count) -> Self {
        Self { place: count as u16 }
    }
}

/// Returns the places of a histogram among the counters.
pub fn buckets_of(latency: Latency) -> Range<usize> {
    let start = PLAIN + latency as usize * BUCKETS;
    start..start + BUCKETS
}

/// Longest name of a content type, in bytes.
const NAME: usize = 255;

plain! {
    /// The counters of one content type in one database.
    pub struct Slot {
        now: [AtomicU64; COUNTERS],
        /// The values that have been stored in the hours' rows.
        stored: [AtomicU64; COUNTERS],
    }
}

plain! {
    /// What a slot is for. An empty name, which no type can have, marks an overflow slot.
    struct Key {
        /// `InvalidOid` when the slot is free.
        database: pg_sys::Oid,
        name: [u8; NAME],
        length: u8,
    }
}

static SLOTS: Array<Slot> = Array::new(number_of_slots);
/// A tag for each slot, 0 for a free one. They lie close together, so that a search through all is quick.
static TAGS: Array<AtomicU32> = Array::new(number_of_slots);
/// Rises whenever a slot is taken or given up.
static GENERATION: Array<AtomicU32> = Array::new(|| 1);
static KEYS: Guarded<Key> = Guarded::new(number_of_slots);

pub static AREA: Area = Area { name: c"infinite_pages_cache counters", parts: &[&SLOTS, &TAGS, &GENERATION, &KEYS] };

/// Returns the number of slots for content types. Behind these lie the overflow slots.
fn capacity() -> usize {
    settings::MAX_TRACKED_CONTENT_TYPES.get() as usize
}

fn number_of_slots() -> usize {
    const DATABASES: usize = 64;
    capacity() + DATABASES
}

/// Computes a tag by FNV-1a. It needs no secret key, because a false match costs one comparison only.
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
    pub fn add(&self, counter: impl Into<Counter>, number: u64) {
        if number > 0 {
            add(&self.now[counter.into().place()], number);
        }
    }

    pub fn value(&self, count: Count) -> u64 {
        self.now[count as usize].load(Relaxed)
    }

    /// Takes back what was counted in error and has not been stored yet.
    pub fn take_back(&self, count: Count, number: u64) {
        self.now[count as usize].fetch_sub(number, Relaxed);
    }

    /// Returns the counters as they are now.
    fn values(&self) -> Values {
        std::array::from_fn(|counter| self.now[counter].load(Relaxed))
    }
}

/// Adds to a counter, which stops at [`MOST`]. A u64 has room above that for what other backends add meanwhile.
pub fn add(counter: &AtomicU64, number: u64) {
    let number = number.min(MOST / 4);
    if counter.fetch_add(number, Relaxed) > MOST - number {
        counter.store(MOST, Relaxed);
    }
}

/// Returns the slot of a number.
pub fn slot(number: u32) -> &'static Slot {
    &SLOTS.elements()[number as usize]
}

/// Returns the name of the content type that a slot counts; empty for an overflow slot.
pub fn name_of(number: u32) -> Vec<u8> {
    // Nothing is allocated under the lock.
    let mut name = Vec::with_capacity(NAME);
    KEYS.shared(|_, keys| name.extend_from_slice(keys[number as usize].name()));
    name
}

/// Returns the overflow slot of this database, which counts all types without a slot of their own.
pub fn overflow_slot() -> Option<u32> {
    thread_local! {
        static OVERFLOW: Cell<Option<u32>> = const { Cell::new(None) };
    }
    if OVERFLOW.get().is_none() {
        OVERFLOW.set(find_or_make(&[], Quota::None));
    }
    OVERFLOW.get()
}

/// Returns a number that differs from an earlier one if slots have been taken or freed since.
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
    /// Half of them, for a type that has entries but no content policy: any tenant may have stored them.
    Unlisted,
    /// All of them, for a type with a content policy, which only an operator can write.
    Listed,
}

/// Returns the slot that a content type has for itself.
pub fn find(name: &[u8]) -> Option<u32> {
    let (database, name) = (database(), cut(name));
    KEYS.shared(|_, keys| position(keys, database, name))?
}

/// Returns the slot of a content type: its own, else a free one that it may take, else the overflow slot.
pub fn find_or_make(name: &[u8], quota: Quota) -> Option<u32> {
    let (database, name) = (database(), cut(name));
    let found = KEYS.shared(|_, keys| {
        // When no slot is free, the shared lock is enough to find that out again.
        position(keys, database, name)
            .or_else(|| if free_slot(name, quota).is_none() { position(keys, database, &[]) } else { None })
    })?;
    found.or_else(|| {
        KEYS.exclusive(|_, keys| {
            // The overflow slot is taken first, because it must be there when no other is free.
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

/// Returns a free slot that a name may take. A database beyond the number of overflow slots gets one of those for types.
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

/// The counters of a content type in this database.
pub struct Counted {
    pub number: u32,
    /// Empty for the overflow slot.
    pub content_type: Vec<u8>,
    pub now: Values,
    /// What has not been stored yet.
    pub pending: Values,
}

/// Returns the counters of this database. `stored` gives the values up to which the transaction has stored those of a slot.
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

/// Returns one of the histograms among the counters, without the zeros at its end.
pub fn histogram(values: &Values, latency: Latency) -> Vec<i64> {
    let buckets = &values[buckets_of(latency)];
    let used = buckets.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
    buckets[..used].iter().map(|count| *count as i64).collect()
}

/// Notes that counters have been stored up to these values.
pub fn note_stored(number: u32, values: &Values) {
    for (counter, value) in slot(number).stored.iter().zip(values) {
        counter.store(*value, Relaxed);
    }
}

/// Frees the slots of databases that are gone.
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
