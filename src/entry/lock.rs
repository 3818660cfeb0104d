//! Locks on keys, held until the end of the transaction. No unique index spans the months, so two
//! writers of one key at a month's edge could each leave a row: the lock has them follow one another.
//!
//! A write of some keys locks each of them alone, in one of 2³¹ places, and shares the lock of the
//! group that the key falls in. A large batch locks whole groups, of which there are few enough for
//! the lock table. Groups first and in order, then keys in order: no two writes that lock all they need
//! at once can deadlock.

use crate::advisory::{Class, lock, lock_shared};
use pgrx::Uuid;
use std::collections::BTreeSet;

/// The groups that all keys fall in, and so the most locks that a large batch takes. The shared lock
/// table holds 6,400 with default settings.
const GROUPS: u32 = 1024;
/// Up to so many keys are locked one by one.
const SINGLE_KEYS: usize = 256;

/// Where a key is locked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    group: u32,
    key: u32,
}

fn place(user_id: &Uuid, digest: &Uuid) -> Place {
    // The digest is evenly spread already; the user's id may be anything.
    let digest = u128::from_be_bytes(**digest);
    let user = u128::from_be_bytes(**user_id);
    let mixed = (digest ^ user.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)) as u64;
    Place { group: (mixed >> 32) as u32 % GROUPS, key: mixed as u32 & 0x7fff_ffff }
}

/// Locks keys, each a user and a digest.
pub fn lock_keys<'a>(keys: impl Iterator<Item = (&'a Uuid, &'a Uuid)>) {
    let places: Vec<Place> = keys.map(|(user, digest)| place(user, digest)).collect();
    let whole_groups = places.len() > SINGLE_KEYS;
    let groups = distinct(places.iter().map(|place| place.group));
    for group in groups {
        if whole_groups {
            lock(Class::KeyGroup, group);
        } else {
            lock_shared(Class::KeyGroup, group);
        }
    }
    if !whole_groups {
        for key in distinct(places.iter().map(|place| place.key)) {
            lock(Class::Key, key);
        }
    }
}

/// The distinct numbers, in order.
fn distinct(numbers: impl Iterator<Item = u32>) -> BTreeSet<u32> {
    numbers.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_spread() {
        let mut groups = std::collections::HashSet::new();
        let mut keys = std::collections::HashSet::new();
        for number in 0u32..10_000 {
            let digest = crate::entry::key::digest_of(b"t", &number.to_be_bytes());
            let place = place(&Uuid::from_bytes([7; 16]), &digest);
            assert!(place.group < GROUPS && place.key <= i32::MAX as u32);
            groups.insert(place.group);
            keys.insert(place.key);
        }
        // 10,000 keys leave a group of 1,024 empty with a probability of e^-9.8 each.
        assert!(groups.len() > 1_010, "{}", groups.len());
        assert!(keys.len() > 9_990, "{}", keys.len());
    }

    #[test]
    fn a_key_of_two_users_is_two_keys() {
        let digest = crate::entry::key::digest_of(b"t", b"k");
        assert_ne!(place(&Uuid::from_bytes([1; 16]), &digest), place(&Uuid::from_bytes([2; 16]), &digest));
    }
}
