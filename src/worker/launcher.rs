//! The launcher: starts a worker for each database whose tick is due, and keeps workers out of the way of DDL on their
//! databases. It is connected to no database. What it must know after a restart is in shared memory.

use super::databases::{self, SLOTS};
use super::process::{self, warning};
use super::schedule::{self, MILLISECOND, MINUTE, SECOND};
use super::slot::Slot;
use crate::audit::ring;
use crate::lease;
use crate::maintenance::steps::STEPS;
use crate::pg::background_worker::{self, Worker};
use crate::pg::clock::now;
use crate::pg::database::{self, DatabaseList, all_databases, usable_databases};
use crate::pg::latch::{self, SharedLatch};
use crate::pg::scratch::Scratch;
use crate::pg::{activity, backend, worker_transaction};
use crate::statistics;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::time::{Duration, Instant};

/// The most workers at the same time.
const MOST_WORKERS: usize = 3;
/// While workers run, the launcher looks this often whether DDL waits for one.
const WATCH_INTERVAL: Duration = Duration::from_millis(150);
/// The wait before a database that DDL has locked is tried again, in microseconds.
const LOCKED: i64 = SECOND;
/// A worker is terminated this long after the time at which its transaction should have been cancelled.
const GRACE: Duration = Duration::from_secs(10);
/// Longest time until a new database is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// A tick is set at most this far ahead, or a naptime if that is longer; in microseconds.
const FURTHEST: i64 = 15 * MINUTE;
/// The error that views show for a database for which no worker could be started.
pub const NO_PLACE: &str = "the server has no place for another background worker: raise max_worker_processes";
/// Longest wait before the server is asked again for a worker that it had no place for.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

background_worker::main_function!(infinite_pages_cache_launcher, launch);

/// Runs until the server stops. An error ends the process, and the server starts it again.
fn launch() {
    background_worker::begin();
    background_worker::before_exit(|| databases::set_launcher(0, SharedLatch::none()));
    background_worker::connect(None);
    activity::report_name(process::LAUNCHER);
    databases::set_launcher(backend::process_id(), SharedLatch::own());
    let mut memory = Scratch::new(process::LAUNCHER);
    let mut launcher = Launcher::default();
    loop {
        memory.begin_round();
        pgrx::check_for_interrupts!();
        let sleep = launcher.round();
        // Woken at a reload, at the end of a worker, and when a database is announced.
        latch::wait(sleep);
    }
}

/// A tick that a worker makes.
struct Tick {
    database: pg_sys::Oid,
    worker: Worker,
    /// [`Slot::ticks`] before the tick. Another number shows that the tick has ended.
    ticks: u32,
    /// [`Slot::transactions`] when the launcher last looked, and when it first saw that number.
    transaction: (u32, Instant),
    terminated: bool,
}

/// The server's refusals to start a worker: until when the launcher waits, and how many came in a row.
#[derive(Default)]
struct Refused {
    until: Option<Instant>,
    times: u32,
}

#[derive(Default)]
struct Launcher {
    ticks: Vec<Tick>,
    refused: Refused,
    told_of_too_many: bool,
    /// Whether the naptime was above 0 in the last round.
    was_on: Option<bool>,
    /// All databases at the last look.
    seen: DatabaseList,
}

impl Launcher {
    /// Does what is due. Returns the time to sleep; `None` = until the latch is set.
    fn round(&mut self) -> Option<Duration> {
        let naptime = process::naptime();
        if background_worker::reload_if_asked() {
            let (now, naptime) = (now(), process::naptime());
            databases::change(|databases| databases.settings_changed(now, naptime));
            return Some(Duration::ZERO);
        }
        self.reap();
        let is_on = naptime > 0;
        if self.was_on.replace(is_on) != Some(is_on) {
            let since = if is_on { now() } else { i64::MAX };
            databases::change(|databases| databases.since = since);
        }
        if is_on || !self.ticks.is_empty() {
            self.yield_to_ddl();
        }
        self.end_overtime(naptime);
        if !is_on {
            return (!self.ticks.is_empty()).then_some(WATCH_INTERVAL);
        }
        while self.ticks.len() < MOST_WORKERS && !self.is_refused() {
            let Some(database) = self.next_due(naptime) else { break };
            self.start(database, naptime);
        }
        Some(self.sleep(naptime))
    }

