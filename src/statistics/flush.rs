//! Flush: what has been counted in shared memory is stored in the entries' rows and in the roll-up by
//! hours. It leaves memory when the transaction that has stored it commits, so that nothing is lost by a
//! rollback and nothing is counted twice.

#![allow(unsafe_code)]

use super::at_commit::{Change, at_commit, counted};
use super::counters::{self, COUNTERS, Count, Counted};
use super::hits::{self, Entry, Hits};
use super::tokens::Tokens;
use crate::access::all_rows::must_change_all;
use crate::extension::{BY_TYPE, BY_USER, CACHE, Extension, STATISTICS, saved_plan};
use crate::pg::clock;
use crate::pg::spi::{self, Access};
use pgrx::datum::{DatumWithOid, TimestampWithTimeZone};
use pgrx::pg_sys;

/// Entries that one statement updates.
const BATCH: usize = 1000;

/// Adds the counters to the current hour of the roll-up; returns of how many content types.
pub fn store_counters(extension: &Extension) -> i64 {
    const HOUR: i64 = 3_600_000_000;
    let hour = clock::now().div_euclid(HOUR) * HOUR;
    let mut counted = counted();
    let knows_evictions = knows_evictions(extension);
    if !knows_evictions {
        // They stay in memory until cache_setup() has added the column.
        for counted in &mut counted {
            counted.now[Count::Evictions as usize] -= counted.pending[Count::Evictions as usize];
            counted.pending[Count::Evictions as usize] = 0;
        }
    }
    counted.retain(|counted| counted.pending != [0; COUNTERS]);
    if !counted.is_empty() {
        must_change_all(extension, &[STATISTICS]);
    }
    for counted in &counted {
        store(hour, counted, knows_evictions);
        at_commit(Change::CountersStored(counted.number, Box::new(counted.now)));
    }
    counted.len() as i64
}

/// Whether the roll-up has a column for evictions; a table of 0.2.0 has none until the extension's update, or after the
/// restore of a dump until cache_setup().
fn knows_evictions(extension: &Extension) -> bool {
    // SAFETY: a lookup in the system cache by a NUL-terminated name.
    unsafe { pg_sys::get_attnum(extension.table(STATISTICS), c"evictions".as_ptr()) > 0 }
}

fn store(hour: i64, counted: &Counted, knows_evictions: bool) {
    let number = |count: Count| DatumWithOid::from(counted.pending[count as usize] as i64);
    let mut args = vec![
        spi::timestamptz(hour),
        spi::text(&counted.content_type),
        number(Count::Hits),
        number(Count::Misses),
        number(Count::Stale),
        number(Count::Upserts),
        number(Count::Invalidations),
        number(Count::Expirations),
        number(Count::UntrackedHits),
        number(Count::AuditLost),
        number(Count::TokensSpent),
        number(Count::MillionthsSpent),
        number(Count::TokensSaved),
        number(Count::MillionthsSaved),
        counters::histogram(&counted.pending, 0).into(),
        counters::histogram(&counted.pending, 1).into(),
    ];
    let mut columns =
        vec!["hits", "misses", "stale", "upserts", "invalidations", "expirations", "untracked_hits", "audit_lost"];
    let (name, column, value) = if knows_evictions {
        args.push(number(Count::Evictions));
        columns.push("evictions");
        ("drain counters", ", evictions", ", $17")
    } else {
        ("drain counters of 0.2.0", "", "")
    };
    let sums: Vec<String> = columns
        .iter()
        .map(|column| format!("{column} = least(h.{column}::numeric + excluded.{column}, 9223372036854775807)::bigint"))
        .collect();
    let histograms = ["lookup_us", "upsert_us"].map(|column| {
        format!(
            "{column} = ARRAY(SELECT least(coalesce(a, 0)::numeric + coalesce(b, 0), 9223372036854775807)::bigint \
             FROM unnest(h.{column}, excluded.{column}) WITH ORDINALITY AS u (a, b, n) ORDER BY n)"
        )
    });
    saved_plan::run(
        Access::Write,
        name,
        |schema| {
            format!(
                "INSERT INTO {schema}.{STATISTICS} AS h \
                     (hour, content_type, hits, misses, stale, upserts, invalidations, expirations, untracked_hits, \
                      audit_lost, tokens_spent, tokens_saved, lookup_us, upsert_us{column}) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, \
                         trim_scale($11 + $12 * 0.000001), trim_scale($13 + $14 * 0.000001), $15, $16{value}) \
                 ON CONFLICT (hour, content_type) DO UPDATE SET {}, {}, \
                     tokens_spent = h.tokens_spent + excluded.tokens_spent, \
                     tokens_saved = h.tokens_saved + excluded.tokens_saved",
                sums.join(", "),
                histograms.join(", ")
            )
        },
        &args,
        |_| (),
    );
}

