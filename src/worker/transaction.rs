//! Transactions of a worker: each acts with the rights of a role from its first statement to its commit, has a longest time,
//! and is rolled back when it raises.

use super::databases;
use crate::pg::subtransaction::{self, Caught};
use crate::pg::{backend, timeout, worker_transaction};
use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use std::cell::Cell;
use std::time::{Duration, Instant};

thread_local! {
    /// When the current transaction began, and the longest it may take.
    static CURRENT: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
}

/// Runs `f` in a transaction with the rights of a role. `f` may call [`commit_and_begin`]. If it raises, or a transaction takes
/// longer than it may, the transaction is rolled back and the error's text is returned.
pub fn run<T>(role: pg_sys::Oid, longest: Duration, f: impl FnOnce() -> T) -> Result<T, String> {
    begins(longest);
    let result = worker_transaction::run(role, f, text_of);
    timeout::end();
    result
}

/// Returns the text of an error that has just been raised. When the transaction took too long, the server's own would name a
/// setting that has nothing to do with it.
fn text_of(error: &CaughtError) -> String {
    match CURRENT.get() {
        Some((began, longest)) if subtransaction::is_cancellation(error) && began.elapsed() >= longest => {
            format!("cancelled, since its transaction took longer than {} seconds", longest.as_secs())
        }
        _ => Caught::new(error).to_string(),
    }
}

/// Commits, and begins another transaction with the rights of a role.
pub fn commit_and_begin(role: pg_sys::Oid, longest: Duration) {
    worker_transaction::commit_and_begin(role, || {
        timeout::end();
        begins(longest);
    });
}

fn begins(longest: Duration) {
    CURRENT.set(Some((Instant::now(), longest)));
    databases::change_slot(backend::database(), |slot| slot.transaction_begins(longest));
    timeout::begin(longest);
}

/// Returns the role of the process, the bootstrap superuser. Nothing that runs with its rights runs a user's code.
pub fn own_role() -> pg_sys::Oid {
    backend::session_user()
}
