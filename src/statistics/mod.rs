//! Statistics: lookups are counted in shared memory, so that they write nothing, and what has been counted is stored now and
//! then. Where the library is not preloaded nothing is counted, and everything else works.

pub mod at_commit;
pub mod columns;
pub mod content_types;
pub mod counters;
pub mod flush_counters;
pub mod flush_hits;
pub mod histogram;
pub mod hits;
pub mod pacing;
pub mod prepared;
pub mod summary;
pub mod tokens;

use crate::address::Address;
use crate::pg::clock;
use crate::pg::shared_memory::is_preloaded;
use at_commit::{Change, at_commit};
use content_types::slot_of;
use counters::{Count, Counter, LONGEST_GENERATION, Latency, slot};
use pgrx::Uuid;
use std::time::{Duration, Instant};
use tokens::Tokens;

/// What a lookup knows of the live entry that it has found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hit {
    /// `None` where the column is no uuid.
    pub id: Option<Uuid>,
    /// The cost of the entry, if its row says it.
    pub cost: Option<Tokens>,
}

/// What a lookup has found of an entry, by the entry's newest version.
pub enum Found<Content> {
    Live(Content, Hit),
    Expired,
    Nothing,
}

impl<Content> Found<Content> {
    pub fn is_live(&self) -> bool {
        matches!(self, Self::Live(..))
    }

    /// Returns the content of a live entry.
    pub fn content(self) -> Option<Content> {
        match self {
            Self::Live(content, _) => Some(content),
            Self::Expired | Self::Nothing => None,
        }
    }
}

/// A client's call, which is timed from its beginning.
pub struct Call {
    latency: Latency,
    begun: Option<Instant>,
}

impl Call {
    pub fn begins(latency: Latency) -> Self {
        Self { latency, begun: is_preloaded().then(Instant::now) }
    }

    /// Returns the slot that counts a content type. `has_entries`: whether the call has found or stored entries of the type.
    pub fn slot(&self, content_type: &[u8], has_entries: bool) -> Option<u32> {
        self.begun.and_then(|_| slot_of(content_type, has_entries))
    }

    /// Counts one lookup.
    pub fn looked_up<Content>(&self, counted_at: Option<u32>, address: &Address, found: &Found<Content>) {
        let Some(number) = counted_at else { return };
        let slot = slot(number);
        match found {
            Found::Live(_, hit) => {
                // A row that a client has inserted may have no cost: that of the content policy counts.
                let cost = hit.cost.unwrap_or_else(|| content_types::cost_of(address.content_type));
                let entry = hits::Entry { user_id: address.user_id, digest: address.digest, id: hit.id };
                slot.add(Count::Hits, 1);
                slot.add(Count::TokensSaved, cost.units);
                slot.add(Count::MillionthsSaved, cost.millionths);
                if !hits::count(number, &entry, cost, clock::now()) {
                    slot.add(Count::UntrackedHits, 1);
                }
            }
            Found::Expired => {
                slot.add(Count::Misses, 1);
                slot.add(Count::Stale, 1);
            }
            Found::Nothing => slot.add(Count::Misses, 1),
        }
    }

    /// Counts entries that the transaction has stored, and their cost, if it commits.
    pub fn stored(&self, counted_at: Option<u32>, entries: u64, cost: Tokens) {
        if let Some(number) = counted_at {
            at_commit(Change::Count(number, Count::Upserts.into(), entries));
            at_commit(Change::Count(number, Count::TokensSpent.into(), cost.units));
            at_commit(Change::Count(number, Count::MillionthsSpent.into(), cost.millionths));
        }
    }

    /// Counts how long the call took.
    pub fn ends(&self, counted_at: Option<u32>) {
        if let (Some(begun), Some(number)) = (self.begun, counted_at) {
            let microseconds = begun.elapsed().as_micros().try_into().unwrap_or(u64::MAX);
            slot(number).add(Counter::bucket(self.latency, microseconds), 1);
        }
    }
}

/// Counts something that the transaction has done to entries, if it commits.
pub fn counted(content_type: &[u8], count: Count, number: u64) {
    if let Some(slot) = slot_of(content_type, true) {
        at_commit(Change::Count(slot, count.into(), number));
    }
}

/// Counts, in the slot of a content type, what has happened whatever becomes of the transaction. Neither allocates nor raises.
pub fn counted_now(counted_at: Option<u32>, count: Count, number: u64) {
    if let Some(at) = counted_at {
        slot(at).add(count, number);
    }
}

/// Counts, if the transaction commits, that an answer was stored with a lease, and how long ago the lease was granted.
pub fn generated(content_type: &[u8], since_grant: Duration) {
    if let Some(slot) = slot_of(content_type, true) {
        let milliseconds = |time: Duration| time.as_millis().try_into().unwrap_or(u64::MAX);
        at_commit(Change::Count(slot, Count::Generations.into(), 1));
        at_commit(Change::Count(slot, Count::GenerationMs.into(), milliseconds(since_grant.min(LONGEST_GENERATION))));
        at_commit(Change::Count(slot, Counter::bucket(Latency::Generation, milliseconds(since_grant)), 1));
    }
}

/// Returns how long a generation of a content type has taken on average since the server started, each at most
/// [`LONGEST_GENERATION`]; `None` before the first.
pub fn mean_generation(counted_at: Option<u32>) -> Option<Duration> {
    let slot = slot(counted_at?);
    slot.value(Count::GenerationMs).checked_div(slot.value(Count::Generations)).map(Duration::from_millis)
}

/// Frees what shared memory holds of databases that are gone.
pub fn forget_databases(is_gone: impl Fn(pgrx::pg_sys::Oid) -> bool + Copy) {
    // First, because the counts of prepared transactions name slots of counters.
    prepared::forget_databases(is_gone);
    counters::forget_databases(is_gone);
    hits::forget_databases(is_gone);
}
