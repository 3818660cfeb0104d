//! Locks on keys, held until the end of the transaction. No unique index spans the months, so two
//! writers of one key at a month's edge could each leave a row: the lock has them follow one another.
//!
//! A write of some keys locks each of them alone, in one of 2^31 places, and shares the lock of the group
//! that its user falls in. A transaction that writes many keys locks whole groups: there are few enough
//! of them for the lock table, and one user's batch holds up other writers of that user only, and of the
//! few who share the group. Groups first and in order, then keys in order: no two writes that lock all
//! they need at once can deadlock.

#![allow(unsafe_code)]

use crate::advisory::{Class, lock, lock_shared};
use pgrx::{Uuid, pg_sys};
use sha2::{Digest, Sha256};
use std::cell::Cell;
use std::collections::BTreeSet;

/// The groups that all users fall in, and so the most group locks that a transaction takes. The shared
/// lock table of the server holds 6,400 locks with default settings.
const GROUPS: u32 = 1024;
/// Up to so many keys are locked one by one in a transaction.
const SINGLE_KEYS: usize = 256;

thread_local! {
    /// The start of the transaction that last locked keys one by one, and how many it locked.
    static LOCKED: Cell<(i64, usize)> = const { Cell::new((0, 0)) };
}

/// Locks keys, each a user and a digest.
pub fn lock_keys<'a>(keys: impl Iterator<Item = (&'a Uuid, &'a Uuid)> + Clone) {
    let groups: BTreeSet<u32> = keys.clone().map(|(user, _)| group(user)).collect();
    let keys: BTreeSet<u32> = keys.map(|(user, digest)| place(user, digest)).collect();
    // SAFETY: reads when the transaction started. Two that start in the same microsecond share a count,
    // which does no harm.
    let transaction = unsafe { pg_sys::GetCurrentTransactionStartTimestamp() };
    let (last, before) = LOCKED.get();
    let locked = if last == transaction { before } else { 0 } + keys.len();
    if locked > SINGLE_KEYS {
        groups.into_iter().for_each(|group| lock(Class::KeyGroup, group));
        return;
    }
    LOCKED.set((transaction, locked));
    groups.into_iter().for_each(|group| lock_shared(Class::KeyGroup, group));
    keys.into_iter().for_each(|key| lock(Class::Key, key));
}

/// Waits for every writer of a user's entries, and keeps others from writing any.
pub fn lock_user(user_id: &Uuid) {
    lock(Class::KeyGroup, group(user_id));
}

fn group(user_id: &Uuid) -> u32 {
    (spread(user_id) >> 32) as u32 % GROUPS
}

/// One of 2^31 places that a key is locked in. The digest is evenly spread already.
fn place(user_id: &Uuid, digest: &Uuid) -> u32 {
    (u128::from_be_bytes(**digest) as u32 ^ spread(user_id) as u32) & 0x7fff_ffff
}

/// A user's id, which may follow any pattern, spread over 64 bits.
fn spread(user_id: &Uuid) -> u64 {
    let hash = Sha256::digest(user_id.as_bytes());
    u64::from_be_bytes(hash[..8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::key::digest_of;
    use std::collections::HashSet;

    #[test]
    fn keys_are_spread() {
        let user = Uuid::from_bytes([7; 16]);
        let places: HashSet<u32> =
            (0u32..10_000).map(|number| place(&user, &digest_of(b"t", &number.to_be_bytes()))).collect();
        // Of 10,000 in 2^31 places two share one with a probability of 2 percent.
        assert!(places.len() > 9_995, "{}", places.len());
        assert!(places.iter().all(|place| *place <= i32::MAX as u32));
    }

    #[test]
    fn users_are_spread() {
        let count = |id: fn(u128) -> u128| -> usize {
            (0..10_000).map(|number| group(&Uuid::from_bytes(id(number).to_be_bytes()))).collect::<HashSet<_>>().len()
        };
        // 10,000 users leave a group of 1,024 empty with a probability of e^-9.8 each.
        for groups in [count(|number| number), count(|number| number << 64), count(|number| number << 100)] {
            assert!(groups > 1_000 && groups <= 1024, "{groups}");
        }
    }

    #[test]
    fn a_key_of_many_users_is_many_keys() {
        let digest = digest_of(b"t", b"k");
        let of = |number: u128| Uuid::from_bytes((0xa11c_e000_0000_4000_8000_0000_0000_0000 + number).to_be_bytes());
        let places: HashSet<u32> = (0..1_000).map(|number| place(&of(number), &digest)).collect();
        assert!(places.len() > 995, "{}", places.len());
    }
}
