//! The processes: how the launcher and the workers are registered, and what each does first.

#![allow(unsafe_code)]

use super::databases;
use crate::error::Warning;
use crate::pg::{backend, version};
use crate::settings;
use pgrx::pg_sys;
use pgrx::{PgSqlErrorCode, PgXactCallbackEvent, register_xact_callback};
use std::ffi::{CStr, c_char};

const LIBRARY: &CStr = c"infinite_pages_cache";
pub const LAUNCHER: &CStr = c"infinite_pages_cache launcher";
pub const WORKER: &CStr = c"infinite_pages_cache worker";

/// After an error the launcher comes back, so many seconds later.
const RESTART_SECONDS: i32 = 1;

/// Registers the launcher; called while the server preloads the library. It runs while the server takes
/// writes: not on a standby before it is promoted.
pub fn register_launcher() {
    let mut worker = described(LAUNCHER, LAUNCHER, c"infinite_pages_cache_launcher");
    worker.bgw_start_time = pg_sys::BgWorkerStartTime::BgWorkerStart_RecoveryFinished;
    worker.bgw_restart_time = RESTART_SECONDS;
    // SAFETY: the description is complete, and copied by the call.
    unsafe { pg_sys::RegisterBackgroundWorker(&mut worker) };
}

/// A worker that has been started.
pub struct Worker(*mut pg_sys::BackgroundWorkerHandle);

impl Worker {
    /// Starts a worker for one tick in a database; `None` when the server has no place for another.
    pub fn start(database: pg_sys::Oid) -> Option<Self> {
        let name = format!("infinite_pages_cache worker for database {}", database.to_u32());
        let name = std::ffi::CString::new(name).expect("the name has no NUL byte");
        let mut worker = described(&name, WORKER, c"infinite_pages_cache_worker");
        worker.bgw_start_time = pg_sys::BgWorkerStartTime::BgWorkerStart_RecoveryFinished;
        worker.bgw_restart_time = pg_sys::BGW_NEVER_RESTART;
        worker.bgw_main_arg = database.into();
        let mut handle = std::ptr::null_mut();
        // SAFETY: the description is complete, and copied by the call; the handle lives in memory that
        // lasts as long as the process.
        unsafe {
            worker.bgw_notify_pid = backend::process_id();
            let context = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
            let started = pg_sys::RegisterDynamicBackgroundWorker(&mut worker, &mut handle);
            pg_sys::MemoryContextSwitchTo(context);
            started.then(|| Self(handle))
        }
    }

    pub fn has_stopped(&self) -> bool {
        let mut pid = 0;
        // SAFETY: the handle is valid as long as `self` is.
        let status = unsafe { pg_sys::GetBackgroundWorkerPid(self.0, &mut pid) };
        status == pg_sys::BgwHandleStatus::BGWH_STOPPED
    }

    pub fn terminate(&self) {
        // SAFETY: as above.
        unsafe { pg_sys::TerminateBackgroundWorker(self.0) };
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // SAFETY: the handle is this value's own.
        unsafe { pg_sys::pfree(self.0.cast()) };
    }
}

fn described(name: &CStr, kind: &CStr, function: &CStr) -> pg_sys::BackgroundWorker {
    let mut worker = pg_sys::BackgroundWorker {
        bgw_flags: (pg_sys::BGWORKER_SHMEM_ACCESS | pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION) as i32,
        ..Default::default()
    };
    set(&mut worker.bgw_name, name);
    set(&mut worker.bgw_type, kind);
    set(&mut worker.bgw_function_name, function);
    set(&mut worker.bgw_library_name, LIBRARY);
    worker
}

/// Copies a name into a field that is all zeros; what is too long is cut.
fn set(field: &mut [c_char], name: &CStr) {
    let last = field.len() - 1;
    for (to, from) in field[..last].iter_mut().zip(name.to_bytes()) {
        *to = *from as c_char;
    }
}

/// What either process does first: from here on signals are handled.
pub fn begin() {
    version::handle_signals();
    // SAFETY: the handlers are in place.
    unsafe { pg_sys::BackgroundWorkerUnblockSignals() };
}

/// Reads the configuration anew if a reload was asked for; returns whether it was.
pub fn reload_if_asked() -> bool {
    // SAFETY: the flag is set by the signal's handler; the configuration is read outside of transactions.
    unsafe {
        let asked = pg_sys::ConfigReloadPending != 0;
        if asked {
            pg_sys::ConfigReloadPending = 0;
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
        asked
    }
}

/// Time between two ticks of a database, in microseconds; 0 = there are none.
pub fn naptime() -> i64 {
    i64::from(settings::NAPTIME.get()) * super::schedule::MILLISECOND
}

/// Has the worker look at this database once the transaction has committed: before that it would find
/// nothing.
pub fn announce_at_commit() {
    let database = backend::database();
    register_xact_callback(PgXactCallbackEvent::Commit, move || databases::announce(database));
}

/// A warning for the server's log, where its lines stand among those of all others.
#[track_caller]
pub fn warning(code: PgSqlErrorCode, message: &str) -> Warning {
    Warning::new(code, format!("infinite_pages_cache: {message}"))
}
