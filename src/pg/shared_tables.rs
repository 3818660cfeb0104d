//! Shared memory of a header and two arrays that one lock guards. What [`super::shared_memory`] says of guarded memory holds
//! here.

use super::plain::Plain;
use super::shared_memory::{ALIGNMENT, Part, under};
use pgrx::pg_sys;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

type Contents<H, A, B> = fn() -> (H, A, B);

/// A header, an array of `A` and an array of `B`, under one lock.
pub struct Tables<H, A, B> {
    wanted: fn() -> (usize, usize),
    header: AtomicPtr<u8>,
    lengths: (AtomicUsize, AtomicUsize),
    lock: AtomicPtr<pg_sys::LWLockPadded>,
    contents: PhantomData<Contents<H, A, B>>,
}

impl<H: Plain, A: Plain, B: Plain> Tables<H, A, B> {
    /// `wanted`: the lengths of the arrays.
    pub const fn new(wanted: fn() -> (usize, usize)) -> Self {
        Self {
            wanted,
            header: AtomicPtr::new(std::ptr::null_mut()),
            lengths: (AtomicUsize::new(0), AtomicUsize::new(0)),
            lock: AtomicPtr::new(std::ptr::null_mut()),
            contents: PhantomData,
        }
    }

    /// Returns where the first and the second array begin, and where the second one ends.
    fn offsets((first, second): (usize, usize)) -> (usize, usize, usize) {
        let begin = size_of::<H>().next_multiple_of(ALIGNMENT);
        let middle = (begin + first * size_of::<A>()).next_multiple_of(ALIGNMENT);
        (begin, middle, middle + second * size_of::<B>())
    }

    /// Runs `f` under the shared lock; `None` without shared memory.
    pub fn shared<R>(&self, f: impl FnOnce(&H, &[A], &[B]) -> R) -> Option<R> {
        let (header, lengths, lock) = self.parts()?;
        let (first, second, _) = Self::offsets(lengths);
        // SAFETY: `start` was given memory for all of it, and the lock. It was zeros, which are valid plain values. No process
        // has a `&mut` to it while this one shares the lock.
        unsafe {
            Some(under(lock, pg_sys::LWLockMode::LW_SHARED, || {
                f(
                    &*header.cast::<H>(),
                    std::slice::from_raw_parts(header.add(first).cast::<A>(), lengths.0),
                    std::slice::from_raw_parts(header.add(second).cast::<B>(), lengths.1),
                )
            }))
        }
    }

    /// Runs `f` under the exclusive lock; `None` without shared memory.
    pub fn exclusive<R>(&self, f: impl FnOnce(&mut H, &mut [A], &mut [B]) -> R) -> Option<R> {
        let (header, lengths, lock) = self.parts()?;
        let (first, second, _) = Self::offsets(lengths);
        // SAFETY: as above. No process has any reference to the memory while this one has the lock alone. Header and arrays do
        // not overlap.
        unsafe {
            Some(under(lock, pg_sys::LWLockMode::LW_EXCLUSIVE, || {
                f(
                    &mut *header.cast::<H>(),
                    std::slice::from_raw_parts_mut(header.add(first).cast::<A>(), lengths.0),
                    std::slice::from_raw_parts_mut(header.add(second).cast::<B>(), lengths.1),
                )
            }))
        }
    }

    fn parts(&self) -> Option<(*mut u8, (usize, usize), *mut pg_sys::LWLock)> {
        let header = self.header.load(Ordering::Relaxed);
        if header.is_null() {
            return None;
        }
        let lengths = (self.lengths.0.load(Ordering::Relaxed), self.lengths.1.load(Ordering::Relaxed));
        // SAFETY: `start` was given the lock; the address of a field of it.
        Some((header, lengths, unsafe { &raw mut (*self.lock.load(Ordering::Relaxed)).lock }))
    }
}

impl<H: Plain, A: Plain, B: Plain> Part for Tables<H, A, B> {
    fn bytes(&self) -> usize {
        Self::offsets((self.wanted)()).2
    }

    fn locks(&self) -> usize {
        1
    }

    unsafe fn start(&self, memory: *mut u8, locks: *mut pg_sys::LWLockPadded) {
        const { assert!(align_of::<H>() <= ALIGNMENT && align_of::<A>() <= ALIGNMENT && align_of::<B>() <= ALIGNMENT) };
        let (first, second) = (self.wanted)();
        self.lengths.0.store(first, Ordering::Relaxed);
        self.lengths.1.store(second, Ordering::Relaxed);
        self.lock.store(locks, Ordering::Relaxed);
        self.header.store(memory, Ordering::Relaxed);
    }
}
