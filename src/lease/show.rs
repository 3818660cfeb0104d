//! What the views show of leases.

use super::memory::look;
use super::pending::{Pending, Row};
use super::slot::{Slot, State};
use super::subject::Kind;
use super::table::Place;
use crate::pg::backend::database;
use crate::pg::clock::since_start;
use pgrx::Uuid;
use std::time::Duration;

/// A lease, for the view.
pub struct Shown {
    pub user_id: Uuid,
    pub content_type: Vec<u8>,
    pub digest: Uuid,
    /// `held`, `over`, `outdated`, `storing` or `failed`.
    pub state: &'static str,
    /// In microseconds since 2000.
    pub granted_at: i64,
    pub ends_in: Duration,
    pub storing_pid: Option<i32>,
    pub waiters: u32,
}

/// A pending invalidation, for the view.
pub struct ShownPending {
    pub pid: i32,
    pub user_id: Option<Uuid>,
    pub subject: &'static str,
    pub pending_for: Duration,
}

/// Nothing is allocated under the lock, so there must be room before. What begins meanwhile may be left out beyond this.
const MORE: usize = 64;

/// Returns the leases of this database, of one user or of all. Those of others are not copied, because a tenant that asks often
/// would keep everybody from the lock.
pub fn all(of: Option<&Uuid>) -> Vec<Shown> {
    let (database, now) = (database(), since_start());
    let mut slots: Vec<Slot> = Vec::with_capacity(look(|header, _, _| header.used as usize).unwrap_or(0) + MORE);
    let room = slots.capacity();
    look(|header, places, _| {
        let is_mine = |slot: &&Slot| {
            slot.state != State::Free
                && slot.lease.database == database
                && of.is_none_or(|user| slot.lease.user == **user)
        };
        let begun = &places[..header.slots_begun as usize];
        slots.extend(begun.iter().map(|Place { slot, .. }| slot).filter(is_mine).take(room).copied());
    });
    // What has failed and may be tried again is of no interest.
    slots.retain(|slot| slot.state != State::Failed || now < slot.ends);
    slots.iter().map(|slot| shown(slot, now)).collect()
}

fn shown(slot: &Slot, now: u64) -> Shown {
    Shown {
        user_id: Uuid::from_bytes(slot.lease.user),
        content_type: slot.content_type().to_vec(),
        digest: Uuid::from_bytes(slot.lease.digest),
        state: match slot.state {
            State::Failed => "failed",
            State::Filling | State::Committing => "storing",
            _ if slot.outdated.all => "outdated",
            _ if slot.is_over(now) => "over",
            _ => "held",
        },
        granted_at: slot.granted_at,
        ends_in: Duration::from_millis(slot.ends.saturating_sub(now)),
        storing_pid: (slot.filler != 0).then_some(slot.filler_pid),
        waiters: slot.waiters,
    }
}

/// Returns the pending invalidations of this database.
pub fn pending() -> Vec<ShownPending> {
    let (database, now) = (database(), since_start());
    let number = look(|_, _, rows| rows.iter().flat_map(Row::pending).count()).unwrap_or(0);
    let mut all: Vec<(i32, Pending)> = Vec::with_capacity(number + MORE);
    let room = all.capacity();
    look(|_, _, rows| {
        let pending = rows.iter().flat_map(|row| row.pending().iter().map(|pending| (row.pid, *pending)));
        all.extend(pending.filter(|(_, pending)| pending.subject.database == database).take(room));
    });
    all.iter().map(|(pid, pending)| shown_pending(*pid, pending, now)).collect()
}

fn shown_pending(pid: i32, pending: &Pending, now: u64) -> ShownPending {
    ShownPending {
        pid,
        user_id: pending.subject.is_of_one_user().then(|| Uuid::from_bytes(pending.subject.user)),
        subject: match pending.subject.kind {
            Kind::Key => "key",
            Kind::Type => "content type",
            Kind::Foundation => "foundation",
            Kind::Metadata => "metadata",
            Kind::User => "user",
            Kind::TypeOfAllUsers => "content type of all users",
            Kind::Database => "database",
        },
        pending_for: Duration::from_millis(now.saturating_sub(pending.since)),
    }
}