    /// Forgets the workers that have ended. A worker that ended before its tick did has failed, unless the launcher has
    /// terminated it.
    fn reap(&mut self) {
        let before = self.ticks.len();
        self.ticks.retain(|tick| {
            let stopped = tick.worker.has_stopped();
            if stopped && !tick.terminated {
                let (now, naptime) = (now(), process::naptime());
                databases::change_slot(tick.database, |slot| {
                    if slot.ticks == tick.ticks {
                        slot.failed("the worker ended before its tick did; the server's log says why", now, naptime);
                    }
                });
            }
            !stopped
        });
        if self.ticks.len() < before {
            self.refused.until = None;
        }
    }

    /// Compares the slots with pg_database, forgets what was counted in databases that are gone, and terminates the workers
    /// whose database takes no connections any more or is wanted by DDL.
    fn yield_to_ddl(&mut self) {
        worker_transaction::read_catalogs(|| {
            let usable = usable_databases();
            let mut known = vec![false; usable.len()];
            let now = now();
            let without = databases::change(|databases| databases.keep(&usable, &mut known, now)).unwrap_or(0);
            if without > 0 && !self.told_of_too_many {
                self.told_of_too_many = true;
                warning(
                    PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
                    &format!("{without} databases get no maintenance by the background worker"),
                )
                .hint(format!(
                    "It looks after {SLOTS} databases. Run cache_run_maintenance() in the others on a schedule."
                ))
                .send();
            }
            let seen = std::mem::replace(&mut self.seen, all_databases());
            let gone: Vec<_> = seen.iter().filter(|database| !self.seen.contains(*database)).collect();
            if !gone.is_empty() {
                let is_gone = |database| gone.contains(&database);
                statistics::forget_databases(is_gone);
                ring::forget_databases(is_gone);
                lease::forget_databases(is_gone);
            }
            for tick in self.ticks.iter_mut().filter(|tick| !tick.terminated) {
                if !usable.contains(tick.database) || !database::is_open(tick.database) {
                    tick.worker.terminate();
                    tick.terminated = true;
                }
            }
        });
    }

    /// Terminates the workers whose transaction takes much longer than it may, because something in it ignores the
    /// cancellation. The step counts as failed, so that the next tick leaves it alone and runs the others.
    fn end_overtime(&mut self, naptime: i64) {
        for tick in self.ticks.iter_mut().filter(|tick| !tick.terminated) {
            let Some(slot) = databases::slot_of(tick.database) else { continue };
            if slot.transactions != tick.transaction.0 {
                tick.transaction = (slot.transactions, Instant::now());
            }
            let longest = slot.longest_transaction();
            if tick.transaction.1.elapsed() < longest + GRACE {
                continue;
            }
            let step = STEPS.get(slot.running.step as usize).filter(|_| slot.running.pid != 0);
            let message = format!(
                "{}: its transaction took longer than {} seconds and could not be cancelled, so the worker was terminated",
                step.map_or("look for work", |step| step.name),
                longest.as_secs()
            );
            warning(
                PgSqlErrorCode::ERRCODE_QUERY_CANCELED,
                &format!("maintenance of database {} failed: {message}", tick.database.to_u32()),
            )
            .hint("See which triggers and functions the tables of the cache have there.")
            .send();
            tick.worker.terminate();
            tick.terminated = true;
            let now = now();
            databases::change_slot(tick.database, |current| match step {
                Some(_) => current.step_hung(slot.running.step as usize, &message, now, naptime),
                None => current.failed(&message, now, naptime),
            });
        }
    }

