//! What is counted when a transaction commits, and not when it, or the part of it that did it, is rolled
//! back.

#![allow(unsafe_code)]

use super::counters::{self, Count, Values};
use super::hits::{self, Entry, Hits};
use super::prepared;
use crate::audit::{reads, ring};
use crate::error::Refusal;
use crate::partition::dump_check;
use crate::pg::backend;
use pgrx::Uuid;
use pgrx::prelude::*;
use std::cell::RefCell;

/// To be done at commit.
pub enum Action {
    /// Count so many in a place.
    Count(u32, Count, u64),
    /// The counters of a place have been stored up to these values.
    CountersDrained(u32, Box<Values>),
    /// These hits have been stored, or their entries are gone.
    HitsDrained(Vec<Hits>),
    /// The audit records at these positions have been stored.
    AuditDrained(Vec<u64>),
    /// These entries have been removed: what hits they had is no more.
    Removed(Vec<Entry>),
    /// Nothing of this user may be left.
    ForgetUser(Uuid),
    /// A month has been dropped, which a dump that has begun meanwhile would miss.
    MonthGone,
}

thread_local! {
    /// Each with the nesting level of the subtransaction that did it.
    static PENDING: RefCell<Vec<(i32, Action)>> = const { RefCell::new(Vec::new()) };
}

/// Has the ends of transactions looked at; called once when the library is loaded.
pub fn watch() {
    // SAFETY: the callbacks live as long as the library, which PostgreSQL never unloads. They raise at most
    // before a transaction commits or is prepared, when that may fail.
    unsafe {
        pg_sys::RegisterXactCallback(Some(transaction_ended), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(subtransaction_ended), std::ptr::null_mut());
    }
}

/// Has something done when the transaction commits.
pub fn at_commit(action: Action) {
    let level = backend::nest_level();
    PENDING.with_borrow_mut(|pending| {
        // Many writes of one type are one number, of each that they count.
        const NUMBERS: usize = 8;
        if let Action::Count(place, count, number) = action {
            let same = pending.iter_mut().rev().take(NUMBERS).find_map(|(of_level, earlier)| match earlier {
                Action::Count(of_place, of_count, total)
                    if (*of_level, *of_place, *of_count) == (level, place, count) =>
                {
                    Some(total)
                }
                _ => None,
            });
            if let Some(total) = same {
                *total = total.saturating_add(number);
                return;
            }
        }
        pending.push((level, action));
    });
}

/// The hits that the transaction has stored: its own rows show them already.
pub fn drained_hits() -> Vec<Hits> {
    PENDING.with_borrow(|pending| {
        let drained = pending.iter().filter_map(|(_, action)| match action {
            Action::HitsDrained(hits) => Some(hits),
            _ => None,
        });
        drained.flatten().copied().collect()
    })
}

/// The counters of a place that the transaction has stored.
pub fn drained_counters(place: u32) -> Option<Values> {
    PENDING.with_borrow(|pending| {
        pending.iter().rev().find_map(|(_, action)| match action {
            Action::CountersDrained(of, values) if *of == place => Some(**values),
            _ => None,
        })
    })
}

/// Whether the transaction has drained something: what it has stored must not be stored again.
pub fn has_drained() -> bool {
    let has_stored = |action: &Action| !matches!(action, Action::Count(..) | Action::Removed(_) | Action::MonthGone);
    PENDING.with_borrow(|pending| pending.iter().any(|(_, action)| has_stored(action)))
}

fn has_dropped_a_month() -> bool {
    PENDING.with_borrow(|pending| pending.iter().any(|(_, action)| matches!(action, Action::MonthGone)))
}

#[pg_guard]
unsafe extern "C-unwind" fn transaction_ended(event: pg_sys::XactEvent::Type, _arg: *mut std::ffi::c_void) {
    use pg_sys::XactEvent::{
        XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PRE_COMMIT, XACT_EVENT_PRE_PREPARE, XACT_EVENT_PREPARE,
    };
    match event {
        XACT_EVENT_PRE_COMMIT if has_dropped_a_month() => dump_check::ask_before_commit(),
        XACT_EVENT_PRE_PREPARE if has_dropped_a_month() => dump_check::refuse_to_prepare(),
        // What has been drained must stay in memory until it is certain that it is stored.
        XACT_EVENT_PRE_PREPARE if has_drained() => Refusal::new(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            "cannot PREPARE a transaction that has stored statistics or erased a user",
        )
        .detail("What is in memory goes when it commits, which another session may do, or never.")
        .hint("Call cache_flush_statistics() and cache_forget_user() in a transaction of their own.")
        .raise(),
        XACT_EVENT_COMMIT => {
            for (_, action) in PENDING.take() {
                perform(action);
            }
        }
        // Hits of what it removes leave memory with the next flush.
        XACT_EVENT_PREPARE => {
            for (_, action) in PENDING.take() {
                if let Action::Count(place, count, number) = action
                    && number > 0
                    && !prepared::keep(place, count, number)
                {
                    perform(action);
                }
            }
        }
        XACT_EVENT_ABORT => PENDING.with_borrow_mut(Vec::clear),
        _ => {}
    }
}

unsafe extern "C-unwind" fn subtransaction_ended(
    event: pg_sys::SubXactEvent::Type,
    _id: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _arg: *mut std::ffi::c_void,
) {
    // The callback runs at the level of the subtransaction.
    let level = backend::nest_level();
    match event {
        pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => {
            PENDING.with_borrow_mut(|pending| pending.iter_mut().for_each(|(of, _)| *of = (*of).min(level - 1)));
        }
        pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => {
            PENDING.with_borrow_mut(|pending| pending.retain(|(of, _)| *of < level));
        }
        _ => {}
    }
}

fn perform(action: Action) {
    match action {
        Action::Count(place, count, number) => counters::place(place).add(count, number),
        Action::CountersDrained(place, values) => counters::drained(place, &values),
        Action::HitsDrained(hits) => hits::drained(&hits),
        Action::Removed(entries) => entries.iter().for_each(hits::forget),
        Action::AuditDrained(positions) => ring::drained(&positions),
        Action::ForgetUser(user_id) => {
            hits::forget_user(&user_id);
            ring::forget(|body| reads::is_of(body, &user_id));
        }
        Action::MonthGone => {}
    }
}
