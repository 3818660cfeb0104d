//! Pending hits of each entry, in a hash table of a fixed size with open addressing. A hit of an entry that is in the table
//! takes a shared lock on one region of it and adds to atomic counters. Only an entry's first hit locks the region exclusively.

use super::counters;
use super::tokens::{MILLION, Tokens};
use crate::pg::backend::database;
use crate::pg::plain::{Plain, plain};
use crate::pg::shared_memory::{Area, Array, Guarded, Region};
use crate::settings;
use pgrx::{Uuid, pg_sys};
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed};

/// Regions of the table, each with a lock of its own.
const REGIONS: usize = 64;

/// An entry whose hits are counted. The id tells it from an earlier entry with the same user and digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Entry {
    pub user_id: Uuid,
    pub digest: Uuid,
    /// `None` where the column of an adopted table is no uuid: hits are then counted for user and digest alone.
    pub id: Option<Uuid>,
}

plain! {
    /// An entry and its hits. While there are hits, only the last three fields change.
    struct Slot {
        /// `InvalidOid` in a free slot.
        database: pg_sys::Oid,
        /// The slot of the entry's content type among the counters.
        counted_at: u32,
        user_id: [u8; 16],
        digest: [u8; 16],
        /// All zeros stand for no id.
        id: [u8; 16],
        /// The number of hits, shifted by [`FRACTION`], and the millionths that they have saved beyond whole units.
        hits: AtomicU64,
        /// The whole units that the hits have saved.
        units: AtomicU64,
        /// The time of the last hit, in microseconds since 2000-01-01 UTC.
        last: AtomicI64,
    }
}

/// The lower bits of [`Slot::hits`], which hold a number below a million. The bits above them have room for 100,000 hits a
/// second in five years without a flush.
const FRACTION: u32 = 20;

/// The hits of an entry.
#[derive(Clone, Copy)]
pub struct Hits {
    pub counted_at: u32,
    pub entry: Entry,
    pub hits: u64,
    /// The tokens that the hits have saved.
    pub tokens: Tokens,
    /// The time of the last hit, in microseconds since 2000-01-01 UTC.
    pub last: i64,
}

impl Entry {
    fn id_bytes(&self) -> [u8; 16] {
        self.id.map_or([0; 16], |id| *id)
    }
}

impl Hits {
    /// Adds the hits of another entry.
    pub fn add(&mut self, other: &Self) {
        self.hits = self.hits.saturating_add(other.hits);
        self.tokens = self.tokens.plus(other.tokens);
        self.last = self.last.max(other.last);
    }
}

impl Slot {
    fn of(database: pg_sys::Oid, hits: &Hits) -> Self {
        let tokens = hits.tokens.carried();
        Self {
            database,
            counted_at: hits.counted_at,
            user_id: *hits.entry.user_id,
            digest: *hits.entry.digest,
            id: hits.entry.id_bytes(),
            hits: AtomicU64::new(hits.hits << FRACTION | tokens.millionths),
            units: AtomicU64::new(tokens.units),
            last: AtomicI64::new(hits.last),
        }
    }

    fn entry(&self) -> Entry {
        Entry {
            user_id: Uuid::from_bytes(self.user_id),
            digest: Uuid::from_bytes(self.digest),
            id: (self.id != [0; 16]).then(|| Uuid::from_bytes(self.id)),
        }
    }

    fn is_of(&self, database: pg_sys::Oid, entry: &Entry) -> bool {
        self.digest == *entry.digest
            && self.id == entry.id_bytes()
            && self.user_id == *entry.user_id
            && self.database == database
    }

    fn hits(&self) -> Hits {
        let hits = self.hits.load(Relaxed);
        Hits {
            counted_at: self.counted_at,
            entry: self.entry(),
            hits: hits >> FRACTION,
            tokens: Tokens { units: self.units.load(Relaxed), millionths: hits & ((1 << FRACTION) - 1) },
            last: self.last.load(Relaxed),
        }
    }

    fn add(&self, tokens: Tokens, now: i64) {
        let mut units = tokens.units;
        if tokens.millionths == 0 {
            self.hits.fetch_add(1 << FRACTION, Relaxed);
        } else {
            let mut before = self.hits.load(Relaxed);
            loop {
                let sum = (before & ((1 << FRACTION) - 1)) + tokens.millionths;
                let carried = u64::from(sum >= MILLION);
                let after = (((before >> FRACTION) + 1) << FRACTION) | (sum - carried * MILLION);
                match self.hits.compare_exchange_weak(before, after, Relaxed, Relaxed) {
                    Ok(_) => {
                        units += carried;
                        break;
                    }
                    Err(now) => before = now,
                }
            }
        }
        if units > 0 {
            counters::add(&self.units, units);
        }
        self.last.fetch_max(now, Relaxed);
    }
}

