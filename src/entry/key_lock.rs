//! How writers of one key follow one another. No unique index spans the months, so two of them at a month's edge could
//! each leave a row.
//!
//! A key is protected by its row as soon as there is one. Other writers find the row in whichever month it lies, also
//! before it is committed, and wait for its transaction. The lock of the key decides who writes the first row. A call holds
//! it for a part of its time, and a batch holds the lock of one key after the other. A transaction therefore keeps no lock
//! of the extension, however many keys it writes.
//!
//! A write takes these steps:
//! 1. It locks the table as INSERT does, because whoever has the table locked may be about to want the key.
//! 2. It waits for the transaction that is erasing the user, unless its own transaction has written entries of the user:
//!    then the eraser waits for it.
//! 3. It takes the lock of the key. Writers that want the same lock queue in the order in which they came. If the lock is
//!    taken, and its own transaction has written, deleted or locked a row of the key, it goes on without the lock: the holder
//!    waits for that row before it writes.
//! 4. It looks at all rows of the key, and waits for the transaction that has inserted one, until there is none. It keeps
//!    the lock meanwhile, because whoever wants the lock would wait for the same transaction. The statements of the next step
//!    wait for a row that somebody is deleting or has locked, and tell at REPEATABLE READ that they cannot follow.
//! 5. It takes the moment, so that the later writer has the later one, and writes. If the month has no partition, it gives
//!    the lock back and makes one, because whoever is making it may want the key. Only a batch that has written goes on with
//!    its last moment: whoever waits for it may be making the partition.
//! 6. It gives the lock back. If its own transaction has made the month's partition, it keeps the lock until the end,
//!    because nobody else can see a row in there.
//!
//! If a client that writes directly, and so takes no lock, has come between steps 4 and 5, the write begins again.
//!
//! Transactions that write different keys do not wait for each other, but for the maker of a month. Transactions that write
//! the same keys in different orders can deadlock, as with UPDATE. A batch writes in the order of users and digests, in which
//! invalidations lock, too. A transaction that has locked a single partition, as CREATE INDEX does, can deadlock with the
//! writer of a key that it then writes.
//!
//! Where rows are elsewhere, as those of a distributed table, or in columns that the cache does not know, step 4 sees
//! nothing. Then transactions keep the locks of steps 2 and 3 until they end. These fall in few places, so that the lock
//! table holds them: there transactions that write different keys can deadlock.

use super::conflicts::{self, Found};
use super::entry_index::Entries;
use crate::address::Address;
use crate::extension::{CACHE, Extension, locks};
use crate::partition::create;
use crate::pg::advisory_lock::{self, Brief};
use crate::pg::table_lock::lock_to_write;
use pgrx::{Uuid, pg_sys};
use sha2::{Digest, Sha256};

/// Places of the locks that are kept until the end of a transaction: all that one can keep. The lock table of the server has
/// room for 64 of each connection, with its default settings.
const KEPT_PLACES: u32 = 64;

/// A key that nobody else is writing, and that nobody can begin to write. [`with_key`] alone makes one, so what takes one
/// cannot run without the lock.
pub struct Locked<'a> {
    address: &'a Address<'a>,
    table: pg_sys::Oid,
    found: Found,
}

impl<'a> Locked<'a> {
    fn new(address: &'a Address<'a>, table: pg_sys::Oid) -> Self {
        Self { address, table, found: conflicts::settled(address) }
    }

    pub fn address(&self) -> &'a Address<'a> {
        self.address
    }

    /// The table of the cache, locked as INSERT does.
    pub fn table(&self) -> pg_sys::Oid {
        self.table
    }

    /// What there is of the entry.
    pub fn found(&self) -> &Found {
        &self.found
    }
}

/// What a write did.
pub enum Wrote<T> {
    /// Something that other transactions find.
    Openly(T),
    /// A row in a partition that its own transaction has made.
    Hidden(T),
}

/// Locks the key of an entry, and calls `write` with it.
pub fn with_key<'a, T>(address: &'a Address<'a>, write: impl FnOnce(&Locked<'a>) -> Wrote<T>) -> T {
    let extension = Extension::current();
    let table = extension.table(CACHE);
    lock_to_write(table);
    let user = spread(&address.user_id);
    if Entries::current(&extension).has_others() {
        advisory_lock::lock_shared(locks::USER, user & 0x7fff_ffff);
        advisory_lock::lock(locks::KEY, place(user, &address.digest) % KEPT_PLACES);
        let (Wrote::Openly(written) | Wrote::Hidden(written)) = write(&Locked::new(address, table));
        return written;
    }
    wait_for_erasure(&address.user_id, user);
    let place = place(user, &address.digest);
    let lock = match Brief::try_exclusive(locks::KEY, place) {
        None if !conflicts::has_own(address) => Some(Brief::exclusive(locks::KEY, place)),
        lock => lock,
    };
    match write(&Locked::new(address, table)) {
        Wrote::Openly(written) => {
            lock.into_iter().for_each(Brief::release);
            written
        }
        Wrote::Hidden(written) => written,
    }
}

/// Keeps writers of a user's entries waiting until the end of the transaction, but for those whose transactions have
/// written some already. Waits for whoever may have written some where nobody else sees them.
pub fn erase(user: &Uuid) {
    create::wait_for_makers();
    advisory_lock::lock(locks::USER, spread(user) & 0x7fff_ffff);
}

fn wait_for_erasure(user: &Uuid, spread: u32) {
    let place = spread & 0x7fff_ffff;
    match Brief::try_shared(locks::USER, place) {
        None if !conflicts::has_own_of(user) => Brief::shared(locks::USER, place).release(),
        lock => lock.into_iter().for_each(Brief::release),
    }
}

/// One of 2^31 places that a key is locked in. The digest is evenly spread already.
fn place(user: u32, digest: &Uuid) -> u32 {
    (u128::from_be_bytes(**digest) as u32 ^ user) & 0x7fff_ffff
}

/// A user's id, which may follow any pattern, spread over 32 bits.
fn spread(user_id: &Uuid) -> u32 {
    let hash = Sha256::digest(user_id.as_bytes());
    u32::from_be_bytes(hash[4..8].try_into().expect("four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::digest_of;
    use std::collections::HashSet;

    #[test]
    fn keys_are_spread() {
        let user = Uuid::from_bytes([7; 16]);
        let places: HashSet<u32> =
            (0u32..10_000).map(|number| place(spread(&user), &digest_of(b"t", &number.to_be_bytes()))).collect();
        // Of 10,000 in 2^31 places two share one with a probability of 2 percent.
        assert!(places.len() > 9_995, "{}", places.len());
        assert!(places.iter().all(|place| *place <= i32::MAX as u32));
    }

    #[test]
    fn users_are_spread() {
        let count = |id: fn(u128) -> u128| -> usize {
            let place = |number| spread(&Uuid::from_bytes(id(number).to_be_bytes())) & 0x7fff_ffff;
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
        let places: HashSet<u32> = (0..1_000).map(|number| place(spread(&of(number)), &digest)).collect();
        assert!(places.len() > 995, "{}", places.len());
    }
}
