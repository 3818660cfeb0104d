//! What a transaction does to the statistics in shared memory when it commits, and what it sees of them until then: what it
//! has stored its own rows show.

use super::counters::{self, Count, Counted, Values};
use super::hits::{self, Entry, Hits};
use super::prepared;
use crate::error::Refusal;
use crate::pg::transaction_end::{AtCommit, Queue};
use pgrx::{PgSqlErrorCode, Uuid};
use std::collections::HashMap;

/// To be done at commit.
pub enum Change {
    /// Add so many to a counter of a slot.
    Count(u32, Count, u64),
    /// The counters of a slot have been stored up to these values.
    CountersStored(u32, Box<Values>),
    /// These hits have been stored, or their entries are gone.
    HitsStored(Vec<Hits>),
    /// These entries have been removed: what hits they had is no more.
    Removed(Vec<Entry>),
    /// Nothing of this user may be left.
    ForgetUser(Uuid),
}

thread_local! {
    pub static CHANGES: Queue<Change> = const { Queue::new() };
}

/// Makes a change when the transaction commits.
pub fn at_commit(change: Change) {
    // Many writes of one type are one number, of each that they count.
    CHANGES.with(|changes| {
        changes.push(change, |earlier, new| match (earlier, new) {
            (Change::Count(slot, count, total), Change::Count(of_slot, of_count, number))
                if (*slot, *count) == (*of_slot, *of_count) =>
            {
                *total = total.saturating_add(*number);
                true
            }
            _ => false,
        });
    });
}

/// Whether the transaction has stored something of what is in memory: it must not be stored again.
pub fn has_stored() -> bool {
    CHANGES.with(|changes| changes.find(|change| change.stores().then_some(()))).is_some()
}

/// The error of a PREPARE after which it would not be certain that what is to leave memory has been stored: 0A000.
pub fn refusal_to_prepare() -> Refusal {
    Refusal::new(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        "cannot PREPARE a transaction that has stored statistics or erased a user",
    )
    .detail("Shared memory keeps what is stored until the commit, which may come from another session, or never.")
    .hint("Call cache_flush_statistics() and cache_forget_user() in a transaction of their own.")
}

/// The counters of this database.
pub fn counted() -> Vec<Counted> {
    prepared::settle();
    counters::all(|slot| {
        CHANGES.with(|changes| {
            changes.find(|change| match change {
                Change::CountersStored(of, values) if *of == slot => Some(**values),
                _ => None,
            })
        })
    })
}

/// The hits of one entry that its row does not show.
pub fn pending_hits_of(entry: &Entry) -> u64 {
    let Some(counted) = hits::of(entry, false) else { return 0 };
    let mut stored = 0;
    for_each_stored(|hits| {
        if hits.entry == *entry {
            stored += hits.hits;
        }
    });
    counted.hits.saturating_sub(stored)
}

/// The hits of all entries that their rows do not show.
pub fn pending_hits() -> Vec<Hits> {
    let mut pending = hits::all();
    let mut stored: HashMap<Entry, Hits> = HashMap::new();
    for_each_stored(|hits| {
        stored.insert(hits.entry, *hits);
    });
    if !stored.is_empty() {
        for hits in &mut pending {
            if let Some(stored) = stored.get(&hits.entry) {
                hits.hits = hits.hits.saturating_sub(stored.hits);
                hits.tokens = hits.tokens.minus(stored.tokens);
            }
        }
        pending.retain(|hits| hits.hits > 0);
    }
    pending
}

/// Shows the hits that the transaction has stored, those of the last statement first.
fn for_each_stored(mut look: impl FnMut(&Hits)) {
    CHANGES.with(|changes| {
        changes.find(|change| {
            if let Change::HitsStored(hits) = change {
                hits.iter().for_each(&mut look);
            }
            None::<()>
        })
    });
}

impl Change {
    fn stores(&self) -> bool {
        !matches!(self, Self::Count(..) | Self::Removed(_))
    }
}

impl AtCommit for Change {
    /// What has been stored must stay in memory until that is certain.
    fn refuses_prepare(&self) -> Option<Refusal> {
        self.stores().then(refusal_to_prepare)
    }

    fn committed(self) {
        match self {
            Self::Count(slot, count, number) => counters::slot(slot).add(count, number),
            Self::CountersStored(slot, values) => counters::note_stored(slot, &values),
            Self::HitsStored(hits) => hits::take_stored(&hits),
            Self::Removed(entries) => entries.iter().for_each(hits::forget),
            Self::ForgetUser(user_id) => hits::forget_user(&user_id),
        }
    }

    /// Numbers wait for the end of the transaction. Hits of what it removes leave memory with the next flush.
    fn prepared(self) {
        if let Self::Count(slot, count, number) = self
            && number > 0
            && !prepared::keep(slot, count, number)
        {
            self.committed();
        }
    }
}
