//! What a transaction has to do with leases: the steps F2, C1 and A1 of `fence.rs`, at its end.
//!
//! C1 runs when the transaction has committed, where an ERROR would be a PANIC: it allocates nothing, and calls nothing of the
//! server but the lock and those who sleep.

use super::fence::{Hold, Me};
use super::memory::{me, visit, visit_and_wake};
use super::subject::Bytes;
use super::table::Header;
use super::types::overtaken;
use crate::pg::backend::nest_level;
use crate::pg::transaction_end::{End, Owner};
use crate::statistics::counted_now;
use crate::statistics::counters::Count;
use std::cell::Cell;

/// Leases, each with the nesting level of the subtransaction that it belongs to. No level is below that of an earlier element,
/// so what a subtransaction ends stands at the end.
type Levels<T = Hold> = Vec<(i32, T)>;

/// What this backend's transaction has in shared memory. Lists are taken out while they are used, so that none is borrowed
/// while the server is called.
#[derive(Default)]
pub struct Mine {
    /// The transaction's number among grants and invalidations; 0 = it has none.
    number: Cell<u64>,
    /// Its row of pending invalidations.
    row: Cell<Option<u32>>,
    fills: Cell<Levels>,
    grants: Cell<Levels>,
    /// The users that it erases.
    erased: Cell<Levels<Bytes>>,
    /// The lease that it waits for, and the level at which it does.
    waits: Cell<Option<(i32, Hold)>>,
}

fn holds(list: &[(i32, Hold)]) -> impl Iterator<Item = Hold> + Clone {
    list.iter().map(|(_, hold)| *hold)
}

thread_local! {
    static MINE: Mine = Mine::default();
}

/// Tells shared memory of the ends of this backend's transactions.
pub struct Ends;

pub static ENDS: Ends = Ends;

/// Returns the transaction as it takes a step, under the lock. It gets a number with its first step.
pub fn with_number(header: &mut Header) -> Me {
    MINE.with(|mine| {
        if mine.number.get() == 0 {
            header.order += 1;
            mine.number.set(header.order);
        }
        me(mine.number.get())
    })
}

/// Returns the transaction's number; 0 before its first step.
pub fn number() -> u64 {
    MINE.with(|mine| mine.number.get())
}

pub fn row() -> Option<u32> {
    MINE.with(|mine| mine.row.get())
}

pub fn set_row(row: u32) {
    MINE.with(|mine| mine.row.set(Some(row)));
}

/// Whether others may have to wait for the end of the transaction: it was granted a lease, stores with one, or invalidates.
pub fn is_awaited() -> bool {
    fn has_any<T>(list: &Cell<Levels<T>>) -> bool {
        let all = list.take();
        let has_any = !all.is_empty();
        list.set(all);
        has_any
    }
    MINE.with(|mine| mine.row.get().is_some() || has_any(&mine.fills) || has_any(&mine.grants))
}

fn push<T>(list: &Cell<Levels<T>>, new: T) {
    let mut all = list.take();
    all.push((nest_level(), new));
    list.set(all);
}

/// Returns where what a subtransaction of a level ends begins.
fn first_of<T>(list: &Levels<T>, level: i32) -> usize {
    list.len() - list.iter().rev().take_while(|(of, _)| *of >= level).count()
}

/// Gives what subtransactions of a level have to their parents.
fn hand_up<T>(list: &Cell<Levels<T>>, level: i32) {
    let mut all = list.take();
    let first = first_of(&all, level);
    all[first..].iter_mut().for_each(|(of, _)| *of = level - 1);
    list.set(all);
}

/// Records a lease that the transaction was granted: a rollback ends it.
pub fn granted(hold: Hold) {
    MINE.with(|mine| push(&mine.grants, hold));
}

/// Records a fill: the commit ends its lease, and a rollback gives it back.
pub fn fills(hold: Hold) {
    MINE.with(|mine| push(&mine.fills, hold));
}

/// Records that the transaction erases a user: its commit frees the user's slots.
pub fn erases(user: Bytes) {
    MINE.with(|mine| push(&mine.erased, user));
}

/// Records that the session waits, until [`stops_waiting`] or a rollback.
pub fn waits(hold: Hold) {
    MINE.with(|mine| mine.waits.set(Some((nest_level(), hold))));
}

pub fn stops_waiting() {
    MINE.with(|mine| {
        if let Some((_, hold)) = mine.waits.take() {
            visit(|fence| fence.stop_waiting(me(mine.number.get()), &hold));
        }
    });
}

impl Mine {
    /// F2.
    fn begin_commit(&self) {
        let fills = self.fills.take();
        let count = |at| counted_now(Some(at), Count::RefusedFills, 1);
        let may = fills.is_empty()
            || visit(|fence| fence.begin_commit(me(self.number.get()), holds(&fills), count)) != Some(false);
        self.fills.set(fills);
        if !may {
            overtaken().raise();
        }
    }

    /// C1. `voided`: the leases that end, although the transaction has not been rolled back.
    fn commit(&self, voided: Levels<Hold>) {
        let (fills, row, erased) = (self.fills.take(), self.row.take(), self.erased.take());
        let me = me(self.number.take());
        drop(self.grants.take());
        if row.is_some() || !fills.is_empty() || !erased.is_empty() || !voided.is_empty() {
            let erased = erased.iter().map(|(_, user)| *user);
            visit_and_wake(|fence| {
                let mut changed = fence.committed(me, row, holds(&fills), erased);
                fence.void(me, holds(&voided), &mut changed);
                ((), changed)
            });
        }
    }

    /// A1.
    fn roll_back(&self, level: i32) {
        if self.waits.get().is_some_and(|(of, _)| of >= level) {
            stops_waiting();
        }
        let (mut fills, mut grants) = (self.fills.take(), self.grants.take());
        let row = self.row.get();
        let (first_fill, first_grant) = (first_of(&fills, level), first_of(&grants, level));
        if row.is_some() || first_fill < fills.len() || first_grant < grants.len() {
            let me = me(self.number.get());
            visit_and_wake(|fence| {
                let (fills, grants) = (holds(&fills[first_fill..]), holds(&grants[first_grant..]));
                ((), fence.rolled_back(me, row, level, fills, grants))
            });
        }
        let mut erased = self.erased.take();
        erased.truncate(first_of(&erased, level));
        self.erased.set(erased);
        fills.truncate(first_fill);
        grants.truncate(first_grant);
        self.fills.set(fills);
        self.grants.set(grants);
        if level <= 1 {
            self.row.set(None);
            self.number.set(0);
        }
    }

    /// A subtransaction commits.
    fn hand_up(&self, level: i32) {
        hand_up(&self.fills, level);
        hand_up(&self.grants, level);
        hand_up(&self.erased, level);
        if let Some(row) = self.row.get() {
            visit(|fence| fence.hand_up(row, level));
        }
    }
}

impl Owner for Ends {
    fn ends(&'static self, end: End) {
        MINE.with(|mine| match end {
            End::BeforeCommit | End::BeforePrepare => mine.begin_commit(),
            End::Committed => mine.commit(Levels::new()),
            End::Prepared => mine.commit(mine.grants.take()),
            End::RolledBack => mine.roll_back(1),
            End::SubtransactionCommitted(level) => mine.hand_up(level),
            End::SubtransactionRolledBack(level) => mine.roll_back(level),
        });
    }
}
