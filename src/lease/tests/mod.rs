//! The table and the steps of the fence, without a server.

mod model;
mod rows;
mod steps;

use super::fence::{Announced, Begun, Fence, Granted, Hold, Me, stripe_of};
use super::pending::Row;
use super::subject::{Foundation, Kind, Lease, Stored};
use super::table::{Header, Place};
use super::types::{Id, Nonce};
use crate::pg::plain::Plain;
use proptest::prelude::*;

/// Shared memory of a number of slots.
pub struct Memory {
    pub header: Box<Header>,
    pub places: Vec<Place>,
    pub rows: Vec<Row>,
    nonces: u64,
}

impl Memory {
    pub fn new(slots: usize) -> Self {
        let places = (0..slots).map(|_| Place::zeroed()).collect();
        let rows = (0..8).map(|_| Row::zeroed()).collect();
        Self { header: Header::zeroed_box(), places, rows, nonces: 0 }
    }

    pub fn fence(&mut self) -> Fence<'_> {
        Fence::new(&mut self.header, &mut self.places, &mut self.rows)
    }

    pub fn grant(&mut self, transaction: u64, lease: &Lease, now: u64, ttl: u64) -> Result<Hold, Granted> {
        self.nonces += 1;
        let mut nonce: Nonce = [0x80; 12];
        nonce[4..].copy_from_slice(&self.nonces.to_be_bytes());
        match self.fence().grant(me(transaction), lease, &nonce, now, ttl) {
            Granted::Lease { number, .. } => Ok(Hold { id: Id { number, nonce }, stripe: stripe_of(&lease.digest) }),
            other => Err(other),
        }
    }

    /// F1, of what the lease is for.
    pub fn fill(&mut self, transaction: u64, hold: &Hold, lease: &Lease, now: u64) -> Begun {
        self.fence().begin_fill(me(transaction), &hold.id, lease, false, now)
    }

    pub fn commit(&mut self, transaction: u64, row: Option<u32>, fills: &[Hold]) -> bool {
        let may = self.fence().begin_commit(me(transaction), fills.iter().copied(), |_| ());
        if may {
            self.fence().committed(me(transaction), row, fills.iter().copied(), std::iter::empty());
        }
        may
    }

    pub fn announce(&mut self, transaction: u64, row: Option<u32>, subject: Stored) -> (u32, Option<Hold>) {
        match self.fence().announce(me(transaction), row, subject, 1, 0, true) {
            Announced::Row(row, committing) => (row, committing),
            refused => panic!("{refused:?}"),
        }
    }

    pub fn roll_back(&mut self, transaction: u64, row: Option<u32>, fills: &[Hold], grants: &[Hold]) {
        self.fence().rolled_back(me(transaction), row, 1, fills.iter().copied(), grants.iter().copied());
    }
}

pub fn me(transaction: u64) -> Me {
    Me { transaction: 1_000_000 + transaction, database: 5.into(), pid: 7 }
}

pub fn lease(user: u8, key: u8) -> Lease {
    Lease {
        database: 5.into(),
        user: [user; 16],
        digest: [key; 16],
        content_type: [key % 2; 16],
        foundation: Foundation::of(None),
    }
}

pub fn of(kind: Kind, user: u8, value: u8) -> Stored {
    Stored { database: 5.into(), kind, user: [user; 16], value: [value; 16] }
}

pub fn filling(begun: Begun) -> bool {
    matches!(begun, Begun::Filling { .. })
}

pub fn subject() -> impl Strategy<Value = Stored> {
    let kinds = prop_oneof![
        Just(Kind::Key),
        Just(Kind::Type),
        Just(Kind::User),
        Just(Kind::Metadata),
        Just(Kind::TypeOfAllUsers),
        Just(Kind::Database)
    ];
    (kinds, 0..6u8, 0..6u8).prop_map(|(kind, user, value)| match kind {
        Kind::TypeOfAllUsers => of(kind, 0, value % 2),
        Kind::Database => Stored::of_database(5.into()),
        Kind::Type => of(kind, user, value % 2),
        _ => of(kind, user, value),
    })
}