/// How many entries a batch has updated, and how many not.
#[derive(Default)]
pub struct Batch {
    pub updated: i64,
    /// Left for later, since somebody else holds them, or this transaction may not see them.
    pub locked: i64,
}

/// Entries whose hits are to be stored, in the order of users and digests, in which everybody locks rows.
pub struct Entries {
    keys: std::vec::IntoIter<Entry>,
    /// Those that share a page with one that has just been updated.
    postponed: Vec<Entry>,
    /// Whether any of this round was updated, or held by somebody.
    progress: bool,
}

impl Entries {
    /// All that have been counted.
    pub fn counted() -> Self {
        let mut keys: Vec<_> = hits::all().into_iter().map(|hits| hits.entry).collect();
        keys.sort_unstable_by_key(|entry| (*entry.user_id, *entry.digest, entry.id.map(|id| *id)));
        Self { keys: keys.into_iter(), postponed: Vec::new(), progress: false }
    }

    /// Stores the hits of the next entries, `None` when there are no more. With `spread` it updates one entry
    /// of a page: the page has room for its new version, so that no index need be touched, and the next
    /// transaction finds the room of the old one free again.
    pub fn store_batch(&mut self, extension: &Extension, spread: bool) -> Option<Batch> {
        if self.keys.len() == 0 && self.progress {
            self.keys = std::mem::take(&mut self.postponed).into_iter();
            self.progress = false;
        }
        let keys: Vec<_> = self.keys.by_ref().take(BATCH).collect();
        if keys.is_empty() {
            return None;
        }
        // Read anew, since somebody else may have stored them meanwhile.
        let counted: Vec<Hits> = keys.iter().filter_map(|entry| hits::of(entry, true)).collect();
        let outcomes = update(extension, &counted, spread);
        let mut batch = Batch::default();
        let mut done = Vec::with_capacity(counted.len());
        for (number, hits) in counted.into_iter().enumerate() {
            match outcomes[number] {
                Outcome::Updated => {
                    batch.updated += 1;
                    done.push(hits);
                }
                // An old snapshot shows no new entry.
                Outcome::Gone if spi::uses_transaction_snapshot() => batch.locked += 1,
                Outcome::Gone => done.push(hits),
                Outcome::Locked => batch.locked += 1,
                Outcome::Postponed => self.postponed.push(hits.entry),
            }
        }
        // One that is held must not keep the others of its page from their turn.
        self.progress |= batch.updated + batch.locked > 0;
        at_commit(Change::HitsStored(done));
        Some(batch)
    }
}

/// What became of an entry's hits. Each goes further than the one before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Gone,
    /// Found, but not chosen.
    Postponed,
    /// Chosen, but somebody else holds it.
    Locked,
    Updated,
}

/// Adds hits, and what they have saved, to the rows of their entries, and to the summaries, where there are any.
fn update(extension: &Extension, counted: &[Hits], spread: bool) -> Vec<Outcome> {
    let mut outcomes = vec![Outcome::Gone; counted.len()];
    if counted.is_empty() {
        return outcomes;
    }
    // An entry that is hidden is not gone.
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
        "drain hits",
        |schema| include_str!("../../sql/statements/flush_hits.sql").replace("@extschema@", schema),
        &args,
        |rows| {
            for row in 0..rows.count() {
                let number = rows.get::<i64>(row, 1).expect("a number") as usize - 1;
                let outcome = match rows.get::<i32>(row, 2) {
                    Some(1) => Outcome::Postponed,
                    Some(2) => Outcome::Locked,
                    _ => Outcome::Updated,
                };
                outcomes[number] = outcome.max(outcomes[number]);
            }
        },
    );
    outcomes
}