static SLOTS: Guarded<Slot> = Guarded::regions(REGIONS, region_size);
static USED: Array<AtomicU32> = Array::new(|| 1);

pub static AREA: Area = Area { name: c"infinite_pages_cache hits", parts: &[&SLOTS, &USED] };

fn capacity() -> u32 {
    settings::MAX_TRACKED_ENTRIES.get() as u32
}

/// Returns the number of slots of a region: a quarter more than the region holds on average when the table is full, and some
/// for chance. So searches stay short, and the table is full before a region is.
fn region_size() -> usize {
    (capacity() as usize * 5 / 4) / REGIONS + 32
}

fn after(slots: &[Slot], index: usize) -> usize {
    if index + 1 == slots.len() { 0 } else { index + 1 }
}

/// Returns the index of a slot in the region, and whether the entry has it already: if not, it is the slot to take. `None`
/// when the entry is not there and the region is full.
fn find(slots: &[Slot], database: pg_sys::Oid, entry: &Entry, start: usize) -> Option<(usize, bool)> {
    let mut index = start;
    for _ in 0..slots.len() {
        let slot = &slots[index];
        if slot.database == pg_sys::InvalidOid {
            return Some((index, false));
        }
        if slot.is_of(database, entry) {
            return Some((index, true));
        }
        index = after(slots, index);
    }
    None
}

/// Returns the index of an entry's slot in its region; `None` when the entry is not there.
fn find_known(slots: &[Slot], database: pg_sys::Oid, entry: &Entry, start: usize) -> Option<usize> {
    find(slots, database, entry, start).filter(|(_, is_known)| *is_known).map(|(index, _)| index)
}

/// Frees a slot, and moves up the slots behind it that a search would no longer find.
fn free(slots: &mut [Slot], index: usize) {
    // Steps from one slot to another. After the last slot comes the first.
    let size = slots.len();
    let steps = |from: usize, to: usize| (to + size - from) % size;
    let mut gap = index;
    let mut next = after(slots, index);
    while next != index && slots[next].database != pg_sys::InvalidOid {
        let slot = &slots[next];
        let (_, wanted) = position(slot.database, &slot.user_id, &slot.digest);
        // The slot may move to the gap unless searches for it begin behind the gap.
        if steps(wanted, next) >= steps(gap, next) {
            slots.swap(gap, next);
            gap = next;
        }
        next = after(slots, next);
    }
    slots[gap] = Slot::zeroed();
    used().fetch_sub(1, Relaxed);
}

/// Returns the region of an entry, and the index in it at which a search begins, whatever the entry's id. The digest is evenly
/// spread already. User and database are mixed in, so that they make no pattern with it.
fn position(database: pg_sys::Oid, user_id: &[u8; 16], digest: &[u8; 16]) -> (usize, usize) {
    let half =
        |bytes: &[u8; 16], from: usize| u64::from_ne_bytes(bytes[from..from + 8].try_into().expect("eight bytes"));
    let mixed = (half(user_id, 0) ^ half(user_id, 8).rotate_left(29) ^ u64::from(database.to_u32()).rotate_left(47))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let hash = (half(digest, 0) ^ mixed).wrapping_mul(0xd6e8_feb8_6659_fd93);
    // The upper bits choose the region, the lower half is scaled to its size.
    ((hash >> 58) as usize % REGIONS, ((hash & 0xffff_ffff) as usize * region_size()) >> 32)
}

/// Counts a hit of an entry of this database. Returns whether the table had room for the entry.
pub fn count(counted_at: u32, entry: &Entry, tokens: Tokens, now: i64) -> bool {
    let database = database();
    let (number, start) = position(database, &entry.user_id, &entry.digest);
    let Some(region) = SLOTS.region(number) else { return true };
    let known = region.shared(|_, slots| {
        let known = find_known(slots, database, entry, start);
        known.map(|index| slots[index].add(tokens, now)).is_some()
    });
    known
        || region.exclusive(|_, slots| match find(slots, database, entry, start) {
            Some((index, true)) => {
                slots[index].add(tokens, now);
                true
            }
            Some((index, false)) if reserve() => {
                slots[index] = Slot::of(database, &Hits { counted_at, entry: *entry, hits: 1, tokens, last: now });
                true
            }
            _ => false,
        })
}

/// Returns the number of used slots, of all regions together.
fn used() -> &'static AtomicU32 {
    &USED.elements()[0]
}

/// Counts one more used slot, unless as many are used as may be. Returns whether it did.
fn reserve() -> bool {
    used().fetch_update(Relaxed, Relaxed, |used| (used < capacity()).then_some(used + 1)).is_ok()
}

