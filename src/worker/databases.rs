//! What launcher, workers and views know of each database: a slot each, in shared memory. It is lost when
//! the server restarts, and found anew by the first ticks.

#![allow(unsafe_code)]

use super::database_list::DatabaseList;
use super::schedule::{self, MINUTE};
use crate::maintenance::budget::LONGEST_BATCH;
use crate::maintenance::steps;
use crate::pg::clock::now;
use crate::pg::shared_memory::{Area, Lock};
use crate::pg::subtransaction::MARK;
use pgrx::pg_sys;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::Duration;

/// Databases that are remembered.
pub const SLOTS: usize = 2048;
/// Steps of maintenance that a slot has room for.
const STEPS: usize = 16;
const _: () = assert!(steps::STEPS.len() <= STEPS);
/// A database without the extension is looked at again after this time.
const ABSENT: i64 = 10 * MINUTE;

pub const AREA: Area = Area {
    name: c"infinite_pages_cache databases",
    bytes: || size_of::<Databases>(),
    locks: || 1,
    start: |memory, locks| {
        MEMORY.store(memory.cast(), Ordering::Relaxed);
        LOCKS.store(locks, Ordering::Relaxed);
    },
};

static MEMORY: AtomicPtr<Databases> = AtomicPtr::new(std::ptr::null_mut());
static LOCKS: AtomicPtr<pg_sys::LWLockPadded> = AtomicPtr::new(std::ptr::null_mut());

/// What the last tick in a database found.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Found {
    /// Nobody has looked yet.
    #[expect(dead_code, reason = "a new slot is all zeros")]
    Nothing = 0,
    /// The extension is not installed.
    Absent,
    /// Tables without their keys, as in the middle of a restore.
    NotReady,
    /// Transactions are read-only.
    ReadOnly,
    /// A cache to look after.
    Cache,
}

/// A message of bounded length.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Message {
    length: u16,
    bytes: [u8; 510],
}

impl Message {
    /// Sets a text, which is cut where it is too long; but for its SQLSTATE, by which it is known as what an error said.
    fn set(&mut self, text: &str) {
        let size = self.bytes.len();
        let code = text.find(MARK).filter(|_| text.len() > size).and_then(|at| text.get(at..at + MARK.len() + 6));
        let code = code.unwrap_or_default();
        let mut length = text.len().min(size - code.len());
        while !text.is_char_boundary(length) {
            length -= 1;
        }
        let end = length + code.len();
        self.bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
        self.bytes[length..end].copy_from_slice(code.as_bytes());
        self.length = end as u16;
    }

    /// The text; `None` when there is none.
    pub fn text(&self) -> Option<String> {
        let bytes = &self.bytes[..usize::from(self.length).min(self.bytes.len())];
        (!bytes.is_empty()).then(|| String::from_utf8_lossy(bytes).into_owned())
    }
}

/// How a step fares in a database.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct StepState {
    /// It is not tried before this moment.
    pub not_before: i64,
    /// Failures since it last succeeded.
    pub failures: u32,
}

/// A tick at work.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Running {
    /// Process id of the worker; 0 = none.
    pub pid: i32,
    pub step: u32,
    pub steps_done: u32,
    pub run_started: i64,
    pub step_started: i64,
    /// What the step has done so far.
    pub affected: i64,
}

/// A database. Every field may be zero, which is what a new slot is.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Slot {
    /// `InvalidOid` = the slot is free.
    pub database: pg_sys::Oid,
    pub found: Found,
    /// Announced since the last tick was started.
    pub announced: bool,
    /// Failures since the last success: ticks with a failing step, or that could not be.
    pub failures: u32,
    /// Rises with each tick that has come to its end.
    pub ticks: u32,
    pub next_tick: i64,
    /// 0 = never, as with the next.
    pub last_run: i64,
    pub last_success: i64,
    pub last_error: Message,
    pub steps: [StepState; STEPS],
    pub running: Running,
    /// When nothing was overdue for want of a cache: the database was new, or announced, or had none.
    nothing_due: i64,
    /// Rises with each transaction that the worker begins.
    pub transactions: u32,
    /// Longest that the current one may take, in milliseconds.
    longest: u32,
}

