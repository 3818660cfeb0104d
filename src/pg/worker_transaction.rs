//! Transactions of a background worker. A function that SQL calls must not end the transaction that it runs in. So these panic
//! unless the process is in no transaction, or in one that it has begun here, between two statements.

use super::{backend, scope};
use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;
use std::panic::AssertUnwindSafe;

/// Runs `f` in a transaction that acts with the rights of a role from its first statement to its commit. `f` may call
/// [`commit_and_begin`]. When it raises, the transaction is rolled back, and what `read` makes of the error is returned.
pub fn run<T, E>(role: pg_sys::Oid, f: impl FnOnce() -> T, read: fn(&CaughtError) -> E) -> Result<T, E> {
    assert!(!backend::is_in_transaction());
    let result = PgTryBuilder::new(AssertUnwindSafe(|| {
        begin(role);
        let value = f();
        commit();
        Ok(value)
    }))
    .catch_others(|error| Err(read(&error)))
    .catch_rust_panic(|error| Err(read(&error)))
    .execute();
    if result.is_err() {
        // SAFETY: rolls back what is left of the transaction, and restores the process's own user. No caller above us uses the
        // transaction.
        unsafe { pg_sys::AbortOutOfAnyTransaction() };
    }
    result
}

/// Commits, runs `between`, and begins another transaction.
pub fn commit_and_begin(role: pg_sys::Oid, between: impl FnOnce()) {
    commit();
    between();
    begin(role);
}

fn begin(role: pg_sys::Oid) {
    // SAFETY: no transaction is open. Settings that a trigger has changed for the session are reset to those that the process
    // began with. Outside of transactions the user is the process's own. Because the change of user is a local one, no SET ROLE
    // or SET SESSION AUTHORIZATION of a trigger can lead back to that user.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        pg_sys::ResetAllOptions();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        pg_sys::SetUserIdAndSecContext(role, pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32);
    }
}

/// Commits. The role acts to the end, because deferred triggers run as part of the commit.
fn commit() {
    // SAFETY: statements, and functions that they call, have memory contexts of their own, so the check of the context shows
    // that none runs, and SPI is not connected. Scans have their table open, so no scan, no relation and no snapshot of a closure
    // is left to it. What a closure sets back after the commit, a role or a setting, is a value that exists. Transaction and
    // snapshot are those of `begin`, and the session's user is the process's own.
    unsafe {
        assert!(backend::nest_level() == 1 && pg_sys::CurrentMemoryContext == pg_sys::TopTransactionContext);
        assert!(scope::is_none_open(), "a relation or a snapshot is in use");
        pg_sys::PopActiveSnapshot();
        pg_sys::CommitTransactionCommand();
        pg_sys::SetUserIdAndSecContext(backend::session_user(), 0);
    }
}

/// Runs `f` in a transaction that reads catalogs only. An error ends the process, and with it the transaction.
pub fn read_catalogs<T>(f: impl FnOnce() -> T) -> T {
    assert!(!backend::is_in_transaction());
    // SAFETY: no transaction is open. An ERROR ends the process.
    unsafe {
        pg_sys::StartTransactionCommand();
        pg_sys::GetTransactionSnapshot();
        let result = f();
        pg_sys::CommitTransactionCommand();
        result
    }
}
