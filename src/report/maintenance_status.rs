//! The views cache_maintenance_status and cache_maintenance_progress.

use super::run::{run_on_log, run_with};
use crate::access::monitor;
use crate::extension::grant_hint::{Grant, with_way_out};
use crate::extension::{CACHE, Extension, RUNS};
use crate::maintenance::steps::STEPS;
use crate::pg::backend;
use crate::pg::clock::now;
use crate::pg::privileges;
use crate::pg::srf::{Call, Stored, set_returning};
use crate::stale;
use crate::worker::databases;
use crate::worker::slot::{Found, Running, Slot};
use crate::worker::{naptime, readiness};
use pgrx::datum::{DatumWithOid, TimestampWithTimeZone};
use pgrx::pg_sys;

set_returning!(infinite_pages_cache_status => status());
set_returning!(infinite_pages_cache_progress => progress());

fn status(call: Call) -> Stored {
    let extension = Extension::current();
    let slot = databases::slot_of(backend::database());
    let worker = worker(&extension, slot.as_ref());
    let next_run = slot.filter(|_| matches!(worker, "on" | "overdue")).and_then(|slot| moment(slot.next_tick));
    let args: [DatumWithOid; 7] = [
        worker.into(),
        slot.and_then(|slot| moment(slot.last_run)).into(),
        slot.and_then(|slot| moment(slot.last_success)).into(),
        next_run.into(),
        slot.map_or(0, |slot| slot.failures as i32).into(),
        slot.and_then(|slot| slot.last_error.text()).into(),
        with_way_out(&extension, Grant::Monitor, || oldest_expired(&extension)).into(),
    ];
    let complete = [CACHE, RUNS].iter().all(|table| extension.find_table(table).is_some());
    let query = if complete {
        include_str!("../../sql/reports/cache_maintenance_status.sql")
    } else {
        // The view must answer without the tables, too.
        "SELECT $1::text, $2::timestamptz, $3::timestamptz, $4::timestamptz, $5::integer, @last_error@, 0, $7::timestamptz"
    };
    run_on_log(call, &extension, query, "@last_error@", ("$6::text", "false"), &args)
}

/// Returns the expiry of the oldest expired entry that is still there; for a monitor, with the rights of the entries' owner.
fn oldest_expired(extension: &Extension) -> Option<TimestampWithTimeZone> {
    let cache = extension.find_table(CACHE)?;
    if monitor::only_watches(extension) {
        privileges::confined_to_owner_of(cache, || stale::oldest_over(extension))
    } else {
        stale::oldest_over(extension)
    }
}

/// Returns the state of the worker in this database.
fn worker(extension: &Extension, slot: Option<&Slot>) -> &'static str {
    let Some((launcher, since)) = databases::read(|databases| (databases.launcher, databases.since)) else {
        return "not preloaded";
    };
    if backend::is_in_recovery() {
        "standby"
    } else if naptime() == 0 {
        "off"
    } else if launcher == 0 {
        "not running"
    } else if slot.is_some_and(|slot| slot.found == Found::ReadOnly) {
        "read only"
    } else if !readiness::is_ready(extension) {
        "not ready"
    } else if slot.is_some_and(|slot| slot.is_overdue(now(), naptime(), since)) {
        "overdue"
    } else {
        "on"
    }
}

/// Returns a time; `None` for never. A tick that is due at once has the beginning of time.
fn moment(timestamp: i64) -> Option<TimestampWithTimeZone> {
    (timestamp > 0).then(|| TimestampWithTimeZone::try_from(timestamp).ok()).flatten()
}

fn progress(call: Call) -> Stored {
    /// More ticks than run at a time, except just after a restart of the launcher.
    const MOST: usize = 16;
    let mut running: [Option<(pg_sys::Oid, Running)>; MOST] = [None; MOST];
    databases::read(|databases| {
        let ticks = databases.taken().filter(|slot| slot.running.pid != 0);
        for (place, slot) in running.iter_mut().zip(ticks) {
            *place = Some((slot.database, slot.running));
        }
    });
    let running: Vec<_> = running.into_iter().flatten().collect();
    let step = |running: &Running| STEPS.get(running.step as usize).map_or("", |step| step.name).to_string();
    let args: [DatumWithOid; 8] = [
        running.iter().map(|(_, running)| running.pid).collect::<Vec<i32>>().into(),
        running.iter().map(|(database, _)| *database).collect::<Vec<pg_sys::Oid>>().into(),
        running.iter().map(|(_, running)| step(running)).collect::<Vec<String>>().into(),
        running.iter().map(|(_, running)| moment(running.run_started)).collect::<Vec<_>>().into(),
        running.iter().map(|(_, running)| moment(running.step_started)).collect::<Vec<_>>().into(),
        running.iter().map(|(_, running)| running.affected).collect::<Vec<i64>>().into(),
        running.iter().map(|(_, running)| running.steps_done as i32).collect::<Vec<i32>>().into(),
        (STEPS.len() as i32).into(),
    ];
    run_with(call, include_str!("../../sql/reports/cache_maintenance_progress.sql"), &args)
}
