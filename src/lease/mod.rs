//! Leases: who generates the answer of a key, and whether what was generated may still be stored. The head of `fence.rs` states
//! the protocol.

mod fence;

use crate::address::Address;
use crate::error::Refusal;
use pgrx::Uuid;
use std::time::Duration;

/// The right to generate the answer of a key. It names a slot of shared memory, and cannot be guessed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LeaseId(pub Uuid);

/// What an invalidation removes. Texts are bytes in the database's encoding.
#[derive(Clone, Copy)]
pub enum Subject<'a> {
    Key(&'a Address<'a>),
    Type(Uuid, &'a [u8]),
    Foundation(Uuid, &'a [u8]),
    /// Entries of a user whose metadata contain something.
    Metadata(Uuid),
    User(Uuid),
    TypeOfAllUsers(&'a [u8]),
}

/// The lease that a caller would like.
pub struct Wanted<'a> {
    pub address: &'a Address<'a>,
    pub foundation: Option<&'a [u8]>,
    pub ttl: Duration,
    /// The slot that counts the content type.
    pub counted_at: Option<u32>,
}

/// How many fills and releases have ended, in the stripe of a key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Ends(u64);

/// What a caller gets.
pub enum Grant {
    /// `look_again`: a lease in the stripe of the key has ended since the caller read [`Ends`], before its look at the entry.
    Lease {
        lease: LeaseId,
        look_again: bool,
    },
    /// Another lease of the key is held.
    Held {
        ends_in: Duration,
    },
    /// The last generation has failed.
    Failed {
        retry_after: Duration,
    },
    /// An invalidation of another transaction, which concerns the key, is pending.
    Pending,
    NoRoom,
    /// There is no shared memory, the server is a standby, or the transaction's snapshot may be older than an edit.
    Unavailable,
}

/// An answer that is to be stored with a lease.
pub struct Fill<'a> {
    pub lease: LeaseId,
    pub address: &'a Address<'a>,
    pub foundation: Option<&'a [u8]>,
    pub has_metadata: bool,
}

/// Why an answer is not stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The lease is unknown, another user's, or has ended.
    Ended,
    /// What the answer was made from has been invalidated since the grant.
    Outdated,
    /// Another transaction is storing with the lease.
    InUse,
}

/// How long a sleep until the end of a lease took.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Woken {
    Ended,
    TimedOut,
    /// As many sessions sleep already as may.
    NoPlace,
}

/// A lease, for the view.
pub struct Shown {
    pub user_id: Uuid,
    pub content_type: Vec<u8>,
    pub digest: Uuid,
    /// `held`, `over`, `outdated`, `storing` or `failed`.
    pub state: &'static str,
    /// In microseconds since 2000.
    pub granted_at: i64,
    pub ends_in: Duration,
    pub storing_pid: Option<i32>,
    pub waiters: u32,
}

/// A pending invalidation, for the view.
pub struct ShownPending {
    pub pid: i32,
    pub user_id: Option<Uuid>,
    pub subject: &'static str,
    pub pending_for: Duration,
}

/// Reads how many leases have ended in the stripe of a key. The caller reads it before its look at the entry.
pub fn ends(_address: &Address) -> Ends {
    Ends(0)
}

/// Grants the lease of a key, unless it is another's (G1). The caller has checked that it may write the entry.
pub fn grant(_wanted: &Wanted, _seen: Ends) -> Grant {
    Grant::Unavailable
}

/// Begins to store an answer (F1). Returns how long it took to generate. The transaction's commit ends the lease, and a rollback
/// gives it back. The caller has checked that it may write the entry.
///
/// # Errors
/// 22023 when the lease is one of the same user for another entry, or another foundation.
pub fn begin_fill(_fill: &Fill) -> Result<Result<Duration, Refused>, Refusal> {
    Ok(Err(Refused::Ended))
}

/// Runs `delete`, which removes what an invalidation is of, so that no answer that it concerns is stored afterwards (I1, I2).
/// The caller has checked that it may delete all that the subject names.
pub fn invalidating<T>(_subject: &Subject, delete: impl FnOnce() -> T) -> T {
    delete()
}

/// Whether a fill that has begun would be refused now (F1, asked again).
pub fn would_be_refused(_fill: &Fill) -> bool {
    false
}

/// Ends a lease of a user that `may` accepts, at once. `failed_for`: how long nobody else gets one. Returns false when there is
/// no such lease.
pub fn release(_lease: LeaseId, _may: impl Fn(&Uuid) -> bool, _failed_for: Option<Duration>) -> bool {
    false
}

/// Gives a lease of a user that `may` accepts a new time from now, at once. `ttl`: of its content type. Returns it, or `None`
/// when there is no such lease.
pub fn extend(_lease: LeaseId, _may: impl Fn(&Uuid) -> bool, _ttl: impl Fn(&[u8]) -> Duration) -> Option<Duration> {
    None
}

/// Ends the leases of a user, of one content type or all, at once and again at commit, and keeps their answers out. Returns how
/// many.
pub fn end(_user: &Uuid, _content_type: Option<&[u8]>) -> u64 {
    0
}

/// Sleeps until the lease of a key ends. Can be cancelled.
pub fn sleep_until_end(_address: &Address, _at_most: Duration) -> Woken {
    Woken::NoPlace
}

/// Returns the leases of this database.
pub fn all() -> Vec<Shown> {
    Vec::new()
}

/// Returns the pending invalidations of this database.
pub fn pending() -> Vec<ShownPending> {
    Vec::new()
}

/// Counts leases whose time is over and that nobody has ended, once each.
pub fn count_expired() {}

/// Frees what shared memory holds of databases that are gone.
pub fn forget_databases(_is_gone: impl Fn(pgrx::pg_sys::Oid) -> bool) {}
