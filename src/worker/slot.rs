//! The slot of one database: its state in shared memory, and how each event changes it.

use super::schedule;
use crate::maintenance::budget::LONGEST_BATCH;
use crate::maintenance::steps;
use crate::pg::plain::plain;
use crate::pg::subtransaction::MARK;
use pgrx::pg_sys;
use std::time::Duration;

/// Steps of maintenance that a slot has room for.
const MOST_STEPS: usize = 16;
const _: () = assert!(steps::STEPS.len() <= MOST_STEPS);
/// Time until the next tick in a database without the extension, in microseconds.
const ABSENT: i64 = 10 * schedule::MINUTE;

plain! {
    /// What the last tick in a database found.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub enum Found {
        /// No tick has looked yet.
        #[expect(dead_code, reason = "a new slot is all zeros")]
        Nothing,
        /// The extension is not installed.
        Absent,
        /// Tables without their keys, as in the middle of a restore.
        NotReady,
        /// Transactions are read-only.
        ReadOnly,
        /// A cache that can be maintained.
        Cache,
    }
}

plain! {
    /// A message of bounded length.
    #[derive(Clone, Copy)]
    pub struct Message {
        length: u16,
        bytes: [u8; 510],
    }
}

impl Message {
    /// Sets the text, cut where it is too long. Its SQLSTATE is kept, because views know by it what an error said, and hide that
    /// from monitors.
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

    /// Returns the text; `None` when it is empty.
    pub fn text(&self) -> Option<String> {
        let bytes = &self.bytes[..usize::from(self.length).min(self.bytes.len())];
        (!bytes.is_empty()).then(|| String::from_utf8_lossy(bytes).into_owned())
    }
}

plain! {
    /// The state of a step in a database.
    #[derive(Clone, Copy)]
    pub struct StepState {
        /// The step does not run before this moment.
        pub not_before: i64,
        /// Failures since it last succeeded.
        pub failures: u32,
    }
}

plain! {
    /// The tick that a worker makes now.
    #[derive(Clone, Copy)]
    pub struct Running {
        /// Process id of the worker; 0 = none.
        pub pid: i32,
        pub step: u32,
        pub steps_done: u32,
        pub run_started: i64,
        pub step_started: i64,
        /// What the step has done so far, in rows or partitions.
        pub affected: i64,
    }
}

plain! {
    /// A database.
    #[derive(Clone, Copy)]
    pub struct Slot {
        /// `InvalidOid` = the slot is free.
        pub database: pg_sys::Oid,
        pub found: Found,
        /// Announced since the last tick was started.
        pub announced: bool,
        /// Failed ticks since the last success. A tick fails if a step of it does, or if it cannot run.
        pub failures: u32,
        /// Ticks that have ended. It wraps around.
        pub ticks: u32,
        pub next_tick: i64,
        /// When the last run began; 0 = never.
        pub last_run: i64,
        /// When the last run without a failure began; 0 = never.
        pub last_success: i64,
        pub last_error: Message,
        pub steps: [StepState; MOST_STEPS],
        pub running: Running,
        /// The last moment at which no run was missing, because the database was new or announced, or had no cache.
        nothing_due: i64,
        /// Transactions that workers have begun. It wraps around.
        pub transactions: u32,
        /// Longest that the current transaction may take, in milliseconds.
        longest: u32,
    }
}

impl Slot {
    /// Records that the tick is due now.
    pub fn due(&mut self, now: i64) {
        self.next_tick = now;
        self.nothing_due = now;
    }

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

    /// Returns the longest that the current transaction may take.
    pub fn longest_transaction(&self) -> Duration {
        Duration::from_millis(self.longest.into())
    }

    /// Whether a run is overdue. `since`: when the launcher was started or switched on.
    pub fn is_overdue(&self, now: i64, naptime: i64, since: i64) -> bool {
        let longest = if self.running.pid == 0 { LONGEST_BATCH } else { self.longest_transaction() };
        let last = self.last_run.max(self.nothing_due).max(since);
        schedule::is_overdue(last, self.next_tick, now, naptime, longest.as_micros() as i64)
    }

    /// Records a tick that found no cache, or none that may be changed now.
    pub fn found_none(&mut self, found: Found, now: i64) {
        self.found = found;
        self.nothing_due = now;
        // An announcement may have come after the tick had looked.
        if found == Found::Absent && !self.announced {
            self.next_tick = now + ABSENT;
        }
        self.ticks = self.ticks.wrapping_add(1);
    }

    /// Records a tick that failed as a whole. The next tick waits longer.
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

    /// Records a step whose worker was terminated, which ends the tick. The next tick waits no longer for that.
    pub fn step_hung(&mut self, step: usize, message: &str, now: i64, naptime: i64) {
        self.step_failed(step, message, now, naptime);
        self.failures = self.failures.saturating_add(1);
        self.ticks = self.ticks.wrapping_add(1);
    }

    /// Records a step that succeeded, and that does not run again before a moment.
    pub fn step_done(&mut self, step: usize, not_before: i64) {
        if let Some(state) = self.steps.get_mut(step) {
            *state = StepState { not_before, failures: 0 };
        }
    }

    /// Records the end of a run, and whether a step failed in it. The run is a success only if no step of an earlier run still
    /// waits after a failure.
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

    /// Records that the settings have changed, which may have mended what failed: no failed step waits any longer, and the next
    /// tick comes within the new naptime.
    pub fn settings_changed(&mut self, now: i64, naptime: i64) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::plain::Plain;

    #[test]
    fn a_tick_is_a_success_only_when_no_step_waits_after_a_failure() {
        let mut slot = Slot::zeroed();
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
        let mut slot = Slot::zeroed();
        slot.found_none(Found::Absent, 100);
        assert_eq!(slot.next_tick, 100 + ABSENT);
        slot.next_tick = 150;
        slot.announced = true;
        slot.found_none(Found::Absent, 200);
        assert_eq!(slot.next_tick, 150);
    }

    #[test]
    fn messages_are_cut_between_characters() {
        let mut slot = Slot::zeroed();
        slot.last_error.set(&"é".repeat(400));
        assert_eq!(slot.last_error.text().unwrap(), "é".repeat(255));
        slot.last_error.set(&format!("a{}", "é".repeat(400)));
        assert_eq!(slot.last_error.text().unwrap(), format!("a{}", "é".repeat(254)));
        slot.last_error.set(&format!("{} (SQLSTATE 23514). DETAIL: no", "é".repeat(400)));
        assert_eq!(slot.last_error.text().unwrap(), format!("{}(SQLSTATE 23514)", "é".repeat(247)));
    }
}
