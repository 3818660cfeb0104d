//! What is done with a lease beside storing an answer with it: its holder gives it back or extends it, others wait for its end,
//! and its user ends it. Each is one visit to shared memory.

use super::fence::{ALL, Changed, Fence, Hold, Me, outdate, stripe_of};
use super::slot::State;
use super::subject::{Lease, Stored};
use super::table::{self, Place, Table};
use super::types::Id;
use pgrx::pg_sys;

/// Whether a session may wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    For(Hold),
    /// No lease of the key is held.
    NotHeld,
    NoPlace,
}

impl Fence<'_> {
    /// Ends the leases that a subject concerns. Returns how many.
    pub fn end(&mut self, subject: &Stored) -> (u64, Changed) {
        let (mut number_of, mut changed) = (0, Changed::default());
        self.table.find_of_subject(subject, |table, number| {
            let slot = table.slot(number);
            if subject.concern(&slot.lease).all {
                number_of += u64::from(matches!(slot.state, State::Held | State::Filling) && !slot.outdated.all);
                outdate(table, number, ALL, &mut changed);
            }
            None::<()>
        });
        (number_of, changed)
    }

    /// Frees the slots of a user. Whoever stores with one of them is refused, because it is gone.
    pub fn forget_user(&mut self, subject: &Stored, changed: &mut Changed) {
        self.table.find_of_subject(subject, |table, number| {
            changed.wake.add(stripe_of(&table.slot(number).lease.digest));
            table.free(number);
            None::<()>
        });
    }

    /// Ends a lease at once. `failed_for`: milliseconds for which nobody else gets one. `None` if it is not held.
    pub fn release(&mut self, me: Me, id: &Id, failed_for: Option<u64>, now: u64) -> Option<Changed> {
        let number = self.find(me, id)?;
        let slot = *self.table.slot(number);
        if slot.state != State::Held {
            return None;
        }
        let mut changed = Changed::default();
        let stripe = stripe_of(&slot.lease.digest);
        changed.wake.add(stripe);
        changed.ended.add(stripe);
        // An older lease says nothing of the generation that goes on, or of what the next one is made from.
        let counts = !slot.outdated.all && (slot.is_exclusive(now) || !self.is_held(&slot.lease, now));
        match failed_for.filter(|_| counts) {
            Some(failed_for) => self.table.change(number, |slot| {
                slot.state = State::Failed;
                slot.ends = now.saturating_add(failed_for);
                slot.waiters = 0;
            }),
            None => self.table.free(number),
        }
        Some(changed)
    }

    /// Gives a lease `ttl` milliseconds from now. Returns whether it could.
    pub fn extend(&mut self, me: Me, id: &Id, ttl: u64, now: u64) -> bool {
        let Some(number) = self.find(me, id) else { return false };
        let slot = *self.table.slot(number);
        let may = !slot.outdated.all && (slot.is_exclusive(now) || !self.is_held(&slot.lease, now));
        if may {
            self.table.change(number, |slot| {
                slot.ends = now.saturating_add(ttl);
                slot.is_counted = false;
                // One that is filled is exclusive from now on, so that it is no second one after a rollback.
                slot.keeps = slot.filler != 0;
            });
        }
        may
    }

    /// Joins those who wait for the lease of a key, at most `most`.
    pub fn wait(&mut self, lease: &Lease, now: u64, most: u32) -> Wait {
        let held = |table: &mut Table, number| table.slot(number).is_exclusive(now).then_some(number);
        let Some(number) = self.table.find_of_key(lease, held) else { return Wait::NotHeld };
        if self.table.header.waiters >= most {
            return Wait::NoPlace;
        }
        self.table.header.waiters += 1;
        self.table.slot(number).waiters += 1;
        Wait::For(self.hold(number))
    }

    /// Leaves them.
    pub fn stop_waiting(&mut self, me: Me, hold: &Hold) {
        self.table.header.waiters -= 1;
        if let Some(number) = self.find(me, &hold.id) {
            self.table.slot(number).waiters -= 1;
        }
    }

    /// Marks the leases of a database whose time is over as counted, and calls `count` with the slot that counts each.
    pub fn count_over(&mut self, database: pg_sys::Oid, now: u64, count: impl Fn(u32)) {
        for place in &mut self.table.places[..self.table.header.slots_begun as usize] {
            let slot = &mut place.slot;
            if slot.lease.database == database && slot.is_over(now) && !slot.is_counted {
                slot.is_counted = true;
                slot.counted_at.checked_sub(1).into_iter().for_each(&count);
            }
        }
    }
}

/// Whether a lease is still exclusive.
pub fn is_exclusive(places: &[Place], database: pg_sys::Oid, id: &Id, now: u64) -> Option<u64> {
    let number = table::find(places, database, id.number, &id.nonce)?;
    let slot = &places[number as usize - 1].slot;
    slot.is_exclusive(now).then(|| slot.left(now))
}