    /// Returns the database whose tick has been due longest.
    fn next_due(&self, naptime: i64) -> Option<pg_sys::Oid> {
        let now = now();
        databases::read(|databases| {
            let due =
                databases.taken().filter(|slot| is_due(slot, now, naptime) && !is_running(&self.ticks, slot.database));
            due.min_by_key(|slot| slot.next_tick).map(|slot| slot.database)
        })?
    }

    fn start(&mut self, database: pg_sys::Oid, naptime: i64) {
        let now = now();
        // Recorded first, because the worker may have ended its tick before this process reaches its next line.
        let Some(before) = databases::slot_of(database) else { return };
        let mut transactions = 0;
        databases::change_slot(database, |slot| {
            slot.started(now + naptime);
            transactions = slot.transactions;
        });
        let not_started = |next_tick| {
            databases::change_slot(database, |slot| {
                slot.announced |= before.announced;
                slot.next_tick = slot.next_tick.min(next_tick);
            });
        };
        let worker = worker_transaction::read_catalogs(|| {
            // In this order, because a DROP that ends before the lock is taken shows in the list.
            let free = database::is_open(database) && usable_databases().contains(database);
            free.then(|| process::start_worker(database))
        });
        match worker {
            None => not_started(now + LOCKED.min(naptime)),
            Some(None) => {
                not_started(before.next_tick);
                self.was_refused(naptime);
            }
            Some(Some(worker)) => {
                self.refused = Refused::default();
                let transaction = (transactions, Instant::now());
                self.ticks.push(Tick { database, worker, ticks: before.ticks, transaction, terminated: false });
            }
        }
    }

    fn is_refused(&self) -> bool {
        self.refused.until.is_some_and(|until| Instant::now() < until)
    }

    /// Records that the server has no place for a worker. The wait until it is asked again doubles each time. Every database
    /// whose tick is due gets the error, because none of them gets a worker meanwhile.
    fn was_refused(&mut self, naptime: i64) {
        let naptime_ms = (naptime / MILLISECOND).unsigned_abs();
        let wait = Duration::from_millis(naptime_ms).saturating_mul(1 << self.refused.times.min(20)).min(LONGEST_WAIT);
        self.refused.times = self.refused.times.saturating_add(1);
        self.refused.until = Some(Instant::now() + wait);
        let now = now();
        databases::change(|databases| {
            let due = databases
                .taken_mut()
                .filter(|slot| is_due(slot, now, naptime) && !is_running(&self.ticks, slot.database));
            due.for_each(|slot| slot.not_started(NO_PLACE));
        });
        warning(
            PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            &format!("no place for a background worker; trying again in {wait:?}"),
        )
        .hint("Raise max_worker_processes.")
        .send();
    }

    fn sleep(&self, naptime: i64) -> Duration {
        let now = now();
        let next = databases::read(|databases| {
            databases.taken().filter(|slot| !is_running(&self.ticks, slot.database)).map(|slot| slot.next_tick).min()
        });
        let longest = Duration::from_micros(naptime.unsigned_abs()).min(LONGEST_SLEEP);
        let mut sleep = next
            .flatten()
            .map_or(longest, |next| Duration::from_micros(next.saturating_sub(now).max(0).unsigned_abs()).min(longest));
        if let Some(until) = self.refused.until {
            sleep = sleep.max(until.saturating_duration_since(Instant::now()));
        }
        if self.ticks.len() == MOST_WORKERS {
            // The end of a worker sets the latch.
            sleep = longest;
        }
        if self.ticks.is_empty() { sleep } else { sleep.min(WATCH_INTERVAL) }
    }
}

fn is_due(slot: &Slot, now: i64, naptime: i64) -> bool {
    schedule::has_come(slot.next_tick, now, naptime.max(FURTHEST))
}

fn is_running(ticks: &[Tick], database: pg_sys::Oid) -> bool {
    ticks.iter().any(|tick| tick.database == database)
}
