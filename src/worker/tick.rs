//! A tick: what a worker does in its one database before it ends.

use super::databases;
use super::process::{self, WORKER, warning};
use super::roles::{Role, owner_of, roles};
use super::slot::{Found, Running};
use super::{readiness, schedule, transaction};
use crate::extension::{Extension, RUNS, locks};
use crate::maintenance::budget::{Budget, LONGEST_BATCH, share_of_time};
use crate::maintenance::log::{self, Row};
use crate::maintenance::step::{Locks, Outcome, Step};
use crate::maintenance::steps::STEPS;
use crate::pg::clock::{milliseconds, now};
use crate::pg::guc::set_default;
use crate::pg::{activity, advisory_lock, backend, background_worker, version};
use crate::settings;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::time::{Duration, Instant};

/// Longest time of a step in one tick.
const LONGEST_TURN: Duration = Duration::from_secs(5);

background_worker::main_function!(infinite_pages_cache_worker, work);

/// Makes one tick in the database that the launcher has started the worker for.
fn work() {
    let (database, launcher) = background_worker::argument_and_starter().expect("the process is a worker");
    background_worker::begin();
    background_worker::before_exit(leave);
    background_worker::connect(Some(database));
    adjust_settings();
    tick(database, launcher);
    report_activity(None);
}

/// Takes the tick out of what the views show, however the process ends.
fn leave() {
    let pid = backend::process_id();
    databases::change_slot(backend::database(), |slot| {
        if slot.running.pid == pid {
            slot.running.pid = 0;
        }
    });
}

/// Sets what the work needs, because settings of the server or the database are made for clients.
fn adjust_settings() {
    let settings: [(&CStr, &CStr); 11] = [
        (c"application_name", WORKER),
        (c"search_path", c"pg_catalog, pg_temp"),
        (c"row_security", c"on"),
        (c"default_transaction_isolation", c"read committed"),
        (c"DateStyle", c"ISO"),
        (c"TimeZone", c"UTC"),
        (c"quote_all_identifiers", c"off"),
        (c"standard_conforming_strings", c"on"),
        // Nobody waits for maintenance: the other processors are for clients.
        (c"max_parallel_workers_per_gather", c"0"),
        // Each statement runs a few times only before the process ends.
        (c"jit", c"off"),
        // A crash may undo the last tick. The next one does the maintenance again; counts are lost, as those in memory are.
        (c"synchronous_commit", c"off"),
    ];
    for (name, value) in settings {
        set_default(name, value);
    }
    for timeout in version::TIMEOUTS {
        set_default(timeout, c"0");
    }
    let wait = CString::new(format!("{}ms", settings::LOCK_TIMEOUT.get())).expect("a number has no NUL byte");
    set_default(c"lock_timeout", &wait);
}

/// Shows in pg_stat_activity what the worker does; `None` = nothing.
fn report_activity(what: Option<&str>) {
    let text = what.map(|what| format!("infinite_pages_cache: {what}"));
    activity::report(text.as_deref());
}

fn tick(database: pg_sys::Oid, launcher: i32) {
    report_activity(Some("look for work"));
    let run_at = now();
    let (roles, logger) = match transaction::run(transaction::own_role(), LONGEST_BATCH, look) {
        Ok(Look::Nothing(found)) => {
            let now = now();
            return databases::change_slot(database, |slot| slot.found_none(found, now));
        }
        Ok(Look::Cache { roles, logger }) => (roles, logger),
        Err(message) => return fail(database, run_at, &message),
    };
    databases::change_slot(database, |slot| slot.found = Found::Cache);
    let roles = match roles {
        Ok(roles) => roles,
        Err(message) => {
            log_row(logger, run_at, None, "run", Outcome::failure(message.clone()), Duration::ZERO);
            return fail(database, run_at, &message);
        }
    };
    let Some(due) = due_steps(database, run_at) else { return };
    if due.is_empty() {
        return databases::change_slot(database, |slot| slot.ended(run_at, false));
    }
    match transaction::run(transaction::own_role(), LONGEST_BATCH, || {
        advisory_lock::try_lock_session(locks::MAINTENANCE, 0)
    }) {
        Ok(true) => {}
        // Another session runs maintenance.
        Ok(false) => return databases::change_slot(database, |slot| slot.ticks = slot.ticks.wrapping_add(1)),
        Err(message) => return fail(database, run_at, &message),
    }
    let mut tick = Tick { database, launcher, run_at, roles, logger, failed: false };
    for number in due {
        if !tick.is_wanted() {
            break;
        }
        background_worker::reload_if_asked();
        tick.run(number);
    }
    databases::change_slot(database, |slot| slot.ended(run_at, tick.failed));
}

/// What a tick has found in its database.
enum Look {
    Nothing(Found),
    /// A cache. `roles` act in the steps, or an error says why none can; `logger` writes the log.
    Cache {
        roles: Result<Vec<Role>, String>,
        logger: pg_sys::Oid,
    },
}

fn look() -> Look {
    let Some(extension) = Extension::find() else { return Look::Nothing(Found::Absent) };
    if backend::is_in_recovery() || backend::is_read_only() {
        Look::Nothing(Found::ReadOnly)
    } else if !readiness::is_ready(&extension) {
        Look::Nothing(Found::NotReady)
    } else {
        Look::Cache { roles: roles(&extension), logger: owner_of(&extension, RUNS) }
    }
}

