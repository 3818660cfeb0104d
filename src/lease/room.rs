//! Room for a lease: how many slots a user may have, and which give way when there is none.
//!
//! A user may have a sixteenth of all slots, or half as many as are free: so one user alone can use a third of the table, and
//! cannot keep the others out. What gives way is, in this order: the user's own failures and outdated leases; its own leases
//! whose time is over; anybody's failures and outdated leases; anybody's leases whose time is over. A lease whose time is not
//! over never gives way, nor does one that is being filled.

use super::list::By;
use super::slot::Slot;
use super::subject::Lease;
use super::table::{Lists, Table};
use super::types::Nonce;

/// A slot that was taken.
pub struct Taken {
    pub number: u32,
    /// Who counts the lease that gave way, if its time was over and that has not been counted.
    pub over: Option<u32>,
}

/// Returns how many slots a user may have.
pub fn most(size: usize, used: usize) -> usize {
    (size / 16).max((size - used) / 2)
}

impl Table<'_> {
    /// Takes a slot for a new lease, if the user may have one and there is room.
    pub fn take_if_room(&mut self, lease: &Lease, nonce: &Nonce, now: u64, ends: u64) -> Option<Taken> {
        let user = self.find_user(lease.database, &lease.user);
        let (size, used) = (self.places.len(), self.header.used as usize);
        let slots = user.map_or(0, |user| self.user(user).slots as usize);
        let may_have_more = slots < most(size, used);
        let mut over = None;
        if used == size || !may_have_more {
            let own = user.and_then(|user| self.first_to_go(Some(user), now));
            let victim = own.or_else(|| if may_have_more { self.first_to_go(None, now) } else { None })?;
            let Slot { is_counted, counted_at, .. } = *self.slot(victim);
            let is_over = self.slot(victim).is_over(now) && !is_counted;
            over = counted_at.checked_sub(1).filter(|_| is_over);
            self.free(victim);
        }
        Some(Taken { number: self.take(lease, nonce, now, ends), over })
    }

    /// Returns the slot that gives way first, of a user or of all. Of those whose time is over it is about the oldest.
    fn first_to_go(&mut self, user: Option<u32>, now: u64) -> Option<u32> {
        let mut lists = self.lists(user);
        if lists.spent.first != 0 {
            return Some(lists.spent.first);
        }
        if now < lists.none_over_before {
            return None;
        }
        let by = if user.is_some() { By::User } else { By::All };
        let (last, mut earliest, mut found) = (lists.kept.last, u64::MAX, None);
        while lists.kept.first != 0 && found.is_none() {
            let number = lists.kept.first;
            if self.slot(number).is_over(now) {
                found = Some(number);
                break;
            }
            // One that is filled tells its end when it is given back.
            if self.slot(number).filler == 0 {
                earliest = earliest.min(self.slot(number).ends);
            }
            // It goes to the end, so that the next search does not come upon it first.
            lists.kept = lists.kept.without(self.places, by, number).with(self.places, by, number);
            if number == last {
                break;
            }
        }
        if found.is_none() {
            lists.none_over_before = earliest;
        }
        self.set_lists(user, lists);
        found
    }

    fn lists(&mut self, user: Option<u32>) -> Lists {
        match user {
            Some(user) => self.user(user).lists,
            None => self.header.lists,
        }
    }

    fn set_lists(&mut self, user: Option<u32>, lists: Lists) {
        match user {
            Some(user) => self.user(user).lists = lists,
            None => self.header.lists = lists,
        }
    }
}
