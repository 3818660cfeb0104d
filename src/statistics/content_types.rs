//! Which types of content have counters of their own: those that have a content policy, and those that an
//! entry was stored of. Anybody can look up a name that he has made up; such names are counted together, and
//! whoever stores entries of many types can take half of the places.

#![allow(unsafe_code)]

use super::counters::{self, Room};
use crate::home::{Home, POLICIES};
use crate::spi::Access;
use crate::{kept, owner};
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// Names without a place of their own that a backend remembers.
const REMEMBERED: usize = 16_384;
/// Content policies that it remembers: as many as there can be places.
const LISTED: usize = 10_000;
/// How long it takes content policies at their word: a type that gets one is noticed then.
const NEWS_AFTER: Duration = Duration::from_secs(60);

/// What a backend knows of places.
#[derive(Default)]
struct Known {
    /// Types with a place of their own. None is given up while somebody is connected to its database.
    own: HashMap<Vec<u8>, u32>,
    /// Others, each with the place that counts it, and whether it was known then that there are entries of it.
    others: HashMap<Vec<u8>, (u32, bool)>,
    /// That of the places when the others were found to have none.
    generation: u32,
    /// Types with a content policy.
    listed: HashSet<Vec<u8>>,
    listed_at: Option<Instant>,
}

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::new(Known::default());
}

impl Known {
    fn is_old(&self) -> bool {
        self.listed_at.is_none_or(|at| at.elapsed() >= NEWS_AFTER)
    }

    fn place_of(&mut self, content_type: &[u8], has_entries: bool) -> Option<u32> {
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

/// The number of the place that counts a type of content, if counting is on and there is one. `has_entries`:
/// whether it is known that there are entries of the type, or were.
pub fn place_of(content_type: &[u8], has_entries: bool) -> Option<u32> {
    if !counters::are_on() {
        return None;
    }
    if let Some(number) = KNOWN.with_borrow_mut(|known| known.place_of(content_type, has_entries)) {
        return Some(number);
    }
    let own = counters::find(content_type);
    let listed = if own.is_some() { None } else { is_listed(content_type) };
    let room = match listed {
        Some(true) => Room::Listed,
        _ if has_entries => Room::Unlisted,
        _ => Room::None,
    };
    let number = own.or_else(|| counters::find_or_make(content_type, room))?;
    KNOWN.with_borrow_mut(|known| {
        if !counters::place(number).is_for_others() {
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

/// Whether a type has a content policy of its own; `None` when that cannot be told now.
fn is_listed(content_type: &[u8]) -> Option<bool> {
    if KNOWN.with_borrow(Known::is_old) {
        let listed = read_listed()?;
        KNOWN.with_borrow_mut(|known| {
            known.listed = listed;
            known.listed_at = Some(Instant::now());
        });
    }
    Some(KNOWN.with_borrow(|known| known.listed.contains(content_type)))
}

/// The types that have a content policy. A lookup asks, so this waits for nobody, and needs no right of the
/// caller's; `None` when somebody has locked the table.
fn read_listed() -> Option<HashSet<Vec<u8>>> {
    let home = Home::current();
    let table = home.find_table(POLICIES)?;
    // SAFETY: takes a lock until the end of the transaction, as a statement would.
    let locked = unsafe { pg_sys::ConditionalLockRelationOid(table, pg_sys::AccessShareLock as pg_sys::LOCKMODE) };
    // It may have been dropped before it was locked.
    if !locked || home.find_table(POLICIES) != Some(table) {
        return None;
    }
    let sql = |schema: &str| {
        format!("SELECT CAST(content_type AS pg_catalog.text) FROM {schema}.cache_content_policies LIMIT {LISTED}")
    };
    let names = owner::as_owner_of(table, || {
        kept::run(Access::Read, "content types", sql, &[], |rows| rows.map(|rows, row| rows.text(row, 1)))
    });
    Some(names.into_iter().flatten().collect())
}
