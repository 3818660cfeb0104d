//! Leases: who generates the answer of a key, and whether what was generated may still be stored. The head of `fence.rs` states
//! the protocol.

mod fence;
mod holder;
mod list;
mod memory;
mod pending;
mod room;
mod show;
mod slot;
mod subject;
mod table;
#[cfg(test)]
mod tests;
mod transaction;
mod types;
mod waiting;

pub use memory::{AREA, forget_databases};
pub use show::{all, pending};
pub use transaction::{ENDS, is_awaited};
pub use types::{Ends, Fill, Grant, LeaseId, Refused, Subject, Wanted, overtaken};
pub use waiting::{Woken, has_place, sleep_until_end};

use crate::address::Address;
use crate::error::Refusal;
use crate::pg::clock::{now, since_start};
use crate::pg::condition_variable::WaitEvent;
use crate::pg::{backend, random, shared_memory, spi};
use crate::statistics::content_types::slot_of;
use crate::statistics::counted_now;
use crate::statistics::counters::Count;
use fence::{Announced, Begun, Granted, Hold, stripe_of};
use memory::{SLEEP, look, me, visit, visit_and_wake};
use pgrx::{PgSqlErrorCode, Uuid};
use std::cell::RefCell;
use std::time::Duration;
use subject::{Filled, Foundation, Lease, Stored};
use types::Id;

/// Returns what nobody can guess of a new lease's uuid, which has version 8. The server's source is asked for many at a time,
/// because a call of it takes longer than the rest of a grant.
fn new_nonce() -> Option<types::Nonce> {
    const LENGTH: usize = size_of::<types::Nonce>();
    thread_local! {
        static DRAWN: RefCell<Vec<types::Nonce>> = const { RefCell::new(Vec::new()) };
    }
    let drawn = DRAWN.with_borrow_mut(Vec::pop);
    let mut nonce = match drawn {
        Some(nonce) => nonce,
        None => {
            let bytes: [u8; 64 * LENGTH] = random::bytes()?;
            let (nonces, _) = bytes.as_chunks::<LENGTH>();
            DRAWN.with_borrow_mut(|drawn| {
                drawn.extend_from_slice(nonces);
                drawn.pop()
            })?
        }
    };
    nonce[2] = 0x80 | nonce[2] & 0x0f;
    nonce[4] = 0x80 | nonce[4] & 0x3f;
    Some(nonce)
}

/// Called in the postmaster, so that all processes hide and find the slots of leases in the same way.
pub fn start() {
    if let Some(secret) = random::bytes() {
        types::hide_slots_by(secret);
    }
}

