//! Locks the keys of entries, so that the writers of one key follow one another. A unique index cannot see to that, because
//! none spans the months: two writers at the edge of a month could each leave a row.
//!
//! A key is protected by its row as soon as there is one. Other writers find the row in any month, even before it is
//! committed, and wait for its transaction. The lock of the key decides who writes the first row. A call holds it until it
//! has written, and a batch holds the lock of one key after the other. A transaction therefore keeps no lock of the
//! extension, however many keys it writes, except as the last step and the last paragraph say.
//!
//! A write takes these steps:
//! 1. It locks the table as INSERT does, because a session that has locked the table may want the key next.
//! 2. It waits for a transaction that is erasing the user. If its own transaction has already written entries of the user,
//!    it does not, because the erasure waits for it.
//! 3. It takes the lock of the key. Writers that want the same lock queue in the order in which they came. If the lock is
//!    taken and its own transaction has written, deleted or locked a row of the key, it goes on without the lock, because
//!    the holder waits for that row before it writes.
//! 4. It looks at all rows of the key. If another transaction has inserted one, it waits for that transaction and looks
//!    again. It keeps the lock meanwhile, because other writers of the key would wait for the same transaction. It does
//!    not wait for a row that another transaction is deleting or has locked: the statements of step 5 do, and at REPEATABLE
//!    READ they fail if it has changed. An upsert with a lease asks here whether an invalidation keeps it out, so that it
//!    does not wait for that one's transaction.
//! 5. It takes the timestamp of the new version, so that the later writer has the later one, and writes. If the month has no
//!    partition, it releases the lock and makes one, because a session that is making it may want the key. A batch that has
//!    a timestamp already goes on with it instead, because a session that waits for the batch may be making the partition.
//! 6. It releases the lock. If its own transaction has made the month's partition, it keeps the lock until it ends, because
//!    no other transaction can see a row in that partition.
//!
//! If a client that writes directly, and so takes no lock, has written between steps 4 and 5, the write begins again.
//!
//! Transactions that write different keys wait for each other only if one is making a month. Transactions that write the
//! same keys in different orders can deadlock, as with UPDATE. A batch writes in the order of users and digests, in which
//! invalidations lock, too. A transaction that has locked a single partition, as CREATE INDEX does, can deadlock with the
//! writer of a key that it writes next.
//!
//! Step 4 sees no rows that lie elsewhere, as those of a distributed table, or in a table with other columns. Where there
//! may be any, transactions keep the locks of steps 2 and 3 until they end. The locks of keys then share few buckets, so
//! that they fit into the lock table, and transactions that write different keys can deadlock.

use super::conflicts::{self, Found};
use super::entry_index::Entries;
use crate::address::Address;
use crate::extension::{CACHE, Extension, locks};
use crate::lease::Fill;
use crate::partition::create;
use crate::pg::advisory_lock::{self, Brief};
use crate::pg::table_lock::lock_to_write;
use pgrx::{Uuid, pg_sys};
use sha2::{Digest, Sha256};

/// Buckets of the key locks that transactions keep until they end, so that none keeps more. With its default settings the
/// server's lock table has room for 64 locks of each connection.
const KEPT_BUCKETS: u32 = 64;

/// A key that no other session is writing or can begin to write. Only [`with_key`] makes one, so a function that takes one
/// cannot run without the lock.
pub struct Locked<'a> {
    address: &'a Address<'a>,
    table: pg_sys::Oid,
    found: Found,
}

impl<'a> Locked<'a> {
    fn new(address: &'a Address<'a>, table: pg_sys::Oid, fill: Option<&Fill>) -> Self {
        Self { address, table, found: conflicts::settled(address, fill) }
    }

    pub fn address(&self) -> &'a Address<'a> {
        self.address
    }

    /// Returns the table of the cache, locked as INSERT does.
    pub fn table(&self) -> pg_sys::Oid {
        self.table
    }

    /// Returns what there is of the entry.
    pub fn found(&self) -> &Found {
        &self.found
    }
}

