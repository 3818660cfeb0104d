//! The flush of hits: adds them to the rows of their entries. They leave shared memory when the transaction commits, so that a
//! rollback loses nothing and counts nothing twice.

use super::at_commit::{Change, at_commit};
use super::counters;
use super::hits::{self, Entry, Hits};
use super::tokens::Tokens;
use crate::access::all_rows::must_change_all;
use crate::extension::{BY_TYPE, BY_USER, CACHE, Extension, saved_plan};
use crate::pg::spi::{self, Access};
use pgrx::datum::{DatumWithOid, TimestampWithTimeZone};

/// Entries that one statement updates.
const BATCH: usize = 1000;

/// How many entries a batch has updated, and how many not.
#[derive(Default)]
pub struct Batch {
    pub updated: i64,
    /// Left for later, because another transaction has locked their rows, or this one's snapshot may be too old to show them.
    pub locked: i64,
}

/// Entries whose hits are to be stored, in the order of users and digests, in which everybody locks rows.
pub struct Entries {
    keys: std::vec::IntoIter<Entry>,
    /// Entries whose page holds an entry that has just been updated. They make up the next round.
    postponed: Vec<Entry>,
    /// Whether any entry of this round was updated or locked, so that another round makes sense.
    progress: bool,
}

impl Entries {
    /// Returns all entries that have hits in shared memory.
    pub fn counted() -> Self {
        let mut keys: Vec<_> = hits::all().into_iter().map(|hits| hits.entry).collect();
        keys.sort_unstable_by_key(|entry| (*entry.user_id, *entry.digest, entry.id.map(|id| *id)));
        Self { keys: keys.into_iter(), postponed: Vec::new(), progress: false }
    }

    /// Stores the hits of the next entries; `None` when there are no more. With `spread` it updates one entry of each page,
    /// because the page has room for one new version, and so no index is written. A later batch finds the room of the old
    /// version free again.
    pub fn flush_batch(&mut self, extension: &Extension, spread: bool) -> Option<Batch> {
        if self.keys.len() == 0 && self.progress {
            self.keys = std::mem::take(&mut self.postponed).into_iter();
            self.progress = false;
        }
        let keys: Vec<_> = self.keys.by_ref().take(BATCH).collect();
        if keys.is_empty() {
            return None;
        }
        // Read again, because another session may have stored them meanwhile.
        let counted: Vec<Hits> = keys.iter().filter_map(|entry| hits::of(entry, true)).collect();
        let stages = update(extension, &counted, spread);
        let mut batch = Batch::default();
        let mut done = Vec::with_capacity(counted.len());
        for (number, hits) in counted.into_iter().enumerate() {
            match stages[number] {
                Stage::Updated => {
                    batch.updated += 1;
                    done.push(hits);
                }
                // An old snapshot shows no new entry.
                Stage::Gone if spi::uses_transaction_snapshot() => batch.locked += 1,
                Stage::Gone => done.push(hits),
                Stage::Chosen => batch.locked += 1,
                Stage::Found => self.postponed.push(hits.entry),
            }
        }
        // A locked entry must not keep the others of its page from their turn.
        self.progress |= batch.updated + batch.locked > 0;
        at_commit(Change::HitsStored(done));
        Some(batch)
    }
}

/// How far an entry has come in the statement that stores its hits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// The statement found no row.
    Gone,
    /// The entry's turn comes with a later batch.
    Found,
    /// The entry's turn has come, but another transaction has locked its row.
    Chosen,
    Updated,
}

/// Adds hits, and what they have saved, to the rows of their entries, and to the summaries if there are any.
fn update(extension: &Extension, counted: &[Hits], spread: bool) -> Vec<Stage> {
    let mut stages = vec![Stage::Gone; counted.len()];
    if counted.is_empty() {
        return stages;
    }
    // An entry that row security hid would count as gone.
    must_change_all(extension, &[CACHE, BY_TYPE, BY_USER]);
    let moments = |hits: &Hits| TimestampWithTimeZone::try_from(hits.last).expect("a moment of the clock");
    let number = |number: u64| number.min(counters::MOST) as i64;
    let tokens: Vec<Tokens> = counted.iter().map(|hits| hits.tokens.carried()).collect();
    let args: [DatumWithOid; 8] = [
        counted.iter().map(|hits| hits.entry.user_id).collect::<Vec<_>>().into(),
        counted.iter().map(|hits| hits.entry.digest).collect::<Vec<_>>().into(),
        counted.iter().map(|hits| hits.entry.id).collect::<Vec<_>>().into(),
        counted.iter().map(|hits| number(hits.hits)).collect::<Vec<_>>().into(),
        tokens.iter().map(|tokens| number(tokens.units)).collect::<Vec<_>>().into(),
        tokens.iter().map(|tokens| number(tokens.millionths)).collect::<Vec<_>>().into(),
        counted.iter().map(moments).collect::<Vec<_>>().into(),
        spread.into(),
    ];
    saved_plan::run(
        Access::Write,
        "flush hits",
        |schema| include_str!("../../sql/statements/flush_hits.sql").replace("@extschema@", schema),
        &args,
        |rows| {
            for row in 0..rows.count() {
                let number = rows.get::<i64>(row, 1).expect("a number") as usize - 1;
                let stage = match rows.get::<i32>(row, 2) {
                    Some(1) => Stage::Found,
                    Some(2) => Stage::Chosen,
                    _ => Stage::Updated,
                };
                stages[number] = stage.max(stages[number]);
            }
        },
    );
    stages
}