fn milliseconds(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

/// Reads how many leases have ended in the stripe of a key. The caller reads it before its look at the entry.
pub fn ends(address: &Address) -> Ends {
    Ends::new(memory::ended(&address.digest))
}

/// Grants the lease of a key, unless it is another's (G1). The caller has checked that it may write the entry.
pub fn grant(wanted: &Wanted, seen: Ends) -> Grant {
    if !shared_memory::is_preloaded() || backend::is_in_recovery() || spi::uses_transaction_snapshot() {
        return Grant::Unavailable;
    }
    let Some(nonce) = new_nonce() else { return Grant::Unavailable };
    let lease = Lease::new(backend::database(), wanted.address, wanted.foundation);
    let (time, granted_at, ttl) = (since_start(), now(), milliseconds(wanted.ttl));
    let granted = visit(|fence| {
        let me = transaction::with_number(fence.table.header);
        let granted = fence.grant(me, &lease, &nonce, time, ttl);
        if let Granted::Lease { number, .. } = granted {
            let slot = fence.table.slot(number);
            slot.set_content_type(wanted.address.content_type);
            slot.granted_at = granted_at;
            slot.counted_at = wanted.counted_at.map_or(0, |number| number + 1);
        }
        (granted, ends(wanted.address))
    });
    match granted {
        Some((Granted::Lease { number, over }, ended)) => {
            counted_now(over, Count::LeasesExpired, 1);
            let id = Id { number, nonce };
            transaction::granted(Hold { id, stripe: stripe_of(&lease.digest) });
            Grant::Lease { lease: LeaseId::new(&id), look_again: ended != seen }
        }
        Some((Granted::Held(left), _)) => Grant::Held { ends_in: Duration::from_millis(left) },
        Some((Granted::Failed(left), _)) => Grant::Failed { retry_after: Duration::from_millis(left) },
        Some((Granted::Pending, _)) => Grant::Pending,
        Some((Granted::NoRoom, _)) => Grant::NoRoom,
        None => Grant::Unavailable,
    }
}

/// Begins to store an answer (F1). Returns how long it took to generate, unless the transaction has stored with the lease before.
/// The transaction's commit ends the lease, and a rollback gives it back. The caller has checked that it may write the entry.
///
/// # Errors
/// 22023 when the lease is one of the same user for another entry, or another foundation.
pub fn begin_fill(fill: &Fill) -> Result<Result<Option<Duration>, Refused>, Refusal> {
    let (lease, time) = (Lease::new(backend::database(), fill.address, fill.foundation), since_start());
    let begun = visit(|fence| {
        let me = transaction::with_number(fence.table.header);
        fence.begin_fill(me, &fill.lease.id(), &lease, fill.has_metadata, time)
    });
    let refusal = |message| Refusal::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, message);
    match begun.unwrap_or(Begun::Refused(Refused::Ended)) {
        Begun::Filling { hold, since, is_first } => {
            if is_first {
                transaction::fills(hold);
            }
            Ok(Ok(is_first.then_some(Duration::from_millis(since))))
        }
        Begun::Refused(refused) => Ok(Err(refused)),
        Begun::OtherEntry => Err(refusal("the lease is of another entry")
            .detail("It was granted for another content_type or cache_key.")
            .hint("Pass the lease with the key that it was fetched for.")),
        Begun::OtherFoundation => Err(refusal("foundation_dependency is not that of the lease")
            .detail("The lease was granted for another foundation.")
            .hint("Name the same foundation in cache_fetch() and cache_upsert().")),
    }
}

/// Whether a fill that has begun would be refused now (F1, asked again).
pub fn would_be_refused(fill: &Fill) -> bool {
    let Id { number, nonce } = fill.lease.id();
    let filled = Filled { foundation: Foundation::of(fill.foundation), has_metadata: fill.has_metadata };
    let me = me(transaction::number());
    let is_refused = look(|header, places, rows| {
        let number = table::find(places, me.database, number, &nonce)?;
        fence::refusal(places, &rows[..header.rows_end as usize], me, number, &filled).is_none().then_some(())
    });
    is_refused.flatten().is_none()
}

/// Runs `delete`, which removes what an invalidation is of, so that no answer that it concerns is stored afterwards (I1, I2).
/// The caller has checked that it may delete all that the subject names. `may_reach_all`: whether it may delete the entries of
/// every user.
///
/// # Errors
/// 54000 for more users in the transaction than it has places for, unless the caller may reach all.
pub fn invalidating<T>(subject: &Subject, may_reach_all: impl Fn() -> bool, delete: impl FnOnce() -> T) -> T {
    announce(&Stored::new(backend::database(), subject), may_reach_all);
    delete()
}

/// I1 and I2. Can be cancelled.
fn announce(subject: &Stored, may_reach_all: impl Fn() -> bool) {
    let (time, level) = (since_start(), backend::nest_level());
    let write = |may_reach_all| {
        visit(|fence| {
            let me = transaction::with_number(fence.table.header);
            fence.announce(me, transaction::row(), *subject, level, time, may_reach_all)
        })
    };
    let Some(mut announced) = write(false) else { return };
    if announced == Announced::TooMany && may_reach_all() {
        announced = write(true).expect("there is shared memory");
    }
    let (row, mut committing) = match announced {
        Announced::Row(row, committing) => (row, committing),
        Announced::TooMany => too_many_users(),
        Announced::NoRow => unreachable!("there is a row for each backend"),
    };
    transaction::set_row(row);
    let me = me(transaction::number());
    while let Some(hold) = committing {
        SLEEP.sleep_until(hold.stripe as usize, None, WaitEvent::Fence, || {
            look(|_, places, _| !fence::is_committing(places, me.database, &hold.id)).unwrap_or(true)
        });
        committing = visit(|fence| fence.committing(me, subject)).flatten();
    }
}

