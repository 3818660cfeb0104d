//! An entry that is to be stored.

use super::values::Values;
use crate::address::Address;
use crate::lease::LeaseId;
use pgrx::Uuid;

/// A checked entry, to be stored.
pub struct NewEntry<'a> {
    pub address: Address<'a>,
    pub values: Values<'a>,
    /// The lease that the answer was generated with.
    pub lease: Option<LeaseId>,
    /// From 1, in a batch.
    pub position: Option<usize>,
}

impl NewEntry<'_> {
    /// Returns what entries are sorted by; it is equal for the same entry only.
    pub fn key(&self) -> (Uuid, Uuid) {
        (self.address.user_id, self.address.digest)
    }
}
