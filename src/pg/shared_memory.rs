//! Shared memory: areas of a fixed size, reserved when the server preloads the library. Where it does not, every access returns
//! nothing.
//!
//! An [`Array`] is read at any time, and changes through atomics. [`Guarded`] memory is handed to a closure under its lock. The
//! closure must neither allocate nor call the server, so that it is short and cannot raise. If it panics all the same, the end
//! of the transaction or of the process releases the lock, as it does any lightweight lock. A closure that asks for the lock it
//! runs under waits for itself, so no memory has two `&mut`.

use super::plain::Plain;
use super::version;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::CStr;
use std::marker::PhantomData;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

/// Memory under one name, and the locks of its parts.
pub struct Area {
    pub name: &'static CStr,
    pub parts: &'static [&'static dyn Part],
}

impl Area {
    fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.bytes().next_multiple_of(ALIGNMENT)).sum()
    }

    fn locks(&self) -> usize {
        self.parts.iter().map(|part| part.locks()).sum()
    }
}

/// Each part begins at a multiple of this, which is the size of a processor's cache line.
pub(super) const ALIGNMENT: usize = 64;

/// A part of an area.
pub trait Part: Sync {
    /// Returns the bytes of memory that the part needs. Called when the settings are known, which fix it until the server is
    /// restarted.
    fn bytes(&self) -> usize;

    /// Returns the number of locks that guard the memory.
    fn locks(&self) -> usize;

    /// Takes over the memory, in the postmaster, before any process uses it; again after a crash.
    ///
    /// # Safety
    /// There are as many bytes and locks as the part needs. The bytes are zeros, and aligned to [`ALIGNMENT`]. Both stay as long
    /// as the server runs.
    unsafe fn start(&self, memory: *mut u8, locks: *mut pg_sys::LWLockPadded);
}

/// An array whose elements change through atomics only.
pub struct Array<T> {
    wanted: fn() -> usize,
    first: AtomicPtr<T>,
    length: AtomicUsize,
}

impl<T: Plain + Sync> Array<T> {
    /// `wanted`: the number of its elements.
    pub const fn new(wanted: fn() -> usize) -> Self {
        Self { wanted, first: AtomicPtr::new(std::ptr::null_mut()), length: AtomicUsize::new(0) }
    }

    /// Returns the elements; none without shared memory.
    pub fn elements(&self) -> &'static [T] {
        let first = self.first.load(Ordering::Relaxed);
        if first.is_null() {
            return &[];
        }
        // SAFETY: `start` was given memory for this many elements. It was all zeros, which is a valid value of a plain type. No
        // process has a `&mut` to any element.
        unsafe { std::slice::from_raw_parts(first, self.length.load(Ordering::Relaxed)) }
    }
}

impl<T: Plain + Sync> Part for Array<T> {
    fn bytes(&self) -> usize {
        (self.wanted)() * size_of::<T>()
    }

    fn locks(&self) -> usize {
        0
    }

    unsafe fn start(&self, memory: *mut u8, _locks: *mut pg_sys::LWLockPadded) {
        const { assert!(align_of::<T>() <= ALIGNMENT) };
        self.length.store((self.wanted)(), Ordering::Relaxed);
        self.first.store(memory.cast(), Ordering::Relaxed);
    }
}

/// Regions of equal size, each with a lock of its own: a header, and an array of elements.
pub struct Guarded<T, H = ()> {
    regions: usize,
    wanted: fn() -> usize,
    first: AtomicPtr<u8>,
    length: AtomicUsize,
    locks: AtomicPtr<pg_sys::LWLockPadded>,
    contents: PhantomData<fn() -> (H, T)>,
}

impl<T: Plain, H: Plain> Guarded<T, H> {
    const HEADER: usize = size_of::<H>().next_multiple_of(align_of::<T>());

    /// A single region; `wanted`: the number of its elements.
    pub const fn new(wanted: fn() -> usize) -> Self {
        Self::regions(1, wanted)
    }

    /// Several regions; `wanted`: the number of elements of each.
    pub const fn regions(regions: usize, wanted: fn() -> usize) -> Self {
        let (first, length, locks) =
            (AtomicPtr::new(std::ptr::null_mut()), AtomicUsize::new(0), AtomicPtr::new(std::ptr::null_mut()));
        Self { regions, wanted, first, length, locks, contents: PhantomData }
    }

    fn stride(length: usize) -> usize {
        (Self::HEADER + length * size_of::<T>()).next_multiple_of(ALIGNMENT)
    }

    /// Returns the number of elements of a region; 0 without shared memory.
    pub fn length(&self) -> usize {
        self.length.load(Ordering::Relaxed)
    }

    /// Returns the region of a number; `None` without shared memory.
    pub fn region(&self, number: usize) -> Option<Region<T, H>> {
        assert!(number < self.regions);
        let first = self.first.load(Ordering::Relaxed);
        if first.is_null() {
            return None;
        }
        let length = self.length();
        // SAFETY: `start` was given memory and locks for all regions, and the number is below theirs.
        unsafe {
            let header = first.add(number * Self::stride(length));
            let lock = &raw mut (*self.locks.load(Ordering::Relaxed).add(number)).lock;
            Some(Region { header: header.cast(), elements: header.add(Self::HEADER).cast(), length, lock })
        }
    }

