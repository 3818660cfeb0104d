//! Condition variables: processes sleep on one until another process wakes them all.
//!
//! A process prepares to sleep, then looks whether it must, and then sleeps. Whoever changes what it looks at wakes it after
//! the change, so that no wake-up falls between the look and the sleep.

use super::shared_memory::Part;
use super::version;
use pgrx::pg_sys;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::Duration;

/// A number of condition variables in shared memory.
pub struct ConditionVariables {
    number: usize,
    first: AtomicPtr<pg_sys::ConditionVariable>,
}

impl ConditionVariables {
    pub const fn new(number: usize) -> Self {
        Self { number, first: AtomicPtr::new(std::ptr::null_mut()) }
    }

    /// Returns a condition variable; `None` without shared memory.
    fn get(&self, number: usize) -> Option<*mut pg_sys::ConditionVariable> {
        assert!(number < self.number);
        let first = self.first.load(Ordering::Relaxed);
        // SAFETY: `start` was given memory for all of them, and the number is below theirs.
        (!first.is_null()).then(|| unsafe { first.add(number) })
    }

    /// Sleeps until `is_over` says so or the time is over; `is_over` is asked at first, and whenever somebody wakes the
    /// process. Returns whether it said so. The end of a transaction or subtransaction ends a sleep that an ERROR interrupts.
    pub fn sleep_until(
        &self,
        number: usize,
        at_most: Option<Duration>,
        event: WaitEvent,
        mut is_over: impl FnMut() -> bool,
    ) -> bool {
        let Some(variable) = self.get(number) else { return true };
        let event = event.number();
        let begun = std::time::Instant::now();
        // SAFETY: `start` has initialised the variable, which stays as long as the server runs.
        unsafe { pg_sys::ConditionVariablePrepareToSleep(variable) };
        let said_so = loop {
            if is_over() {
                break true;
            }
            // Rounded up, because a sleep of 0 is none. -1 has no end.
            let left = at_most.map(|at_most| at_most.saturating_sub(begun.elapsed()));
            if left == Some(Duration::ZERO) {
                break false;
            }
            let left = left.map_or(-1, |left| left.as_micros().div_ceil(1000).min(i32::MAX as u128) as i64);
            // SAFETY: as above.
            unsafe { pg_sys::ConditionVariableTimedSleep(variable, left as _, event) };
        };
        // SAFETY: this process is prepared to sleep on no other variable.
        unsafe {
            pg_sys::ConditionVariableCancelSleep();
        }
        said_so
    }

    /// Wakes all that sleep on a condition variable.
    pub fn wake(&self, number: usize) {
        if let Some(variable) = self.get(number) {
            // SAFETY: `start` has initialised the variable. The server takes a spinlock and sets latches, and raises nothing.
            unsafe { pg_sys::ConditionVariableBroadcast(variable) };
        }
    }
}

impl Part for ConditionVariables {
    fn bytes(&self) -> usize {
        self.number * size_of::<pg_sys::ConditionVariable>()
    }

    fn locks(&self) -> usize {
        0
    }

    unsafe fn start(&self, memory: *mut u8, _locks: *mut pg_sys::LWLockPadded) {
        let first = memory.cast::<pg_sys::ConditionVariable>();
        for number in 0..self.number {
            // SAFETY: the caller has brought memory for as many. Zeros are no valid variable, so each is initialised.
            unsafe { pg_sys::ConditionVariableInit(first.add(number)) };
        }
        self.first.store(first, Ordering::Relaxed);
    }
}

/// What a sleep is for, which pg_stat_activity shows since PostgreSQL 17. Until then all events of extensions are one.
#[derive(Clone, Copy)]
pub enum WaitEvent {
    /// A fill that commits.
    Fence,
    /// Another session's answer.
    Lease,
}

impl WaitEvent {
    fn number(self) -> u32 {
        thread_local! {
            static FENCE: std::cell::OnceCell<u32> = const { std::cell::OnceCell::new() };
            static LEASE: std::cell::OnceCell<u32> = const { std::cell::OnceCell::new() };
        }
        let (known, name) = match self {
            Self::Fence => (&FENCE, c"InfinitePagesCacheFence"),
            Self::Lease => (&LEASE, c"InfinitePagesCacheLease"),
        };
        known.with(|known| *known.get_or_init(|| version::new_wait_event(name)))
    }
}
