//! What a transaction changes in the statistics of shared memory when it commits, and what it sees of them until then: what it
//! has stored does not count twice, because its own rows show it.

use super::counters::{self, Counted, Counter, Values};
use super::hits::{self, Entry, Hits};
use super::prepared;
use super::tokens::Tokens;
use crate::error::Refusal;
use crate::pg::transaction_end::{AtCommit, Queue};
use pgrx::{PgSqlErrorCode, Uuid};
use std::collections::HashMap;

/// A change to be made at commit.
pub enum Change {
    /// A number is added to a counter of a slot.
    Count(u32, Counter, u64),
    /// The counters of a slot have been stored up to these values.
    CountersStored(u32, Box<Values>),
    /// These hits have been stored, or their entries are gone.
    HitsStored(Vec<Hits>),
    /// These entries have been removed, and their hits with them.
    Removed(Vec<Entry>),
    /// Every trace of this user is removed.
    ForgetUser(Uuid),
}

thread_local! {
    pub static CHANGES: Queue<Change> = const { Queue::new() };
}

/// Makes a change when the transaction commits.
pub fn at_commit(change: Change) {
    // A transaction that writes many entries of one type has one change for each counter.
    CHANGES.with(|changes| {
        changes.push(change, |earlier, new| match (earlier, new) {
            (Change::Count(slot, counter, total), Change::Count(of_slot, of_counter, number))
                if (*slot, *counter) == (*of_slot, *of_counter) =>
            {
                *total = total.saturating_add(*number);
                true
            }
            _ => false,
        });
    });
}

/// Whether the transaction has stored something that is still in shared memory, and must not be stored again.
pub fn has_stored() -> bool {
    CHANGES.with(|changes| changes.find(|change| change.stores().then_some(()))).is_some()
}

/// Returns the error of PREPARE TRANSACTION after a flush or an erasure: 0A000. What has been stored may leave shared memory
/// only when the commit is certain, and another session would decide that.
pub fn refusal_to_prepare() -> Refusal {
    Refusal::new(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        "cannot PREPARE a transaction that has stored statistics or erased a user",
    )
    .detail("Shared memory keeps what is stored until the commit, which may come from another session, or never.")
    .hint("Call cache_flush_statistics() and cache_forget_user() in a transaction of their own.")
}

/// Returns the counters of this database. What the transaction has stored is not pending.
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

/// Returns the number of hits of one entry that its row does not show.
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

/// Returns the hits of all entries that their rows do not show.
pub fn pending_hits() -> Vec<Hits> {
    let mut pending = hits::all();
    let mut stored: HashMap<Entry, (u64, Tokens)> = HashMap::new();
    for_each_stored(|hits| {
        let (number, tokens) = stored.entry(hits.entry).or_default();
        *number += hits.hits;
        *tokens = tokens.plus(hits.tokens);
    });
    if !stored.is_empty() {
        for hits in &mut pending {
            if let Some((number, tokens)) = stored.get(&hits.entry) {
                hits.hits = hits.hits.saturating_sub(*number);
                hits.tokens = hits.tokens.minus(*tokens);
            }
        }
        pending.retain(|hits| hits.hits > 0);
    }
    pending
}

/// Shows `look` the hits that the transaction has stored.
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
    /// Refuses where something has been stored, which must stay in memory until the commit is certain.
    fn refuses_prepare(&self) -> Option<Refusal> {
        self.stores().then(refusal_to_prepare)
    }

    fn committed(self) {
        match self {
            Self::Count(slot, counter, number) => counters::slot(slot).add(counter, number),
            Self::CountersStored(slot, values) => counters::note_stored(slot, &values),
            Self::HitsStored(hits) => hits::take_stored(&hits),
            Self::Removed(entries) => entries.iter().for_each(hits::forget),
            Self::ForgetUser(user_id) => hits::forget_user(&user_id),
        }
    }

    /// Keeps a count until the prepared transaction ends, and counts at once where there is no room. Hits of removed entries
    /// leave memory with the next flush.
    fn prepared(self) {
        if let Self::Count(slot, counter, number) = self
            && number > 0
            && !prepared::keep(slot, counter, number)
        {
            self.committed();
        }
    }
}
