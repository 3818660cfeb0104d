//! The processes: how the launcher is registered, how it starts workers, how a database is announced to it, and the naptime and
//! warnings of both.

use super::databases;
use crate::error::Warning;
use crate::pg::backend;
use crate::pg::background_worker::{self, Description, Worker};
use crate::settings;
use pgrx::{PgSqlErrorCode, PgXactCallbackEvent, pg_sys, register_xact_callback};
use std::ffi::{CStr, CString};

const LIBRARY: &CStr = c"infinite_pages_cache";
pub const LAUNCHER: &CStr = c"infinite_pages_cache launcher";
pub const WORKER: &CStr = c"infinite_pages_cache worker";

/// Seconds until the server restarts the launcher after an error.
const RESTART_SECONDS: i32 = 1;

/// Registers the launcher; called while the server preloads the library.
pub fn register_launcher() {
    let function = c"infinite_pages_cache_launcher";
    let launcher = Description { name: LAUNCHER, kind: LAUNCHER, library: LIBRARY, function };
    background_worker::register(&launcher, RESTART_SECONDS);
}

/// Starts a worker for one tick in a database; `None` when the server has no place for another.
pub fn start_worker(database: pg_sys::Oid) -> Option<Worker> {
    let name = format!("infinite_pages_cache worker for database {}", database.to_u32());
    let name = CString::new(name).expect("the name has no NUL byte");
    let function = c"infinite_pages_cache_worker";
    Worker::start(&Description { name: &name, kind: WORKER, library: LIBRARY, function }, database)
}

/// Returns the time between two ticks of a database, in microseconds; 0 = the worker is off.
pub fn naptime() -> i64 {
    i64::from(settings::NAPTIME.get()) * super::schedule::MILLISECOND
}

/// Announces this database to the launcher when the transaction commits, because a tick would find nothing before.
pub fn announce_at_commit() {
    let database = backend::database();
    register_xact_callback(PgXactCallbackEvent::Commit, move || databases::announce(database));
}

/// Makes a warning for the server's log, with the extension's name, because lines of all kinds stand there.
#[track_caller]
pub fn warning(code: PgSqlErrorCode, message: &str) -> Warning {
    Warning::new(code, format!("infinite_pages_cache: {message}"))
}