fn too_many_users() -> ! {
    Refusal::new(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, "too many users in one transaction")
        .detail("A role that may not delete every user's entries can invalidate those of 16 users in one transaction.")
        .hint("Use a transaction for each user.")
        .raise()
}

/// Returns the user of a lease, and puts the name of its content type into `name`, which has room for it.
fn user_of(id: &Id, name: &mut Vec<u8>) -> Option<Uuid> {
    let database = backend::database();
    look(|_, places, _| {
        let number = table::find(places, database, id.number, &id.nonce)?;
        let slot = &places[number as usize - 1].slot;
        name.extend_from_slice(slot.content_type());
        Some(Uuid::from_bytes(slot.lease.user))
    })?
}

/// Ends a lease of a user that `may` accepts, at once. `failed_for`: how long nobody else gets one. Returns false when there is
/// no such lease, or when a transaction is storing with it.
pub fn release(lease: LeaseId, may: impl Fn(&Uuid) -> bool, failed_for: Option<Duration>) -> bool {
    let (id, mut name) = (lease.id(), Vec::with_capacity(slot::NAME));
    if !user_of(&id, &mut name).is_some_and(|user| may(&user)) {
        return false;
    }
    let (me, time) = (me(transaction::number()), since_start());
    let released = visit_and_wake(|fence| match fence.release(me, &id, failed_for.map(milliseconds), time) {
        Some(changed) => (true, changed),
        None => (false, fence::Changed::default()),
    });
    let released = released.unwrap_or(false);
    if released && failed_for.is_some() {
        counted_now(slot_of(&name, true), Count::Failures, 1);
    }
    released
}

/// Ends the lease of an answer that is not stored, at once: nobody else gets one for `failed_for`. Does nothing unless it is that
/// of the entry.
pub fn fail(lease: LeaseId, address: &Address, failed_for: Duration) {
    let (id, time) = (lease.id(), since_start());
    let me = me(transaction::number());
    visit_and_wake(|fence| {
        let is_of_entry = fence.find(me, &id).is_some_and(|number| {
            let found = &fence.table.slot(number).lease;
            found.user == *address.user_id && found.digest == *address.digest
        });
        let released = if is_of_entry { fence.release(me, &id, Some(milliseconds(failed_for)), time) } else { None };
        ((), released.unwrap_or_default())
    });
}

/// Gives a lease of a user that `may` accepts a new time from now, at once. `ttl`: of its content type. Returns it, or `None`
/// when there is no such lease, when it is outdated, or when its time was over and another has been granted since.
pub fn extend(lease: LeaseId, may: impl Fn(&Uuid) -> bool, ttl: impl Fn(&[u8]) -> Duration) -> Option<Duration> {
    let (id, mut name) = (lease.id(), Vec::with_capacity(slot::NAME));
    user_of(&id, &mut name).filter(may)?;
    let ttl = ttl(&name);
    let (me, time) = (me(transaction::number()), since_start());
    visit(|fence| fence.extend(me, &id, milliseconds(ttl), time))?.then_some(ttl)
}

/// Ends the leases of a user, of one content type or all, at once and again at commit, and keeps their answers out. Returns how
/// many.
pub fn end(user: &Uuid, content_type: Option<&[u8]>, may_reach_all: impl Fn() -> bool) -> u64 {
    let subject = content_type.map_or(Subject::User(*user), |name| Subject::Type(*user, name));
    let subject = Stored::new(backend::database(), &subject);
    announce(&subject, may_reach_all);
    visit_and_wake(|fence| fence.end(&subject)).unwrap_or(0)
}

/// Frees the slots of a user that is erased, when the transaction commits. The caller has called [`invalidating`] for the user.
pub fn forget_user(user: &Uuid) {
    if shared_memory::is_preloaded() {
        transaction::erases(**user);
    }
}

/// Counts leases of this database whose time is over and that nobody has ended, once each.
pub fn count_expired() {
    let (database, time) = (backend::database(), since_start());
    visit(|fence| {
        fence.count_over(database, time, |counted_at| counted_now(Some(counted_at), Count::LeasesExpired, 1))
    });
}