    /// Runs `f` on the first region under the shared lock; `None` without shared memory.
    pub fn shared<R>(&self, f: impl FnOnce(&H, &[T]) -> R) -> Option<R> {
        self.region(0).map(|region| region.shared(f))
    }

    /// Runs `f` on the first region under the exclusive lock; `None` without shared memory.
    pub fn exclusive<R>(&self, f: impl FnOnce(&mut H, &mut [T]) -> R) -> Option<R> {
        self.region(0).map(|region| region.exclusive(f))
    }
}

impl<T: Plain, H: Plain> Part for Guarded<T, H> {
    fn bytes(&self) -> usize {
        self.regions * Self::stride((self.wanted)())
    }

    fn locks(&self) -> usize {
        self.regions
    }

    unsafe fn start(&self, memory: *mut u8, locks: *mut pg_sys::LWLockPadded) {
        const { assert!(align_of::<T>() <= ALIGNMENT && align_of::<H>() <= ALIGNMENT) };
        self.length.store((self.wanted)(), Ordering::Relaxed);
        self.locks.store(locks, Ordering::Relaxed);
        self.first.store(memory, Ordering::Relaxed);
    }
}

/// A region, and its lock.
pub struct Region<T, H = ()> {
    header: *mut H,
    elements: *mut T,
    length: usize,
    lock: *mut pg_sys::LWLock,
}

impl<T: Plain, H: Plain> Region<T, H> {
    /// Runs `f` under the shared lock.
    pub fn shared<R>(&self, f: impl FnOnce(&H, &[T]) -> R) -> R {
        // SAFETY: plain values, which were zeros at first. No process has a `&mut` to them while this one shares the lock.
        self.held(pg_sys::LWLockMode::LW_SHARED, || unsafe {
            f(&*self.header, std::slice::from_raw_parts(self.elements, self.length))
        })
    }

    /// Runs `f` under the exclusive lock.
    pub fn exclusive<R>(&self, f: impl FnOnce(&mut H, &mut [T]) -> R) -> R {
        // SAFETY: as above. No process has any reference to them while this one has the lock alone. Header and elements do not
        // overlap.
        self.held(pg_sys::LWLockMode::LW_EXCLUSIVE, || unsafe {
            f(&mut *self.header, std::slice::from_raw_parts_mut(self.elements, self.length))
        })
    }

    fn held<R>(&self, mode: pg_sys::LWLockMode::Type, f: impl FnOnce() -> R) -> R {
        // SAFETY: a lock of the area, which the server has initialised and keeps.
        unsafe { under(self.lock, mode, f) }
    }
}

/// Runs `f` under a lock.
///
/// # Safety
/// The server has initialised the lock, and keeps it.
pub(super) unsafe fn under<R>(lock: *mut pg_sys::LWLock, mode: pg_sys::LWLockMode::Type, f: impl FnOnce() -> R) -> R {
    // SAFETY: the caller's duty.
    unsafe {
        pg_sys::LWLockAcquire(lock, mode);
        let result = f();
        pg_sys::LWLockRelease(lock);
        result
    }
}

static AREAS: OnceLock<&[&Area]> = OnceLock::new();

fn areas() -> impl Iterator<Item = &'static Area> {
    AREAS.get().into_iter().flat_map(|areas| areas.iter().copied())
}

/// Reserves areas; called once, while the server preloads the library.
pub fn reserve(areas: &'static [&'static Area]) {
    AREAS.get_or_init(|| areas);
    version::on_shared_memory_request(request);
    // SAFETY: the postmaster, which has one thread, loads the library once. Our hook calls the earlier one.
    unsafe {
        EARLIER_STARTUP = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(startup);
    }
}

static mut EARLIER_STARTUP: pg_sys::shmem_startup_hook_type = None;

fn request() {
    for area in areas() {
        // SAFETY: the server calls this when memory and locks may be requested. The names are NUL-terminated.
        unsafe {
            pg_sys::RequestAddinShmemSpace(area.bytes());
            pg_sys::RequestNamedLWLockTranche(area.name.as_ptr(), area.locks() as i32);
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn startup() {
    // SAFETY: the postmaster calls the hook once for each shared memory that it makes, before it starts any process. What was
    // requested above is there, aligned to the server's cache line, which is larger than ours.
    unsafe {
        if let Some(earlier) = EARLIER_STARTUP {
            earlier();
        }
        for area in areas() {
            let bytes = area.bytes();
            let mut found = false;
            let mut memory = pg_sys::ShmemInitStruct(area.name.as_ptr(), bytes, &mut found).cast::<u8>();
            let mut locks = pg_sys::GetNamedLWLockTranche(area.name.as_ptr());
            assert!(memory.addr().is_multiple_of(ALIGNMENT));
            std::ptr::write_bytes(memory, 0, bytes);
            for part in area.parts {
                part.start(memory, locks);
                memory = memory.add(part.bytes().next_multiple_of(ALIGNMENT));
                locks = locks.add(part.locks());
            }
        }
    }
    PRELOADED.store(true, Ordering::Relaxed);
}

static PRELOADED: AtomicBool = AtomicBool::new(false);

/// Whether the library is preloaded. The setting shared_preload_libraries is not asked, because most roles may not see it.
pub fn is_preloaded() -> bool {
    PRELOADED.load(Ordering::Relaxed)
}
