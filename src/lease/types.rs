//! What the rest of the code asks of leases, and what it gets.

use crate::address::Address;
use crate::error::Refusal;
use pgrx::{PgSqlErrorCode, Uuid};
use sha2::{Digest, Sha256};
use std::sync::OnceLock;
use std::time::Duration;

/// What of a lease's uuid is random. It tells a lease from earlier ones of the same slot.
pub type Nonce = [u8; 12];

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

/// Returns the error of a transaction that is overtaken by an invalidation after it has begun to store an answer.
pub fn overtaken() -> Refusal {
    Refusal::new(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        "could not store the answer because of a concurrent invalidation",
    )
    .detail("What it was made from was invalidated while it was stored.")
    .hint("Call cache_fetch() again.")
}

/// What tells a lease from all others. Its slot may be another's by now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Id {
    pub number: u32,
    pub nonce: Nonce,
}

/// What hides the numbers of slots in uuids, because they tell a tenant how many leases others have.
static SECRET: OnceLock<[u8; 16]> = OnceLock::new();

/// Sets the secret, once and for all processes of the server.
pub fn hide_slots_by(secret: [u8; 16]) {
    SECRET.get_or_init(|| secret);
}

/// Returns what the number of a slot is combined with.
fn mask(nonce: &Nonce) -> u32 {
    let secret = SECRET.get().copied().unwrap_or_default();
    let hash = Sha256::new().chain_update(secret).chain_update(nonce).finalize();
    u32::from_be_bytes(hash[..4].try_into().expect("four bytes"))
}

impl LeaseId {
    pub fn new(id: &Id) -> Self {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&(id.number ^ mask(&id.nonce)).to_be_bytes());
        bytes[4..].copy_from_slice(&id.nonce);
        Self(Uuid::from_bytes(bytes))
    }

    pub fn id(&self) -> Id {
        let (number, nonce) = self.0.split_at(4);
        let nonce: Nonce = nonce.try_into().expect("twelve bytes");
        let masked = u32::from_be_bytes(number.try_into().expect("four bytes"));
        Id { number: masked ^ mask(&nonce), nonce }
    }
}

impl Ends {
    pub fn new(number: u64) -> Self {
        Self(number)
    }
}
