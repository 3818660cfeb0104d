//! What prepared transactions have counted. Another session ends such a transaction, and the server does not tell the library
//! how. So the numbers are kept with the transaction's id, and a reader of counters asks what has become of it.

use super::counters::{self, Counter};
use crate::pg::backend::{database, full_transaction_id};
use crate::pg::guc;
use crate::pg::plain::plain;
use crate::pg::shared_memory::{Area, Guarded};
use crate::pg::transaction_status::has_committed;
use pgrx::pg_sys;

/// Numbers that can be kept for each of `max_prepared_transactions`, on average. A transaction's upserts of one content type
/// take up to three, and as many more for each of its answers that it stores with a lease.
const NUMBERS: usize = 64;

plain! {
    /// A number of a prepared transaction.
    #[derive(Clone, Copy)]
    struct Kept {
        /// 0 = free.
        transaction: u64,
        database: pg_sys::Oid,
        slot: u32,
        number: u64,
        counter: Counter,
    }
}

static KEPT: Guarded<Kept> = Guarded::new(capacity);

pub static AREA: Area = Area { name: c"infinite_pages_cache prepared transactions", parts: &[&KEPT] };

/// Returns how many numbers can be kept. `max_prepared_transactions` cannot change while the server runs.
fn capacity() -> usize {
    let setting = guc::value_of(c"max_prepared_transactions").and_then(|value| String::from_utf8(value).ok());
    setting.and_then(|value| value.parse::<usize>().ok()).unwrap_or(0).max(1) * NUMBERS
}

/// Keeps a number of the transaction that is being prepared. Returns whether there was room for it.
pub fn keep(slot: u32, counter: Counter, number: u64) -> bool {
    // A transaction that is being prepared has an id.
    let transaction = full_transaction_id();
    let database = database();
    let kept = KEPT.exclusive(|_, all| {
        let free = all.iter_mut().find(|kept| kept.transaction == 0);
        free.map(|free| *free = Kept { transaction, database, slot, number, counter }).is_some()
    });
    kept.unwrap_or(false)
}

/// Counts the numbers of this database's prepared transactions that have committed, and forgets those of transactions that were
/// rolled back.
pub fn settle() {
    let database = database();
    // Nothing is allocated under the lock.
    let mut prepared = Vec::with_capacity(KEPT.length());
    KEPT.shared(|_, all| {
        let mine = all.iter().filter(|kept| kept.transaction != 0 && kept.database == database);
        prepared.extend(mine.map(|kept| kept.transaction));
    });
    prepared.sort_unstable();
    prepared.dedup();
    for transaction in prepared {
        // The server forgets how a transaction has ended after some two hundred million others; it counts as rolled back.
        if let Some(committed) = has_committed(transaction) {
            end(transaction, committed);
        }
    }
}

/// Takes out the numbers of a transaction that has ended, and counts them if it has committed. If two sessions find it ended,
/// one of them gets the numbers.
fn end(transaction: u64, committed: bool) {
    let mut taken = Vec::with_capacity(KEPT.length());
    KEPT.exclusive(|_, all| {
        for kept in all.iter_mut().filter(|kept| kept.transaction == transaction) {
            taken.push(*kept);
            kept.transaction = 0;
        }
    });
    for kept in taken.into_iter().filter(|_| committed) {
        counters::slot(kept.slot).add(kept.counter, kept.number);
    }
}

/// Forgets the numbers of databases that are gone.
pub fn forget_databases(is_gone: impl Fn(pg_sys::Oid) -> bool) {
    KEPT.exclusive(|_, all| {
        for kept in all.iter_mut().filter(|kept| kept.transaction != 0 && is_gone(kept.database)) {
            kept.transaction = 0;
        }
    });
}
