//! What prepared transactions have counted. Nobody tells a library how such a one ends, which another session decides,
//! so the numbers are kept with its id, and who reads counters asks what has become of it.

#![allow(unsafe_code)]

use super::counters::{self, Count};
use crate::pg::backend::{database, full_transaction_id};
use crate::pg::shared_memory::{Area, Lock};
use pgrx::pg_sys;
use std::ffi::CStr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::Relaxed};

/// Numbers that can be kept for each of `max_prepared_transactions`, on average. A type that a transaction writes takes up
/// to three.
const NUMBERS: usize = 64;

/// A number of a prepared transaction. All zeros is a free one.
#[repr(C)]
#[derive(Clone, Copy)]
struct Kept {
    /// 0 in a free one.
    transaction: u64,
    database: pg_sys::Oid,
    place: u32,
    number: u64,
    count: Count,
}

static KEPT: AtomicPtr<Kept> = AtomicPtr::new(std::ptr::null_mut());
static CAPACITY: AtomicUsize = AtomicUsize::new(0);
static LOCK: AtomicPtr<pg_sys::LWLockPadded> = AtomicPtr::new(std::ptr::null_mut());

pub const AREA: Area = Area {
    name: c"infinite_pages_cache prepared transactions",
    bytes: || capacity() * size_of::<Kept>(),
    locks: || 1,
    start: |memory, locks| {
        KEPT.store(memory.cast(), Relaxed);
        CAPACITY.store(capacity(), Relaxed);
        LOCK.store(locks, Relaxed);
    },
};

/// As the setting says, which cannot change while the server runs.
fn capacity() -> usize {
    // SAFETY: a setting of the server's; its value is text that stays until the next call.
    let setting = unsafe {
        let value = pg_sys::GetConfigOption(c"max_prepared_transactions".as_ptr(), false, false);
        CStr::from_ptr(value).to_str().ok().and_then(|value| value.parse::<usize>().ok())
    };
    setting.unwrap_or(0).max(1) * NUMBERS
}

/// Runs `f` with all there is room for, alone.
fn with_all<T>(f: impl FnOnce(&mut [Kept]) -> T) -> Option<T> {
    let kept = KEPT.load(Relaxed);
    if kept.is_null() {
        return None;
    }
    // SAFETY: the area has one lock.
    let lock = unsafe { Lock::of(LOCK.load(Relaxed), 0) };
    // SAFETY: the area holds so many, all zeros or valid, and the lock is exclusive.
    Some(lock.exclusive(|| f(unsafe { std::slice::from_raw_parts_mut(kept, CAPACITY.load(Relaxed)) })))
}

/// Keeps a number of the transaction that is being prepared; returns whether there was room for it.
pub fn keep(place: u32, count: Count, number: u64) -> bool {
    // One that is prepared has an id.
    let transaction = full_transaction_id();
    let database = database();
    let kept = with_all(|all| {
        let free = all.iter_mut().find(|kept| kept.transaction == 0);
        free.map(|free| *free = Kept { transaction, database, place, number, count }).is_some()
    });
    kept.unwrap_or(false)
}

/// Counts what transactions of this database had kept that have committed, and forgets what those had that were rolled
/// back.
pub fn settle() {
    let database = database();
    // Nothing is allocated under the lock.
    let mut prepared = Vec::with_capacity(CAPACITY.load(Relaxed));
    with_all(|all| {
        let mine = all.iter().filter(|kept| kept.transaction != 0 && kept.database == database);
        prepared.extend(mine.map(|kept| kept.transaction));
    });
    prepared.sort_unstable();
    prepared.dedup();
    for transaction in prepared {
        if let Some(committed) = outcome_of(transaction) {
            end(transaction, committed);
        }
    }
}

/// Whether a transaction has committed; `None` while it is prepared. One so old that nobody knows any more has not been
/// asked about for two hundred million others.
fn outcome_of(transaction: u64) -> Option<bool> {
    // SAFETY: the function takes a transaction id that has been assigned, passed by value.
    let status = unsafe {
        pgrx::direct_function_call::<&str>(pg_sys::pg_xact_status, &[Some(pg_sys::Datum::from(transaction))])
    };
    match status {
        Some("in progress") => None,
        status => Some(status == Some("committed")),
    }
}

/// Takes out what a transaction had kept. Of two sessions that find it ended one does.
fn end(transaction: u64, committed: bool) {
    let mut taken = Vec::with_capacity(CAPACITY.load(Relaxed));
    with_all(|all| {
        for kept in all.iter_mut().filter(|kept| kept.transaction == transaction) {
            taken.push(*kept);
            kept.transaction = 0;
        }
    });
    for kept in taken.into_iter().filter(|_| committed) {
        counters::place(kept.place).add(kept.count, kept.number);
    }
}

/// Forgets what belongs to databases that are gone.
pub fn forget_databases(is_gone: impl Fn(pg_sys::Oid) -> bool) {
    with_all(|all| {
        for kept in all.iter_mut().filter(|kept| kept.transaction != 0 && is_gone(kept.database)) {
            kept.transaction = 0;
        }
    });
}