/// Returns the numbers of the steps that are due; `None` when the database has no slot any more. A step that a setting skips
/// counts as done.
fn due_steps(database: pg_sys::Oid, now: i64) -> Option<Vec<usize>> {
    let slot = databases::slot_of(database)?;
    let skipped = settings::skipped_steps();
    let is_left_out = |step: &Step| skipped.iter().any(|name| name == step.name.as_bytes());
    let mut due = Vec::with_capacity(STEPS.len());
    for (number, step) in STEPS.iter().enumerate() {
        if is_left_out(step) {
            databases::change_slot(database, |slot| slot.step_done(number, 0));
        } else if schedule::may_run(slot.steps[number].not_before, now) {
            due.push(number);
        }
    }
    Some(due)
}

/// Records a tick that could run no step.
fn fail(database: pg_sys::Oid, run_at: i64, message: &str) {
    warning(PgSqlErrorCode::ERRCODE_WARNING, &format!("a tick of maintenance failed: {message}")).send();
    let (now, naptime) = (now(), process::naptime());
    databases::change_slot(database, |slot| {
        slot.last_run = run_at;
        slot.failed(message, now, naptime);
    });
}

/// Writes a row to the maintenance log with the rights of its owner. Returns whether it could.
fn log_row(logger: pg_sys::Oid, run_at: i64, role: Option<&str>, step: &str, outcome: Outcome, took: Duration) -> bool {
    let row = Row {
        step: step.into(),
        status: if outcome.failed { "failed" } else { "ok" },
        affected: outcome.affected,
        duration_ms: milliseconds(took),
        detail: outcome.detail,
    };
    let logged = transaction::run(logger, LONGEST_BATCH, || {
        log::write(&Extension::current(), run_at, role, std::slice::from_ref(&row))
    });
    if let Err(message) = &logged {
        warning(PgSqlErrorCode::ERRCODE_WARNING, &format!("the log of maintenance could not be written: {message}"))
            .send();
    }
    logged.is_ok()
}

struct Tick {
    database: pg_sys::Oid,
    /// The process id of the launcher that has started the worker.
    launcher: i32,
    run_at: i64,
    roles: Vec<Role>,
    logger: pg_sys::Oid,
    failed: bool,
}

impl Tick {
    /// Whether the launcher that has started this worker still runs. No other would keep the worker out of the way of DDL.
    fn is_wanted(&self) -> bool {
        databases::read(|databases| databases.launcher) == Some(self.launcher)
    }

    fn run(&mut self, number: usize) {
        let (step, role) = (&STEPS[number], self.roles[number].clone());
        report_activity(Some(step.name));
        let pid = backend::process_id();
        let (began, started) = (Instant::now(), now());
        databases::change_slot(self.database, |slot| {
            slot.running = Running {
                pid,
                step: number as u32,
                steps_done: number as u32,
                run_started: self.run_at,
                step_started: started,
                affected: 0,
            };
        });
        let may_drop = step.locks < Locks::Tables
            || transaction::run(transaction::own_role(), LONGEST_BATCH, || readiness::may_drop(&Extension::current()))
                == Ok(true);
        let budget = StepBudget {
            tick: self,
            role: role.oid,
            deadline: began + LONGEST_TURN,
            began: Cell::new(Instant::now()),
            longest: Cell::new((step.longest)()),
            may_drop,
        };
        let result = transaction::run(role.oid, budget.longest.get(), || (step.run)(&Extension::current(), &budget));
        let outcome = result.unwrap_or_else(Outcome::failure);
        let took = began.elapsed();
        if outcome.failed {
            self.failed = true;
            let message = outcome.detail.as_deref().unwrap_or("it failed");
            warning(PgSqlErrorCode::ERRCODE_WARNING, &format!("maintenance step \"{}\" failed: {message}", step.name))
                .send();
            let message = format!("{}: {message}", step.name);
            let (now, naptime) = (now(), process::naptime());
            databases::change_slot(self.database, |slot| slot.step_failed(number, &message, now, naptime));
        } else {
            let rest = if step.scans && !outcome.unfinished { schedule::rest(took.as_micros() as i64) } else { 0 };
            let rest = if outcome.put_off { rest.max(schedule::LONGEST_BACKOFF) } else { rest };
            let not_before = now() + rest;
            databases::change_slot(self.database, |slot| slot.step_done(number, not_before));
        }
        if outcome.failed || outcome.put_off || (outcome.affected > 0 && !step.routine) {
            self.failed |= !log_row(self.logger, self.run_at, Some(&role.name), step.name, outcome, took);
        }
    }
}

/// The budget of a step in a worker: transactions of its own, and a time for all of them.
struct StepBudget<'a> {
    tick: &'a Tick,
    role: pg_sys::Oid,
    deadline: Instant,
    /// When the current transaction began.
    began: Cell<Instant>,
    /// Longest that each transaction may take from now on.
    longest: Cell<Duration>,
    may_drop: bool,
}

impl Budget for StepBudget<'_> {
    fn is_spent(&self) -> bool {
        Instant::now() >= self.deadline
    }

    fn progress(&self, count: i64) {
        databases::change_slot(self.tick.database, |slot| slot.running.affected += count);
        if self.began.get().elapsed() >= share_of_time() {
            self.commit();
        }
    }

    fn commit(&self) {
        transaction::commit_and_begin(self.role, self.longest.get());
        self.began.set(Instant::now());
    }

    fn shorten(&self) {
        self.longest.set(LONGEST_BATCH);
        self.commit();
    }

    fn is_unattended(&self) -> bool {
        true
    }

    fn may_drop(&self) -> bool {
        self.may_drop
    }
}
