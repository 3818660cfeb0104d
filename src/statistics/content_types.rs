//! The content types that have counters of their own: those with a content policy, and those of stored entries. Anybody can
//! look up an invented name, so all other names are counted together. Types without a policy take at most half of the slots,
//! because any tenant can store entries of many types. This file also tells the cost of an entry whose row does not say it.

use super::counters::{self, Quota};
use super::tokens::{MILLIONTHS, Tokens};
use crate::address::EVERY_OTHER_TYPE;
use crate::extension::{Extension, POLICIES, saved_plan};
use crate::pg::privileges;
use crate::pg::shared_memory::is_preloaded;
use crate::pg::spi::Access;
use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Names without a slot of their own that a backend remembers.
const REMEMBERED: usize = 16_384;
/// Content policies that a backend remembers: as many as there can be slots.
const LISTED: usize = 10_000;
/// Time until a backend reads the content policies again, and notices a type that has got one.
const NEWS_AFTER: Duration = Duration::from_secs(60);

/// What a backend knows of slots.
#[derive(Default)]
struct Known {
    /// Types with a slot of their own, which no type loses while somebody is connected to its database.
    own: HashMap<Vec<u8>, u32>,
    /// Other types, each with the slot that counts it, and whether it was known then that there are entries of the type.
    others: HashMap<Vec<u8>, (u32, bool)>,
    /// The generation of the counters when the others were found to have no slot.
    generation: u32,
    /// The cost of an answer of each type with a content policy; `*` stands for all other types.
    listed: HashMap<Vec<u8>, Tokens>,
    listed_at: Option<Instant>,
}

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::new(Known::default());
}

impl Known {
    fn is_old(&self) -> bool {
        self.listed_at.is_none_or(|at| at.elapsed() >= NEWS_AFTER)
    }

    fn slot_of(&mut self, content_type: &[u8], has_entries: bool) -> Option<u32> {
        if let Some(number) = self.own.get(content_type) {
            return Some(*number);
        }
        let generation = counters::generation();
        if generation != self.generation || self.is_old() {
            self.others.clear();
            self.generation = generation;
        }
        let (number, had_entries) = self.others.get(content_type)?;
        (*had_entries || !has_entries).then_some(*number)
    }
}

/// Returns the number of the slot that counts a content type; `None` without shared memory, or when there is no slot.
/// `has_entries`: whether it is known that there are entries of the type, or were.
pub fn slot_of(content_type: &[u8], has_entries: bool) -> Option<u32> {
    if !is_preloaded() {
        return None;
    }
    if let Some(number) = KNOWN.with_borrow_mut(|known| known.slot_of(content_type, has_entries)) {
        return Some(number);
    }
    let own = counters::find(content_type);
    let listed = if own.is_some() { None } else { is_listed(content_type) };
    let quota = match listed {
        Some(true) => Quota::Listed,
        _ if has_entries => Quota::Unlisted,
        _ => Quota::None,
    };
    let number = own.or_else(|| counters::find_or_make(content_type, quota))?;
    KNOWN.with_borrow_mut(|known| {
        if counters::overflow_slot() != Some(number) {
            known.own.insert(content_type.to_vec(), number);
        } else if listed.is_some() {
            if known.others.len() >= REMEMBERED {
                known.others.clear();
            }
            known.others.insert(content_type.to_vec(), (number, has_entries));
        }
    });
    Some(number)
}

/// Returns the cost of an answer of a type, from the type's content policy or else that of `*`. Without either it is 1, which
/// `*` is installed with. It is 0 as long as the policies cannot be read.
pub fn cost_of(content_type: &[u8]) -> Tokens {
    renew();
    KNOWN.with_borrow(|known| {
        let cost = known.listed.get(content_type).or_else(|| known.listed.get(EVERY_OTHER_TYPE));
        let installed = if known.listed_at.is_some() { Tokens { units: 1, millionths: 0 } } else { Tokens::default() };
        cost.copied().unwrap_or(installed)
    })
}

/// Whether a type has a content policy of its own; `None` when the policies cannot be read now.
fn is_listed(content_type: &[u8]) -> Option<bool> {
    renew().then(|| KNOWN.with_borrow(|known| known.listed.contains_key(content_type)))
}

/// Reads the content policies if what is known of them is old. Returns whether it is new enough now.
fn renew() -> bool {
    if !KNOWN.with_borrow(Known::is_old) {
        return true;
    }
    let Some(listed) = read_listed() else { return false };
    KNOWN.with_borrow_mut(|known| {
        known.listed = listed;
        known.listed_at = Some(Instant::now());
    });
    true
}

/// Reads the types that have a content policy, with their costs; `None` when another session has locked the table. A lookup
/// calls this, so it waits for nobody, and reads with the rights of the table's owner.
fn read_listed() -> Option<HashMap<Vec<u8>, Tokens>> {
    let extension = Extension::current();
    let table = extension.try_lock_to_read(POLICIES)?;
    // `*` comes first, so that it is read however many policies there are.
    let sql = |schema: &str| {
        format!(
            "SELECT CAST(content_type AS pg_catalog.text), {MILLIONTHS} FROM {schema}.{POLICIES} \
             ORDER BY content_type OPERATOR(pg_catalog.<>) '*' LIMIT {LISTED}"
        )
    };
    let policies = privileges::as_owner_of(table, || {
        saved_plan::run(Access::Read, "content types", sql, &[], |rows| {
            rows.map(|rows, row| {
                rows.text(row, 1).map(|name| (name, rows.get(row, 2).map_or(Tokens::default(), Tokens::of_cost)))
            })
        })
    });
    Some(policies.into_iter().flatten().collect())
}
