//! The pending invalidations of each backend, in a row of 16 places. When a row is full, its subjects become fewer that
//! concern more.

use super::subject::{Bytes, Filled, Kind, Lease, Stored};
use crate::pg::plain::plain;
use pgrx::pg_sys;

const PLACES: usize = 16;

plain! {
    #[derive(Clone, Copy)]
    pub struct Pending {
        pub subject: Stored,
        pub order: u64,
        /// The nesting level of the subtransaction that has called.
        pub level: i32,
        pub since: u64,
    }
}

plain! {
    /// What is pending of one transaction.
    #[derive(Clone, Copy)]
    pub struct Row {
        /// The transaction's number; 0 = free.
        pub transaction: u64,
        pub pid: i32,
        used: u32,
        places: [Pending; PLACES],
    }
}

/// Where a row has room for an invalidation.
enum Room {
    /// At this place, which is of the same subject.
    Same(usize),
    Free,
    /// Where the subjects of this user become one.
    User(Bytes),
    /// Where all subjects become one, which is the whole database.
    Database,
}

impl Row {
    pub fn pending(&self) -> &[Pending] {
        &self.places[..self.used as usize]
    }

    fn room_for(&self, new: &Pending) -> Room {
        let same = |old: &Pending| (old.subject, old.level) == (new.subject, new.level);
        if let Some(place) = self.pending().iter().position(same) {
            Room::Same(place)
        } else if self.pending().len() < PLACES {
            Room::Free
        } else {
            self.user_to_merge(new).map_or(Room::Database, Room::User)
        }
    }

    /// Whether an invalidation finds room only if the row is of the whole database afterwards.
    pub fn would_reach_all(&self, new: &Pending) -> bool {
        matches!(self.room_for(new), Room::Database)
    }

    /// Adds an invalidation.
    pub fn add(&mut self, new: Pending) {
        match self.room_for(&new) {
            Room::Same(place) => self.places[place].order = new.order,
            Room::Free => self.push(new),
            Room::User(user) => self.merge(Stored::of_user(new.subject.database, user), new),
            Room::Database => self.merge(Stored::of_database(new.subject.database), new),
        }
    }

    /// Returns the user of the most subjects, the new one among them, if it has several.
    fn user_to_merge(&self, new: &Pending) -> Option<Bytes> {
        let users = || self.pending().iter().chain([new]).map(|pending| pending.subject);
        let number = |user| users().filter(|other| other.is_of_one_user() && other.user == user).count();
        let most = users().filter(Stored::is_of_one_user).max_by_key(|subject| number(subject.user))?;
        (number(most.user) > 1).then_some(most.user)
    }

    /// Replaces what `by` contains. It has the latest order and the outermost level of all, so that it refuses too much and
    /// never too little.
    fn merge(&mut self, by: Stored, new: Pending) {
        let is_contained =
            |one: &Pending| by.kind == Kind::Database || one.subject.is_of_one_user() && one.subject.user == by.user;
        let mut merged = Pending { subject: by, order: 0, level: i32::MAX, since: u64::MAX };
        let mut add = |one: &Pending| {
            merged.order = merged.order.max(one.order);
            merged.level = merged.level.min(one.level);
            merged.since = merged.since.min(one.since);
        };
        self.pending().iter().chain([&new]).filter(|one| is_contained(one)).for_each(&mut add);
        self.keep(|one| !is_contained(one));
        self.push(merged);
        if !is_contained(&new) {
            self.push(new);
        }
    }

    fn push(&mut self, new: Pending) {
        self.places[self.used as usize] = new;
        self.used += 1;
    }

    fn keep(&mut self, keep: impl Fn(&Pending) -> bool) {
        let mut kept = 0;
        for place in 0..self.used as usize {
            if keep(&self.places[place]) {
                self.places[kept] = self.places[place];
                kept += 1;
            }
        }
        self.used = kept as u32;
    }

    /// A subtransaction of this level commits: what it has called is its parent's.
    pub fn hand_up(&mut self, level: i32) {
        for pending in &mut self.places[..self.used as usize] {
            pending.level = pending.level.min(level - 1);
        }
    }

    /// Forgets what subtransactions of this level and below have called.
    pub fn take_back(&mut self, level: i32) {
        self.keep(|pending| pending.level < level);
    }
}

/// Takes the first free row. There are as many as backends.
pub fn take(rows: &mut [Row], end: &mut u32, transaction: u64, pid: i32) -> Option<u32> {
    let number = rows.iter().position(|row| row.transaction == 0)?;
    rows[number].transaction = transaction;
    rows[number].pid = pid;
    rows[number].used = 0;
    *end = (*end).max(number as u32 + 1);
    Some(number as u32)
}

/// Gives a row back.
pub fn give_back(rows: &mut [Row], end: &mut u32, number: u32) {
    rows[number as usize].transaction = 0;
    rows[number as usize].used = 0;
    while *end > 0 && rows[*end as usize - 1].transaction == 0 {
        *end -= 1;
    }
}

/// Gives back what is pending in a database that is gone.
pub fn forget_databases(rows: &mut [Row], is_gone: impl Fn(pg_sys::Oid) -> bool) {
    rows.iter_mut().for_each(|row| row.keep(|pending| !is_gone(pending.subject.database)));
}

fn others(rows: &[Row], transaction: u64) -> impl Iterator<Item = &Pending> {
    rows.iter().filter(move |row| row.transaction != transaction).flat_map(Row::pending)
}

/// Whether an invalidation of another transaction concerns every fill of a lease.
pub fn others_concern_all(rows: &[Row], transaction: u64, lease: &Lease) -> bool {
    others(rows, transaction).any(|pending| pending.subject.concern(lease).all)
}

/// Whether an invalidation of another transaction concerns a fill.
pub fn others_concern(rows: &[Row], transaction: u64, lease: &Lease, fill: &Filled) -> bool {
    others(rows, transaction).any(|pending| pending.subject.concerns(lease, fill))
}

/// Whether an invalidation of the transaction, later than a grant, concerns a fill.
pub fn own_concern(rows: &[Row], transaction: u64, granted: u64, lease: &Lease, fill: &Filled) -> bool {
    let mut own = rows.iter().filter(|row| transaction != 0 && row.transaction == transaction).flat_map(Row::pending);
    own.any(|pending| pending.order > granted && pending.subject.concerns(lease, fill))
}