impl Slot {
    /// Records that a worker is being started.
    pub fn started(&mut self, next_tick: i64) {
        self.announced = false;
        self.next_tick = next_tick;
        self.transaction_begins(LONGEST_BATCH);
    }

    /// Records that a transaction begins, and the longest it may take.
    pub fn transaction_begins(&mut self, longest: Duration) {
        self.transactions = self.transactions.wrapping_add(1);
        self.longest = longest.as_millis() as u32;
    }

    /// The longest that the current transaction may take.
    pub fn longest_transaction(&self) -> Duration {
        Duration::from_millis(self.longest.into())
    }

    /// Whether maintenance should have had its turn long ago; `since` = when the launcher began to work.
    pub fn is_overdue(&self, now: i64, naptime: i64, since: i64) -> bool {
        let longest = if self.running.pid == 0 { LONGEST_BATCH } else { self.longest_transaction() };
        let last = self.last_run.max(self.nothing_due).max(since);
        schedule::is_overdue(last, self.next_tick, now, naptime, longest.as_micros() as i64)
    }

    /// Records that the database has no cache to look after, or none that may be touched now.
    pub fn found_none(&mut self, found: Found, now: i64) {
        self.found = found;
        self.nothing_due = now;
        // An announcement may have come after the tick had looked.
        if found == Found::Absent && !self.announced {
            self.next_tick = now + ABSENT;
        }
        self.ticks = self.ticks.wrapping_add(1);
    }

    /// Records a tick, or an attempt at one, that failed as a whole: the next waits longer.
    pub fn failed(&mut self, message: &str, now: i64, naptime: i64) {
        self.failures = self.failures.saturating_add(1);
        self.last_error.set(message);
        let wait = schedule::backoff(naptime, self.failures, schedule::dice(now));
        self.next_tick = self.next_tick.max(now + wait);
        self.ticks = self.ticks.wrapping_add(1);
    }

    /// Records that no worker could be started.
    pub fn not_started(&mut self, message: &str) {
        self.failures = self.failures.saturating_add(1);
        self.last_error.set(message);
    }

    /// Records a failed step.
    pub fn step_failed(&mut self, step: usize, message: &str, now: i64, naptime: i64) {
        self.last_error.set(message);
        let took = if self.running.step_started > 0 { now - self.running.step_started } else { 0 };
        if let Some(state) = self.steps.get_mut(step) {
            state.failures = state.failures.saturating_add(1);
            let wait = schedule::backoff(naptime, state.failures, schedule::dice(now));
            state.not_before = now + wait.max(schedule::rest_of_failed(took));
        }
    }

    /// Records a step that has brought its tick to an end. The next tick does not wait for it.
    pub fn step_hung(&mut self, step: usize, message: &str, now: i64, naptime: i64) {
        self.step_failed(step, message, now, naptime);
        self.failures = self.failures.saturating_add(1);
        self.ticks = self.ticks.wrapping_add(1);
    }

    /// Records a step that went well and asks not to be run again before a moment.
    pub fn step_done(&mut self, step: usize, not_before: i64) {
        if let Some(state) = self.steps.get_mut(step) {
            *state = StepState { not_before, failures: 0 };
        }
    }

    /// Records the end of a tick: whether a step failed in it. It was a success only if no step waits to be
    /// tried again after a failure.
    pub fn ended(&mut self, run_at: i64, failed: bool) {
        self.last_run = run_at;
        if failed {
            self.failures = self.failures.saturating_add(1);
        } else if self.steps.iter().all(|step| step.failures == 0) {
            self.failures = 0;
            self.last_error.length = 0;
            self.last_success = run_at;
        }
        self.ticks = self.ticks.wrapping_add(1);
    }

    /// Has what failed be tried again soon: the settings have changed, and may have mended it.
    fn hurry(&mut self, now: i64, naptime: i64) {
        for step in &mut self.steps {
            if step.failures > 0 {
                step.not_before = 0;
            }
        }
        if self.found != Found::Absent {
            self.next_tick = self.next_tick.min(now + naptime);
        }
    }
}

