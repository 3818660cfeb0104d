//! Shared memory: areas of a fixed size, reserved when the server starts with the library preloaded.
//! Without that there are none, and whoever wants one goes without.

#![allow(unsafe_code)]

use super::version;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::CStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// A part of shared memory with the locks that guard it.
pub struct Area {
    pub name: &'static CStr,
    /// Bytes of memory; asked once the settings are known.
    pub bytes: fn() -> usize,
    /// Locks that guard it.
    pub locks: fn() -> usize,
    /// Takes the memory over, all zeros, in the postmaster, before any backend runs; again after a crash.
    pub start: fn(memory: *mut u8, locks: *mut pg_sys::LWLockPadded),
}

static AREAS: OnceLock<&[&Area]> = OnceLock::new();

fn areas() -> impl Iterator<Item = &'static Area> {
    AREAS.get().into_iter().flat_map(|areas| areas.iter().copied())
}

/// Reserves areas; called once, while the server preloads the library.
pub fn reserve(areas: &'static [&'static Area]) {
    AREAS.get_or_init(|| areas);
    version::on_shared_memory_request(request);
    // SAFETY: the postmaster, which has one thread, loads the library once. The earlier hook is called
    // by ours.
    unsafe {
        EARLIER_STARTUP = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(startup);
    }
}

static mut EARLIER_STARTUP: pg_sys::shmem_startup_hook_type = None;

fn request() {
    for area in areas() {
        // SAFETY: called when memory and locks may be requested, with NUL-terminated names.
        unsafe {
            pg_sys::RequestAddinShmemSpace((area.bytes)());
            pg_sys::RequestNamedLWLockTranche(area.name.as_ptr(), (area.locks)() as i32);
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn startup() {
    // SAFETY: the postmaster calls the hook once for each shared memory that it makes, before it starts
    // any process; what was requested above is there.
    unsafe {
        if let Some(earlier) = EARLIER_STARTUP {
            earlier();
        }
        for area in areas() {
            let bytes = (area.bytes)();
            let mut found = false;
            let memory = pg_sys::ShmemInitStruct(area.name.as_ptr(), bytes, &mut found).cast::<u8>();
            std::ptr::write_bytes(memory, 0, bytes);
            (area.start)(memory, pg_sys::GetNamedLWLockTranche(area.name.as_ptr()));
        }
    }
    THERE.store(true, Ordering::Relaxed);
}

static THERE: AtomicBool = AtomicBool::new(false);

/// Whether the library is preloaded. Asked here, not of the setting that says so, which most roles may not see.
pub fn is_there() -> bool {
    THERE.load(Ordering::Relaxed)
}

/// A lock of an area.
#[derive(Clone, Copy)]
pub struct Lock(*mut pg_sys::LWLock);

impl Lock {
    /// The lock of this number, of an area's.
    ///
    /// # Safety
    /// `locks` must be what [`Area::start`] was given, and the number less than [`Area::locks`].
    pub unsafe fn of(locks: *mut pg_sys::LWLockPadded, number: usize) -> Self {
        // SAFETY: the caller's duty.
        unsafe { Self(&raw mut (*locks.add(number)).lock) }
    }

    /// Runs `f` together with others that share the lock. `f` must neither allocate nor raise.
    pub fn shared<T>(self, f: impl FnOnce() -> T) -> T {
        self.held(pg_sys::LWLockMode::LW_SHARED, f)
    }

    /// Runs `f` alone. `f` must neither allocate nor raise.
    pub fn exclusive<T>(self, f: impl FnOnce() -> T) -> T {
        self.held(pg_sys::LWLockMode::LW_EXCLUSIVE, f)
    }

    fn held<T>(self, mode: pg_sys::LWLockMode::Type, f: impl FnOnce() -> T) -> T {
        // SAFETY: a lock in shared memory. Should `f` panic all the same, the end of the transaction
        // releases the lock, as it does every other.
        unsafe {
            pg_sys::LWLockAcquire(self.0, mode);
            let result = f();
            pg_sys::LWLockRelease(self.0);
            result
        }
    }
}
