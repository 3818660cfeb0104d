//! Background workers: how one is registered, started, watched and ended, and what it does itself.

use super::{backend, version};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::{CStr, c_char};
use std::sync::OnceLock;

/// Declares the C function `$symbol` as the main function of a background worker, which `$body` is the work of. An error
/// ends the process.
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

/// What a worker is called, and the C function that is its main one. It runs while the server takes writes: not on a standby
/// before it is promoted.
pub struct Description<'a> {
    pub name: &'a CStr,
    /// As `backend_type` in pg_stat_activity.
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

/// Copies a name into a field that is all zeros; what is too long is cut.
fn set(field: &mut [c_char], name: &CStr) {
    let last = field.len() - 1;
    for (to, from) in field[..last].iter_mut().zip(name.to_bytes()) {
        *to = *from as c_char;
    }
}

/// Registers a worker while the server preloads the library. It is started with the server, and again some seconds after an
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
    /// Starts a worker, whose end sets this process's latch; `None` when the server has no place for another.
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

/// The argument that this worker was started with, and the process id of who did it; of none in any other process.
pub fn argument_and_starter() -> Option<(pg_sys::Oid, i32)> {
    // SAFETY: the entry is NULL, or that of this process, and stays.
    let entry = unsafe { pg_sys::MyBgworkerEntry.as_ref() }?;
    Some((pg_sys::Oid::from(entry.bgw_main_arg.value() as u32), entry.bgw_notify_pid))
}

/// What a worker does first: from here on signals are handled. SIGTERM ends it, also in the middle of a statement.
pub fn begin() {
    version::handle_signals();
    // SAFETY: the handlers are in place.
    unsafe { pg_sys::BackgroundWorkerUnblockSignals() };
}

/// Connects this worker, once, to a database, or to none, which lets it read the catalogs that all databases share. It is
/// the bootstrap superuser.
pub fn connect(database: Option<pg_sys::Oid>) {
    // SAFETY: InvalidOid stands for that user, and NULL for none. The server raises in a process that is no worker, or is
    // connected.
    unsafe {
        match database {
            Some(database) => pg_sys::BackgroundWorkerInitializeConnectionByOid(database, pg_sys::InvalidOid, 0),
            None => pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0),
        }
    }
}

/// Runs `f` when the process ends, however it does, while it still has shared memory. Called once.
pub fn before_exit(f: fn()) {
    static F: OnceLock<fn()> = OnceLock::new();

    #[pg_guard]
    unsafe extern "C-unwind" fn call(_code: i32, _argument: pg_sys::Datum) {
        if let Some(f) = F.get() {
            f();
        }
    }
    F.set(f).expect("it is called once");
    // SAFETY: the library stays as long as the process.
    unsafe { pg_sys::before_shmem_exit(Some(call), pg_sys::Datum::null()) };
}

/// Reads the configuration anew if a reload was asked for; returns whether it was. Called between transactions.
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