/// The shared memory.
#[repr(C)]
pub struct Databases {
    /// Process id of the launcher; 0 = there is none.
    pub launcher: i32,
    /// Since when it is at work: it was started, or switched on; `i64::MAX` = it is off.
    pub since: i64,
    /// Its latch; of a process's place in shared memory, so that it is there as long as the server is.
    latch: *mut pg_sys::Latch,
    /// No slot from this one on is taken.
    end: usize,
    slots: [Slot; SLOTS],
}

impl Databases {
    /// The slots that are taken.
    pub fn taken(&self) -> impl Iterator<Item = &Slot> {
        self.slots[..self.end].iter().filter(|slot| slot.database != pg_sys::InvalidOid)
    }

    pub fn taken_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.slots[..self.end].iter_mut().filter(|slot| slot.database != pg_sys::InvalidOid)
    }

    pub fn slot(&mut self, database: pg_sys::Oid) -> Option<&mut Slot> {
        self.taken_mut().find(|slot| slot.database == database)
    }

    /// The slot of a database, a new one if need be; `None` when all are taken.
    fn slot_or_new(&mut self, database: pg_sys::Oid) -> Option<&mut Slot> {
        let place = self.slots[..self.end].iter().position(|slot| slot.database == database).or_else(|| {
            let free = self.slots.iter().position(|slot| slot.database == pg_sys::InvalidOid)?;
            self.end = self.end.max(free + 1);
            self.slots[free].database = database;
            Some(free)
        })?;
        Some(&mut self.slots[place])
    }

    /// Makes the slots those of the databases that there are; returns how many databases have none. `known`
    /// has room for a mark of each. The tick of one that is new is due now.
    pub fn keep(&mut self, databases: &DatabaseList, known: &mut [bool], now: i64) -> usize {
        known.fill(false);
        for slot in self.taken_mut() {
            match databases.place_of(slot.database) {
                Some(place) => known[place] = true,
                // SAFETY: every field of a slot may be zero.
                None => *slot = unsafe { std::mem::zeroed() },
            }
        }
        let mut free = 0;
        let mut without = 0;
        for (database, _) in databases.iter().zip(known).filter(|(_, known)| !**known) {
            while free < SLOTS && self.slots[free].database != pg_sys::InvalidOid {
                free += 1;
            }
            if free < SLOTS {
                self.slots[free].database = database;
                self.slots[free].next_tick = now;
                self.slots[free].nothing_due = now;
                self.end = self.end.max(free + 1);
            } else {
                without += 1;
            }
        }
        without
    }

    /// Has what failed be tried again soon, and nothing wait longer than the naptime, which may be new.
    pub fn hurry(&mut self, now: i64, naptime: i64) {
        self.taken_mut().for_each(|slot| slot.hurry(now, naptime));
    }
}

/// Runs `f` on the memory, alone; `None` when there is none, since the library is not preloaded. `f` must
/// neither allocate nor raise.
pub fn change<T>(f: impl FnOnce(&mut Databases) -> T) -> Option<T> {
    // SAFETY: the memory is that of the area, all zeros at first, which is valid; nobody else has a
    // reference to it while the lock is held.
    lock().map(|lock| lock.exclusive(|| unsafe { f(&mut *MEMORY.load(Ordering::Relaxed)) }))
}

/// Runs `f` on the memory, together with others who only read it. The same holds.
pub fn read<T>(f: impl FnOnce(&Databases) -> T) -> Option<T> {
    // SAFETY: as above, but that others may read it, too.
    lock().map(|lock| lock.shared(|| unsafe { f(&*MEMORY.load(Ordering::Relaxed)) }))
}

fn lock() -> Option<Lock> {
    let locks = LOCKS.load(Ordering::Relaxed);
    // SAFETY: what the area was given; it has one lock.
    (!locks.is_null()).then(|| unsafe { Lock::of(locks, 0) })
}

/// Changes the slot of a database, if it has one.
pub fn change_slot(database: pg_sys::Oid, f: impl FnOnce(&mut Slot)) {
    change(|databases| {
        if let Some(slot) = databases.slot(database) {
            f(slot);
        }
    });
}

/// A copy of the slot of a database.
pub fn slot_of(database: pg_sys::Oid) -> Option<Slot> {
    read(|databases| databases.taken().find(|slot| slot.database == database).copied()).flatten()
}