/// Whether other transactions can see a write.
pub enum Wrote<T> {
    /// Other transactions find it.
    Openly(T),
    /// It lies in a partition that its own transaction has made.
    Hidden(T),
}

/// Calls `write` with the key of an entry locked. Releases the lock, unless the write is hidden. `fill`: of the lease that the
/// entry is stored with.
///
/// # Errors
/// 40001 if the fill is outdated by now.
pub fn with_key<'a, T>(
    address: &'a Address<'a>,
    fill: Option<&Fill>,
    write: impl FnOnce(&Locked<'a>) -> Wrote<T>,
) -> T {
    let extension = Extension::current();
    let table = extension.table(CACHE);
    lock_to_write(table);
    let user = spread(&address.user_id);
    if Entries::current(&extension).has_others() {
        advisory_lock::lock_shared(locks::USER, user & 0x7fff_ffff);
        advisory_lock::lock(locks::KEY, bucket(user, &address.digest) % KEPT_BUCKETS);
        let (Wrote::Openly(written) | Wrote::Hidden(written)) = write(&Locked::new(address, table, fill));
        return written;
    }
    wait_for_erasure(&address.user_id, user);
    let bucket = bucket(user, &address.digest);
    let lock = match Brief::try_exclusive(locks::KEY, bucket) {
        None if !conflicts::has_own(address) => Some(Brief::exclusive(locks::KEY, bucket)),
        lock => lock,
    };
    match write(&Locked::new(address, table, fill)) {
        Wrote::Openly(written) => {
            lock.into_iter().for_each(Brief::release);
            written
        }
        Wrote::Hidden(written) => written,
    }
}

/// Makes writers of a user's entries wait until the end of the transaction, except those whose transactions have written
/// some already. Waits for makers of months, because nobody else sees what they have written there.
pub fn lock_out_writers(user: &Uuid) {
    create::wait_for_makers();
    advisory_lock::lock(locks::USER, spread(user) & 0x7fff_ffff);
}

fn wait_for_erasure(user: &Uuid, spread: u32) {
    let bucket = spread & 0x7fff_ffff;
    match Brief::try_shared(locks::USER, bucket) {
        None if !conflicts::has_own_of(user) => Brief::shared(locks::USER, bucket).release(),
        lock => lock.into_iter().for_each(Brief::release),
    }
}

/// Returns the bucket, one of 2^31, that a key is locked in. The digest is evenly spread already.
fn bucket(user: u32, digest: &Uuid) -> u32 {
    (u128::from_be_bytes(**digest) as u32 ^ user) & 0x7fff_ffff
}

/// Spreads a user's id, which may follow any pattern, over 32 bits.
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
        let buckets: HashSet<u32> =
            (0u32..10_000).map(|number| bucket(spread(&user), &digest_of(b"t", &number.to_be_bytes()))).collect();
        // Of 10,000 in 2^31 buckets two share one with a probability of 2 percent.
        assert!(buckets.len() > 9_995, "{}", buckets.len());
        assert!(buckets.iter().all(|bucket| *bucket <= i32::MAX as u32));
    }

    #[test]
    fn users_are_spread() {
        let count = |id: fn(u128) -> u128| -> usize {
            let bucket = |number| spread(&Uuid::from_bytes(id(number).to_be_bytes())) & 0x7fff_ffff;
            (0..10_000).map(bucket).collect::<HashSet<_>>().len()
        };
        for buckets in [count(|number| number), count(|number| number << 64), count(|number| number << 100)] {
            assert!(buckets > 9_995, "{buckets}");
        }
    }

    #[test]
    fn a_key_of_many_users_is_many_keys() {
        let digest = digest_of(b"t", b"k");
        let of = |number: u128| Uuid::from_bytes((0xa11c_e000_0000_4000_8000_0000_0000_0000 + number).to_be_bytes());
        let buckets: HashSet<u32> = (0..1_000).map(|number| bucket(spread(&of(number)), &digest)).collect();
        assert!(buckets.len() > 995, "{}", buckets.len());
    }
}
