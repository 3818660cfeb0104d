//! Background workers: how one is registered, started, watched and terminated, and what it does to serve.

use super::{backend, version};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::{CStr, c_char};
use std::sync::OnceLock;

/// Declares the C function `$symbol` as the main function of a background worker, which calls `$body`. An error ends the
/// process.
macro_rules! main_function {
    ($symbol:ident, $body:path) => {
        /// # Safety
        /// Called by the server as the main function of a background worker.
        // SAFETY: the name is this extension's own.
        #[allow(unsafe_code)]
        #[unsafe(no_mangle)]
        #[::pgrx::pg_guard]
        pub unsafe extern "C-unwind" fn $symbol(_argument: ::pgrx::pg_sys::Datum) {
            $body();
        }
    };
}
pub(crate) use main_function;

/// The name and the main function of a worker. The server starts it once recovery has ended: on a standby after promotion.
pub struct Description<'a> {
    pub name: &'a CStr,
    /// `backend_type` in pg_stat_activity.
    pub kind: &'a CStr,
    pub library: &'a CStr,
    pub function: &'a CStr,
}

impl Description<'_> {
    fn worker(&self) -> pg_sys::BackgroundWorker {
        let mut worker = pg_sys::BackgroundWorker {
            bgw_flags: (pg_sys::BGWORKER_SHMEM_ACCESS | pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION) as i32,
            bgw_start_time: pg_sys::BgWorkerStartTime::BgWorkerStart_RecoveryFinished,
            ..Default::default()
        };
        set(&mut worker.bgw_name, self.name);
        set(&mut worker.bgw_type, self.kind);
        set(&mut worker.bgw_function_name, self.function);
        set(&mut worker.bgw_library_name, self.library);
        worker
    }
}

/// Copies a name into a field of zeros. A name that is too long is cut.
fn set(field: &mut [c_char], name: &CStr) {
    let last = field.len() - 1;
    for (to, from) in field[..last].iter_mut().zip(name.to_bytes()) {
        *to = *from as c_char;
    }
}

/// Registers a worker while the server preloads the library. It starts with the server, and again `restart_seconds` after an
/// error.
pub fn register(description: &Description, restart_seconds: i32) {
    let mut worker = description.worker();
    worker.bgw_restart_time = restart_seconds;
    // SAFETY: the description is complete, and copied by the call.
    unsafe { pg_sys::RegisterBackgroundWorker(&mut worker) };
}

/// A worker that this process has started.
pub struct Worker(*mut pg_sys::BackgroundWorkerHandle);

impl Worker {
    /// Starts a worker. Its start and its end set this process's latch. Returns `None` when the server has no place for another
    /// worker.
    pub fn start(description: &Description, argument: pg_sys::Oid) -> Option<Self> {
        let mut worker = description.worker();
        worker.bgw_restart_time = pg_sys::BGW_NEVER_RESTART;
        worker.bgw_main_arg = argument.into();
        worker.bgw_notify_pid = backend::process_id();
        let mut handle = std::ptr::null_mut();
        // SAFETY: the description is complete, and copied by the call; the handle lives in memory that
        // lasts as long as the process.
        unsafe {
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

/// Returns the argument that this worker was started with, and the id of the process that started it; `None` in a process that
/// is no worker.
pub fn argument_and_starter() -> Option<(pg_sys::Oid, i32)> {
    // SAFETY: the pointer is NULL, or points to this process's own copy of its entry, which is never freed.
    let entry = unsafe { pg_sys::MyBgworkerEntry.as_ref() }?;
    Some((pg_sys::Oid::from(entry.bgw_main_arg.value() as u32), entry.bgw_notify_pid))
}

/// Handles signals from here on, which a worker does first. SIGTERM ends it, also in the middle of a statement.
pub fn begin() {
    version::handle_signals();
    // SAFETY: the handlers are in place.
    unsafe { pg_sys::BackgroundWorkerUnblockSignals() };
}

/// Connects this worker as the bootstrap superuser, once. Without a database it can read the catalogs that all databases share.
pub fn connect(database: Option<pg_sys::Oid>) {
    // SAFETY: InvalidOid stands for that user, and NULL for no database. The server raises in a process that is no worker, or
    // is connected already.
    unsafe {
        match database {
            Some(database) => pg_sys::BackgroundWorkerInitializeConnectionByOid(database, pg_sys::InvalidOid, 0),
            None => pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0),
        }
    }
}

/// Runs `f` when the process exits, with or without an error, while it still has shared memory. Called once.
pub fn before_exit(f: fn()) {
    static F: OnceLock<fn()> = OnceLock::new();

    #[pg_guard]
    unsafe extern "C-unwind" fn call(_code: i32, _argument: pg_sys::Datum) {
        if let Some(f) = F.get() {
            f();
        }
    }
    F.set(f).expect("it is called once");
    // SAFETY: the callback lives as long as the library, which the server never unloads.
    unsafe { pg_sys::before_shmem_exit(Some(call), pg_sys::Datum::null()) };
}

/// Reads the configuration again if a reload was asked for. Returns whether it was. Called between transactions.
pub fn reload_if_asked() -> bool {
    assert!(!backend::is_in_transaction());
    // SAFETY: the flag is set by the signal's handler; no transaction uses the settings.
    unsafe {
        let asked = pg_sys::ConfigReloadPending != 0;
        if asked {
            pg_sys::ConfigReloadPending = 0;
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
        asked
    }
}
