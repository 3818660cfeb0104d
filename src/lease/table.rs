//! The table of leases: slots, found by key and by user. Everything here runs under the lock, so nothing allocates or raises.
//!
//! Numbers of slots and of users' records begin with 1, so that 0, which is what shared memory begins as, is none.

use super::list::{By, Links, List};
use super::slot::{Link, Slot, State};
use super::subject::{Bytes, Kind, Lease, Stored};
use super::types::Nonce;
use crate::pg::plain::{Plain, plain};
use pgrx::pg_sys;

plain! {
    /// A user that has slots.
    #[derive(Clone, Copy)]
    pub struct User {
        pub database: pg_sys::Oid,
        pub id: Bytes,
        /// The next one in its bucket or, if the record is free, the next free one.
        next: u32,
        pub slots: u32,
        pub lists: Lists,
    }
}

plain! {
    /// Slots of one user, or all slots.
    #[derive(Clone, Copy)]
    pub struct Lists {
        /// Those that give way first.
        pub spent: List,
        pub kept: List,
        /// No time of a kept one is over before this.
        pub none_over_before: u64,
    }
}

plain! {
    /// An element of each of the arrays that the table needs. They have one length.
    pub struct Place {
        pub slot: Slot,
        user: User,
        /// The first slot in the bucket of keys with this number.
        first_of_keys: u32,
        /// The first record in the bucket of users with this number.
        first_of_users: u32,
    }
}

plain! {
    /// What there is once.
    pub struct Header {
        /// The last number of a grant, an invalidation or a transaction.
        pub order: u64,
        /// What spreads keys and users over buckets in a way that no tenant knows; 0 = not yet chosen.
        seed: u64,
        pub used: u32,
        first_free_slot: u32,
        /// Slots after these have never been used.
        pub slots_begun: u32,
        first_free_user: u32,
        users_begun: u32,
        pub committing: u32,
        pub waiters: u32,
        /// Rows of pending invalidations from here on are free.
        pub rows_end: u32,
        pub lists: Lists,
    }
}

/// The table, under the lock.
pub struct Table<'a> {
    pub header: &'a mut Header,
    pub places: &'a mut [Place],
}

impl Links for [Place] {
    fn link(&mut self, by: By, number: u32) -> &mut Link {
        let slot = &mut self[number as usize - 1].slot;
        match by {
            By::User => &mut slot.of_user,
            By::All => &mut slot.of_all,
        }
    }
}

fn spread(seed: u64, database: pg_sys::Oid, parts: [&Bytes; 2]) -> u64 {
    let mut hash = seed ^ u64::from(database.to_u32());
    for half in parts.iter().flat_map(|part| part.chunks_exact(8)) {
        let half = u64::from_ne_bytes(half.try_into().expect("eight bytes"));
        let product = u128::from(hash ^ half) * 0x9e37_79b9_7f4a_7c15;
        hash = (product >> 64) as u64 ^ product as u64;
    }
    hash
}

/// Returns the number of the slot of a lease's uuid, if it is there.
pub fn find(places: &[Place], database: pg_sys::Oid, number: u32, nonce: &Nonce) -> Option<u32> {
    let slot = &places.get((number as usize).checked_sub(1)?)?.slot;
    let is_there = !matches!(slot.state, State::Free | State::Failed);
    (is_there && slot.nonce == *nonce && slot.lease.database == database).then_some(number)
}