/// Returns the hits of one entry of this database, if it has any. Without `settled`, a hit that is just being counted may be in
/// some of the numbers and not in others.
pub fn of(entry: &Entry, settled: bool) -> Option<Hits> {
    let database = database();
    let (number, start) = position(database, &entry.user_id, &entry.digest);
    let read = |slots: &[Slot]| find_known(slots, database, entry, start).map(|index| slots[index].hits());
    let region = SLOTS.region(number)?;
    if settled { region.exclusive(|_, slots| read(slots)) } else { region.shared(|_, slots| read(slots)) }
}

/// Returns the hits of all entries of this database.
pub fn all() -> Vec<Hits> {
    let mut all = Vec::new();
    let database = database();
    for region in regions() {
        // Nothing is allocated under the lock.
        all.reserve(SLOTS.length());
        region.shared(|_, slots| all.extend(slots.iter().filter(|slot| slot.database == database).map(Slot::hits)));
    }
    all
}

fn regions() -> impl Iterator<Item = Region<Slot>> {
    (0..REGIONS).filter_map(|number| SLOTS.region(number))
}

/// Takes away hits that have been stored, or whose entry is gone. Hits counted since then stay.
pub fn take_stored(stored: &[Hits]) {
    let database = database();
    for hits in stored {
        let (number, start) = position(database, &hits.entry.user_id, &hits.entry.digest);
        let Some(region) = SLOTS.region(number) else { return };
        region.exclusive(|_, slots| {
            if let Some(index) = find_known(slots, database, &hits.entry, start) {
                let mut left = slots[index].hits();
                if left.hits <= hits.hits {
                    free(slots, index);
                } else {
                    left.hits -= hits.hits;
                    left.tokens = left.tokens.minus(hits.tokens);
                    slots[index] = Slot::of(database, &left);
                }
            }
        });
    }
}

/// Frees the slot of an entry of this database, if it has one.
pub fn forget(entry: &Entry) {
    let database = database();
    let (number, start) = position(database, &entry.user_id, &entry.digest);
    let Some(region) = SLOTS.region(number) else { return };
    let find = |slots: &[Slot]| find_known(slots, database, entry, start);
    // Most entries have no hits, and the shared lock is enough to find that out.
    if region.shared(|_, slots| find(slots)).is_some() {
        region.exclusive(|_, slots| find(slots).map(|index| free(slots, index)));
    }
}

/// Frees the slots of databases that are gone.
pub fn forget_databases(is_gone: impl Fn(pg_sys::Oid) -> bool) {
    remove(|slot| is_gone(slot.database));
}

/// Frees the slots of a user of this database.
pub fn forget_user(user_id: &Uuid) {
    let database = database();
    remove(|slot| slot.database == database && slot.user_id == **user_id);
}

fn remove(is_wanted: impl Fn(&Slot) -> bool) {
    for region in regions() {
        region.exclusive(|_, slots| {
            let mut index = 0;
            while index < slots.len() {
                if slots[index].database != pg_sys::InvalidOid && is_wanted(&slots[index]) {
                    // Another slot may have moved here: look again.
                    free(slots, index);
                } else {
                    index += 1;
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Several threads add costs with every kind of fraction at once. No unit is lost where one is carried.
    #[test]
    fn the_hits_of_a_slot_add_up() {
        let [user_id, digest, id] = [1, 2, 3].map(|byte| Uuid::from_bytes([byte; 16]));
        let entry = Entry { user_id, digest, id: Some(id) };
        let costs: Vec<i64> = (0..4_000_i64).map(|n| (n * 7_919_333) % 3_000_000 * (n % 5 + 1) / 5).collect();
        let first = Hits { counted_at: 3, entry, hits: 1, tokens: Tokens::of_cost(999_999), last: 5 };
        let slot = Slot::of(pg_sys::Oid::from(4), &first);
        std::thread::scope(|scope| {
            for costs in costs.chunks(1_000) {
                scope.spawn(|| costs.iter().for_each(|cost| slot.add(Tokens::of_cost(*cost), *cost)));
            }
        });
        let found = slot.hits();
        assert_eq!((found.hits, found.last), (4_001, *costs.iter().max().unwrap()));
        assert_eq!(found.tokens.total(), 999_999 + costs.iter().map(|cost| *cost as u128).sum::<u128>());
        assert!(found.entry == entry && found.tokens.millionths < MILLION);
    }

    /// docs/settings.md says so of max_tracked_entries; the quarter that stays free counts.
    #[test]
    fn an_entry_takes_a_hundred_bytes() {
        assert_eq!(size_of::<Slot>() * 5 / 4, 100);
    }
}
