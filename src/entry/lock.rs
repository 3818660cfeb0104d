//! How writers of one key follow one another. No unique index spans the months, so two of them at a month's edge could
//! each leave a row.
//!
//! What protects a key from its first write on is its row: other writers find it, also uncommitted, in whichever month,
//! and wait for its transaction. Only before that somebody has to be the first, and the lock of the key tells who. It is
//! held for a part of a call, one key after the other also in a batch. So a transaction keeps no lock of the extension's,
//! however many keys it writes.
//!
//! A write takes these steps:
//! 1. If somebody is erasing the user, it waits for that transaction, unless its own has written entries of the user:
//!    then the eraser waits for it.
//! 2. It takes the lock of the key; others that want it queue in the order in which they came. If the lock is taken and
//!    its own transaction has written, deleted or locked a row of the key, it goes on without: the holder waits
//!    for that row, or will, before it writes.
//! 3. It looks at all rows of the key, and waits for the transaction that has written one, until there is none. It
//!    still has the lock: who wants it waits for the same transaction anyway, so that no new deadlock comes of it.
//!    For a row that somebody is deleting or has locked the statements of the next step wait, for which they need no
//!    more than its lock; at REPEATABLE READ they tell that they cannot follow.
//! 4. It takes the moment, so that the later writer has the later one, and writes. If the moment's month has no
//!    partition, it gives the lock back and makes one: who is making it holds a lock until the end of its transaction,
//!    and may want the key. A batch that has written does not wait for that: it goes on with its last moment.
//! 5. It gives the lock back.
//!
//! Transactions that write different keys wait for each other at none of the steps; those that write the same ones in
//! different orders can deadlock, as with UPDATE. A batch writes in the order of users and digests, as invalidations lock.
//!
//! Clients that INSERT, UPDATE or DELETE directly take no lock. They can come between steps 3 and 4: then ON CONFLICT and
//! the locks of rows hold, and the write begins again.

use super::Address;
use super::look::{self, Found};
use crate::advisory::{self, Brief, Class};
use pgrx::Uuid;
use sha2::{Digest, Sha256};

/// Calls `write` with what there is of an entry, when nobody else is writing it and nobody can begin to.
pub fn with_key<T>(address: &Address, write: impl FnOnce(&Found) -> T) -> T {
    wait_for_erasure(&address.user_id);
    let place = place(&address.user_id, &address.digest);
    let lock = match Brief::try_exclusive(Class::Key, place) {
        None if !look::has_own(address) => Some(Brief::exclusive(Class::Key, place)),
        lock => lock,
    };
    let found = loop {
        let found = look::look(address);
        match found.inserter {
            Some(other) => other.wait(),
            None => break found,
        }
    };
    let written = write(&found);
    lock.into_iter().for_each(Brief::release);
    written
}

/// Keeps writers of a user's entries waiting until the end of the transaction, but for those whose transactions have
/// written some already.
pub fn erase(user: &Uuid) {
    advisory::lock(Class::User, place_of_user(user));
}

fn wait_for_erasure(user: &Uuid) {
    let place = place_of_user(user);
    match Brief::try_shared(Class::User, place) {
        None if !look::has_own_of(user) => Brief::shared(Class::User, place).release(),
        lock => lock.into_iter().for_each(Brief::release),
    }
}

/// One of 2^31 places that a key is locked in. The digest is evenly spread already.
fn place(user_id: &Uuid, digest: &Uuid) -> u32 {
    (u128::from_be_bytes(**digest) as u32 ^ spread(user_id)) & 0x7fff_ffff
}

/// One of as many that a user is locked in.
fn place_of_user(user_id: &Uuid) -> u32 {
    spread(user_id) & 0x7fff_ffff
}

/// A user's id, which may follow any pattern, spread over 32 bits.
fn spread(user_id: &Uuid) -> u32 {
    let hash = Sha256::digest(user_id.as_bytes());
    u32::from_be_bytes(hash[4..8].try_into().expect("four bytes"))
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
            let place = |number| place_of_user(&Uuid::from_bytes(id(number).to_be_bytes()));
            (0..10_000).map(place).collect::<HashSet<_>>().len()
        };
        for places in [count(|number| number), count(|number| number << 64), count(|number| number << 100)] {
            assert!(places > 9_995, "{places}");
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
