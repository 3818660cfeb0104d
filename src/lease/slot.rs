//! The slot of a lease in shared memory.

use super::subject::{Concern, Filled, Lease};
use super::types::Nonce;
use crate::pg::plain::plain;

/// Longest name of a content type, in bytes.
pub const NAME: usize = 255;

plain! {
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub enum State {
        Free,
        Held,
        /// A transaction stores with it. It does not end by time.
        Filling,
        /// Such a transaction is past its last check.
        Committing,
        /// Its generation has failed. Until its end nobody else gets a lease of the key.
        Failed,
    }
}

plain! {
    /// The neighbours of a slot in a list; 0 = none.
    #[derive(Clone, Copy)]
    pub struct Link {
        pub before: u32,
        pub after: u32,
    }
}

plain! {
    #[derive(Clone, Copy)]
    pub struct Slot {
        pub state: State,
        pub nonce: Nonce,
        pub lease: Lease,
        /// The number of the grant among grants and invalidations.
        pub order: u64,
        /// The number of the transaction that it was granted in.
        pub granter: u64,
        /// The number of the transaction that stores with it; 0 = none.
        pub filler: u64,
        pub filler_pid: i32,
        pub filled: Filled,
        pub outdated: Concern,
        /// Whether it is exclusive while it is filled.
        pub keeps: bool,
        /// Whether it has been counted that its time is over.
        pub is_counted: bool,
        /// When it was granted and when it ends, in milliseconds since the start of the server.
        pub granted: u64,
        pub ends: u64,
        /// In microseconds since 2000, for people.
        pub granted_at: i64,
        /// The slot that counts the content type, and 1; 0 = none.
        pub counted_at: u32,
        pub waiters: u32,
        /// Whether it is among those that give way first.
        pub is_spent: bool,
        /// The record of its user.
        pub user: u32,
        pub next_of_key: u32,
        pub of_user: Link,
        pub of_all: Link,
        pub name: [u8; NAME],
        pub length: u8,
    }
}

impl Slot {
    pub fn set_content_type(&mut self, name: &[u8]) {
        let length = name.len().min(NAME);
        self.name[..length].copy_from_slice(&name[..length]);
        self.length = length as u8;
    }

    pub fn content_type(&self) -> &[u8] {
        &self.name[..self.length as usize]
    }

    /// Whether it keeps others from a lease of its key.
    pub fn is_exclusive(&self, now: u64) -> bool {
        match self.state {
            _ if self.outdated.all => false,
            State::Held => now < self.ends,
            State::Filling | State::Committing => self.keeps,
            State::Free | State::Failed => false,
        }
    }

    /// Whether it is held and its time is over. It can still be filled until somebody needs the slot.
    pub fn is_over(&self, now: u64) -> bool {
        self.state == State::Held && now >= self.ends
    }

    /// Whether it may give way whatever the time.
    pub fn is_spent(&self) -> bool {
        self.state == State::Failed || self.state == State::Held && self.outdated.all
    }

    /// Returns how long it is exclusive, in milliseconds. One that is filled ends with a transaction, so soon.
    pub fn left(&self, now: u64) -> u64 {
        const SOON: u64 = 1000;
        let left = self.ends.saturating_sub(now);
        if matches!(self.state, State::Filling | State::Committing) { left.max(SOON) } else { left }
    }
}