impl Table<'_> {
    pub fn slot(&mut self, number: u32) -> &mut Slot {
        &mut self.places[number as usize - 1].slot
    }

    pub fn next_order(&mut self) -> u64 {
        self.header.order += 1;
        self.header.order
    }

    fn bucket(&self, database: pg_sys::Oid, parts: [&Bytes; 2]) -> usize {
        spread(self.header.seed, database, parts) as usize % self.places.len()
    }

    /// Returns the first slot in the bucket of a key.
    fn first_of_keys(&self, lease: &Lease) -> u32 {
        self.places[self.bucket(lease.database, [&lease.user, &lease.digest])].first_of_keys
    }

    /// Returns the next slot of a key, from one in its bucket on; 0 = none.
    fn of_key(&self, mut number: u32, lease: &Lease) -> u32 {
        while number != 0 {
            let slot = &self.places[number as usize - 1].slot;
            let one = &slot.lease;
            if (one.database, one.user, one.digest) == (lease.database, lease.user, lease.digest) {
                break;
            }
            number = slot.next_of_key;
        }
        number
    }

    /// Calls `f` with each slot of a key, until it returns something. `f` may free the slot.
    pub fn find_of_key<T>(&mut self, lease: &Lease, mut f: impl FnMut(&mut Self, u32) -> Option<T>) -> Option<T> {
        let mut number = self.of_key(self.first_of_keys(lease), lease);
        while number != 0 {
            let next = self.slot(number).next_of_key;
            let found = f(self, number);
            if found.is_some() {
                return found;
            }
            number = self.of_key(next, lease);
        }
        None
    }

    /// Calls `f` with each slot that a subject may concern, until it returns something. `f` may free the slot or change its
    /// list.
    pub fn find_of_subject<T>(
        &mut self,
        subject: &Stored,
        mut f: impl FnMut(&mut Self, u32) -> Option<T>,
    ) -> Option<T> {
        if subject.kind == Kind::Key {
            let lease =
                Lease { database: subject.database, user: subject.user, digest: subject.value, ..Lease::zeroed() };
            return self.find_of_key(&lease, f);
        }
        let (lists, by) = if subject.is_of_one_user() {
            let user = self.find_user(subject.database, &subject.user)?;
            (self.user(user).lists, By::User)
        } else {
            (self.header.lists, By::All)
        };
        // The spent ones first, because `f` may move a kept one behind them.
        for first in [lists.spent.first, lists.kept.first] {
            let mut number = first;
            while number != 0 {
                let next = self.places.link(by, number).after;
                let found = f(self, number);
                if found.is_some() {
                    return found;
                }
                number = next;
            }
        }
        None
    }

    pub fn find_user(&self, database: pg_sys::Oid, id: &Bytes) -> Option<u32> {
        let mut number = self.places[self.bucket(database, [id, &[0; 16]])].first_of_users;
        while number != 0 {
            let user = &self.places[number as usize - 1].user;
            if user.id == *id && user.database == database {
                return Some(number);
            }
            number = user.next;
        }
        None
    }

    pub fn user(&mut self, number: u32) -> &mut User {
        &mut self.places[number as usize - 1].user
    }

    /// Returns the record of a user, and makes one if there is none. The caller has seen that a slot is free, so a record is.
    fn user_or_new(&mut self, database: pg_sys::Oid, id: &Bytes) -> u32 {
        if let Some(number) = self.find_user(database, id) {
            return number;
        }
        let number = match self.header.first_free_user {
            0 => {
                self.header.users_begun += 1;
                self.header.users_begun
            }
            number => {
                self.header.first_free_user = self.user(number).next;
                number
            }
        };
        let bucket = self.bucket(database, [id, &[0; 16]]);
        let next = std::mem::replace(&mut self.places[bucket].first_of_users, number);
        *self.user(number) = User { database, id: *id, next, ..User::zeroed() };
        number
    }

    fn forget_user(&mut self, number: u32) {
        let User { database, id, next, .. } = *self.user(number);
        let bucket = self.bucket(database, [&id, &[0; 16]]);
        let mut before = self.places[bucket].first_of_users;
        if before == number {
            self.places[bucket].first_of_users = next;
        } else {
            while self.user(before).next != number {
                before = self.user(before).next;
            }
            self.user(before).next = next;
        }
        let next = std::mem::replace(&mut self.header.first_free_user, number);
        *self.user(number) = User { next, ..User::zeroed() };
    }

    /// Takes a free slot for a new lease; there is one. `ends`: when its time is over.
    pub fn take(&mut self, lease: &Lease, nonce: &Nonce, now: u64, ends: u64) -> u32 {
        if self.header.seed == 0 {
            self.header.seed = u64::from_ne_bytes(nonce[4..].try_into().expect("eight bytes")) | 1;
        }
        let number = match self.header.first_free_slot {
            0 => {
                self.header.slots_begun += 1;
                self.header.slots_begun
            }
            number => {
                self.header.first_free_slot = self.slot(number).next_of_key;
                number
            }
        };
        let user = self.user_or_new(lease.database, &lease.user);
        let bucket = self.bucket(lease.database, [&lease.user, &lease.digest]);
        let next_of_key = std::mem::replace(&mut self.places[bucket].first_of_keys, number);
        let order = self.next_order();
        *self.slot(number) = Slot {
            state: State::Held,
            nonce: *nonce,
            lease: *lease,
            order,
            granted: now,
            ends,
            user,
            next_of_key,
            ..Slot::zeroed()
        };
        self.header.used += 1;
        self.user(user).slots += 1;
        self.join(number);
        number
    }

    /// Frees a slot.
    pub fn free(&mut self, number: u32) {
        self.leave(number);
        let Slot { lease, user, next_of_key, state, .. } = *self.slot(number);
        let bucket = self.bucket(lease.database, [&lease.user, &lease.digest]);
        let mut before = self.places[bucket].first_of_keys;
        if before == number {
            self.places[bucket].first_of_keys = next_of_key;
        } else {
            while self.slot(before).next_of_key != number {
                before = self.slot(before).next_of_key;
            }
            self.slot(before).next_of_key = next_of_key;
        }
        self.header.committing -= u32::from(state == State::Committing);
        self.header.used -= 1;
        self.user(user).slots -= 1;
        if self.user(user).slots == 0 {
            self.forget_user(user);
        }
        let next_of_key = std::mem::replace(&mut self.header.first_free_slot, number);
        *self.slot(number) = Slot { next_of_key, ..Slot::zeroed() };
    }

    /// Changes a slot's state, and its lists if need be.
    pub fn change(&mut self, number: u32, change: impl FnOnce(&mut Slot)) {
        let before = self.slot(number).state;
        change(self.slot(number));
        let slot = *self.slot(number);
        self.header.committing += u32::from(slot.state == State::Committing);
        self.header.committing -= u32::from(before == State::Committing);
        if slot.is_spent() != slot.is_spent {
            self.leave(number);
            self.join(number);
        } else if !slot.is_spent {
            self.note_end(number);
        }
    }

    fn join(&mut self, number: u32) {
        let is_spent = self.slot(number).is_spent();
        self.slot(number).is_spent = is_spent;
        let user = self.slot(number).user;
        let (mut own, mut all) = (self.user(user).lists, self.header.lists);
        *own.of(is_spent) = own.of(is_spent).with(self.places, By::User, number);
        *all.of(is_spent) = all.of(is_spent).with(self.places, By::All, number);
        self.user(user).lists = own;
        self.header.lists = all;
        if !is_spent {
            self.note_end(number);
        }
    }

    fn leave(&mut self, number: u32) {
        let Slot { is_spent, user, .. } = *self.slot(number);
        let (mut own, mut all) = (self.user(user).lists, self.header.lists);
        *own.of(is_spent) = own.of(is_spent).without(self.places, By::User, number);
        *all.of(is_spent) = all.of(is_spent).without(self.places, By::All, number);
        self.user(user).lists = own;
        self.header.lists = all;
    }

    fn note_end(&mut self, number: u32) {
        let Slot { ends, user, .. } = *self.slot(number);
        for lists in [&mut self.places[user as usize - 1].user.lists, &mut self.header.lists] {
            lists.none_over_before = lists.none_over_before.min(ends);
        }
    }

    /// Frees the slots of databases that are gone.
    pub fn forget_databases(&mut self, is_gone: impl Fn(pg_sys::Oid) -> bool) {
        for number in 1..=self.header.slots_begun {
            let Slot { state, lease, .. } = *self.slot(number);
            if state != State::Free && is_gone(lease.database) {
                self.free(number);
            }
        }
    }
}

impl Lists {
    pub fn of(&mut self, is_spent: bool) -> &mut List {
        if is_spent { &mut self.spent } else { &mut self.kept }
    }
}