/// Registers this process as the launcher, or takes it back.
pub fn set_launcher(pid: i32, latch: *mut pg_sys::Latch) {
    change(|databases| {
        databases.launcher = pid;
        databases.latch = latch;
    });
}

/// Has a database looked at as soon as can be.
pub fn announce(database: pg_sys::Oid) {
    let now = now();
    let latch = change(|databases| {
        if let Some(slot) = databases.slot_or_new(database) {
            slot.announced = true;
            slot.next_tick = now;
            slot.nothing_due = now;
        }
        databases.latch
    });
    if let Some(latch) = latch.filter(|latch| !latch.is_null()) {
        // SAFETY: a latch in shared memory; should another process have got it meanwhile, it wakes for
        // nothing.
        unsafe { pg_sys::SetLatch(latch) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn databases() -> Box<Databases> {
        // SAFETY: as the shared memory, it is all zeros at first.
        unsafe { Box::<Databases>::new_zeroed().assume_init() }
    }

    fn keep(all: &mut Databases, numbers: impl IntoIterator<Item = u32>) -> usize {
        let databases = DatabaseList::new(numbers.into_iter().collect());
        all.keep(&databases, &mut vec![true; databases.len()], 50)
    }

    #[test]
    fn slots_follow_the_databases() {
        let mut all = databases();
        assert_eq!(keep(&mut all, [5, 6, 7]), 0);
        all.slot(6.into()).unwrap().last_run = 1;
        assert_eq!(keep(&mut all, [6, 8]), 0);
        assert_eq!(all.taken().map(|slot| slot.database.to_u32()).collect::<Vec<_>>(), [8, 6]);
        assert_eq!(all.slot(6.into()).unwrap().last_run, 1);
        assert_eq!(keep(&mut all, 1..=SLOTS as u32 + 3), 3);
        assert_eq!(all.taken().count(), SLOTS);
        assert_eq!(keep(&mut all, []), 0);
        assert_eq!(all.taken().count(), 0);
    }

    #[test]
    fn a_tick_is_a_success_only_when_no_step_waits_after_a_failure() {
        let mut all = databases();
        keep(&mut all, [5]);
        let slot = all.slot(5.into()).unwrap();
        slot.step_failed(1, "no", 100, 1000);
        slot.ended(100, true);
        assert_eq!((slot.failures, slot.last_run, slot.last_success), (1, 100, 0));
        assert_eq!(slot.steps[1].failures, 1);
        assert!(slot.steps[1].not_before >= 100 + 2 * 1000);
        slot.ended(200, false);
        assert_eq!((slot.failures, slot.last_run, slot.last_success), (1, 200, 0));
        assert_eq!(slot.last_error.text().as_deref(), Some("no"));
        slot.step_done(1, 0);
        slot.ended(300, false);
        assert_eq!((slot.failures, slot.last_success, slot.last_error.text()), (0, 300, None));
    }

    #[test]
    fn an_announcement_outlives_a_tick_that_found_nothing() {
        let mut all = databases();
        keep(&mut all, [5]);
        let slot = all.slot(5.into()).unwrap();
        slot.found_none(Found::Absent, 100);
        assert_eq!(slot.next_tick, 100 + ABSENT);
        slot.next_tick = 150;
        slot.announced = true;
        slot.found_none(Found::Absent, 200);
        assert_eq!(slot.next_tick, 150);
    }

    #[test]
    fn messages_are_cut_between_characters() {
        let mut all = databases();
        keep(&mut all, [5]);
        let slot = all.slot(5.into()).unwrap();
        slot.last_error.set(&"é".repeat(400));
        assert_eq!(slot.last_error.text().unwrap(), "é".repeat(255));
        slot.last_error.set(&format!("a{}", "é".repeat(400)));
        assert_eq!(slot.last_error.text().unwrap(), format!("a{}", "é".repeat(254)));
        slot.last_error.set(&format!("{} (SQLSTATE 23514). DETAIL: no", "é".repeat(400)));
        assert_eq!(slot.last_error.text().unwrap(), format!("{}(SQLSTATE 23514)", "é".repeat(247)));
    }
}
