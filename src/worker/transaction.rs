//! Transactions of a worker: each acts with the rights of a role from its first statement to its commit, and
//! one that raises is rolled back.

#![allow(unsafe_code)]

use crate::catch;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::panic::AssertUnwindSafe;

/// Runs `f` in a transaction, in which [`commit_and_begin`] may be called. If it raises, the transaction is
/// rolled back and the error's message is returned.
pub fn run<T>(role: pg_sys::Oid, f: impl FnOnce() -> T) -> Result<T, String> {
    let result = PgTryBuilder::new(AssertUnwindSafe(|| {
        begin(role);
        let value = f();
        commit();
        Ok(value)
    }))
    .catch_others(|error| Err(catch::text_of(&error)))
    .catch_rust_panic(|error| Err(catch::text_of(&error)))
    .execute();
    if result.is_err() {
        // SAFETY: ends whatever is left of the transaction, and gives the process back its own user.
        unsafe { pg_sys::AbortOutOfAnyTransaction() };
    }
    result
}

/// Commits, and begins another transaction with the same rights.
pub fn commit_and_begin(role: pg_sys::Oid) {
    commit();
    begin(role);
}

fn begin(role: pg_sys::Oid) {
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
        pg_sys::SetUserIdAndSecContext(pg_sys::GetSessionUserId(), 0);
    }
}

/// The role that the process is: a superuser, for looks at catalogs only.
pub fn own_role() -> pg_sys::Oid {
    // SAFETY: reads a variable of this process.
    unsafe { pg_sys::GetSessionUserId() }
}
