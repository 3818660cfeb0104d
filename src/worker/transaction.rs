//! Transactions of a worker: each acts with the rights of a role from its first statement to its commit, and
//! one that raises is rolled back.

#![allow(unsafe_code)]

use super::databases;
use crate::pg::subtransaction::{self, Caught};
use crate::pg::{backend, version};
use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;
use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

thread_local! {
    /// When the current transaction began, and the longest it may take.
    static CURRENT: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
}

/// Runs `f` in a transaction, in which [`commit_and_begin`] may be called. If it raises, or takes longer than it
/// may, the transaction is rolled back and what the error said is returned.
pub fn run<T>(role: pg_sys::Oid, longest: Duration, f: impl FnOnce() -> T) -> Result<T, String> {
    let result = PgTryBuilder::new(AssertUnwindSafe(|| {
        begin(role, longest);
        let value = f();
        commit();
        Ok(value)
    }))
    .catch_others(|error| Err(text_of(&error)))
    .catch_rust_panic(|error| Err(text_of(&error)))
    .execute();
    if result.is_err() {
        // SAFETY: ends whatever is left of the transaction, and gives the process back its own user.
        unsafe { pg_sys::AbortOutOfAnyTransaction() };
        version::unlimit_time();
    }
    result
}

/// What an error said: the server's own would name a setting that has nothing to do with it.
fn text_of(error: &CaughtError) -> String {
    match CURRENT.get() {
        Some((began, longest)) if subtransaction::is_cancellation(error) && began.elapsed() >= longest => {
            format!("cancelled, since its transaction took longer than {} seconds", longest.as_secs())
        }
        _ => Caught::new(error).to_string(),
    }
}

/// Commits, and begins another transaction with the same rights.
pub fn commit_and_begin(role: pg_sys::Oid, longest: Duration) {
    commit();
    begin(role, longest);
}

fn begin(role: pg_sys::Oid, longest: Duration) {
    CURRENT.set(Some((Instant::now(), longest)));
    databases::change_slot(backend::database(), |slot| slot.transaction_begins(longest));
    version::limit_time(longest);
    // SAFETY: no transaction is open. A trigger may have changed settings of the session, which is set back
    // first, to what the process began with. The user is that of the process outside of transactions; with a
    // local change no SET ROLE or SET SESSION AUTHORIZATION of a trigger can lead back to it.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        pg_sys::ResetAllOptions();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        pg_sys::SetUserIdAndSecContext(role, pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32);
    }
}

/// The role acts until the transaction is over: deferred triggers run as part of the commit.
fn commit() {
    // SAFETY: the transaction and the snapshot are those of `begin`; the session's user is the one that the
    // process began with.
    unsafe {
        pg_sys::PopActiveSnapshot();
        pg_sys::CommitTransactionCommand();
        pg_sys::SetUserIdAndSecContext(backend::session_user(), 0);
    }
    version::unlimit_time();
}

/// The role that the process is: a superuser, for looks at catalogs only.
pub fn own_role() -> pg_sys::Oid {
    backend::session_user()
}
