//! The address of an entry: its user, content type and key. The entry index of each partition finds it by the user and a
//! digest of the rest.

use crate::arguments::{checked_content_type, checked_key, checked_user};
use crate::error::Refusal;
use crate::pg::spi;
use pgrx::Uuid;
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use sha2::{Digest, Sha256};

/// The name of the content policy of all content types that have none of their own.
pub const EVERY_OTHER_TYPE: &[u8] = b"*";

/// The address of an entry. Texts are bytes in the database's encoding.
pub struct Address<'a> {
    pub user_id: Uuid,
    pub content_type: &'a [u8],
    pub cache_key: &'a [u8],
    pub digest: Uuid,
}

impl<'a> Address<'a> {
    /// Checks the parts of an address.
    ///
    /// # Errors
    /// 22004 for a NULL part, 22023 for one that is empty or too long.
    pub fn new(
        user_id: Option<Uuid>,
        content_type: Option<&'a [u8]>,
        cache_key: Option<&'a [u8]>,
    ) -> Result<Self, Refusal> {
        let user_id = checked_user(user_id)?;
        let content_type = checked_content_type(content_type)?;
        let cache_key = checked_key(cache_key)?;
        Ok(Self { user_id, content_type, cache_key, digest: digest_of(content_type, cache_key) })
    }

    /// As [`Self::new`], for an entry that is to be written. Lookups and invalidations accept any name: a lookup finds
    /// nothing under one that no entry can have, and an invalidation removes what an older version stored there.
    ///
    /// # Errors
    /// As [`Self::new`], and 22023 for the name `*`.
    pub fn to_write(
        user_id: Option<Uuid>,
        content_type: Option<&'a [u8]>,
        cache_key: Option<&'a [u8]>,
    ) -> Result<Self, Refusal> {
        let address = Self::new(user_id, content_type, cache_key)?;
        if address.content_type == EVERY_OTHER_TYPE {
            return Err(Refusal::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "content_type must not be *")
                .detail("The value is \"*\".")
                .hint("* is the content policy of all types that have none of their own; name the type itself."));
        }
        Ok(address)
    }

    /// Returns the arguments $1 to $4 of every statement that contains [`matching`].
    pub fn args(&self) -> Vec<DatumWithOid<'static>> {
        vec![self.user_id.into(), self.digest.into(), spi::text(self.content_type), spi::text(self.cache_key)]
    }
}

/// Returns the condition that finds an entry by its address: by the digest, through the entry index of each partition, and
/// by the row's own columns, so that a collision of digests returns no wrong row.
pub fn matching(schema: &str) -> String {
    format!(
        "user_id OPERATOR(pg_catalog.=) $1 \
         AND {schema}.cache_entry_digest(content_type, cache_key) OPERATOR(pg_catalog.=) $2 \
         AND content_type OPERATOR(pg_catalog.=) $3 AND cache_key OPERATOR(pg_catalog.=) $4"
    )
}

/// Returns the condition that a row `one` is a version of the same entry as a row `other`, in terms of the entry index.
pub fn same_entry(schema: &str, one: &str, other: &str) -> String {
    format!(
        "{one}.user_id OPERATOR(pg_catalog.=) {other}.user_id \
         AND {schema}.cache_entry_digest({one}.content_type, {one}.cache_key) \
             OPERATOR(pg_catalog.=) {schema}.cache_entry_digest({other}.content_type, {other}.cache_key) \
         AND {one}.content_type OPERATOR(pg_catalog.=) {other}.content_type \
         AND {one}.cache_key OPERATOR(pg_catalog.=) {other}.cache_key"
    )
}

/// Returns [`digest_of`], for the index expression. It is leakproof, because it reads the bytes of its arguments as they
/// are and raises on none of them.
#[pg_extern(sql = false)]
fn cache_entry_digest(content_type: &[u8], cache_key: &[u8]) -> Uuid {
    digest_of(content_type, cache_key)
}

/// Returns the first 128 bits of the SHA-256 of the content type's length (64 bits, big-endian), the content type and the
/// key. The length keeps ("ab", "c") and ("a", "bc") apart. The result for given arguments must never change, because
/// indexes hold it.
pub fn digest_of(content_type: &[u8], cache_key: &[u8]) -> Uuid {
    let mut hash = Sha256::new();
    hash.update((content_type.len() as u64).to_be_bytes());
    hash.update(content_type);
    hash.update(cache_key);
    let hash = hash.finalize();
    let mut digest = [0; 16];
    digest.copy_from_slice(&hash[..16]);
    Uuid::from_bytes(digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The vectors were computed with another implementation (Python's hashlib), and fix the digest
    /// for all releases.
    #[test]
    fn digest_vectors() {
        for (content_type, key, digest) in [
            ("story_foundation", "k1", "2939e4cf-d272-0e45-36d8-3797421daa19"),
            ("", "", "af5570f5-a181-0b7a-f78c-af4bc70a660f"),
            ("ab", "c", "290a3daa-9b49-526a-2ed7-352cd7f5e69c"),
            ("a", "bc", "e98bc483-cc6a-f9cc-f82b-c23e481a128c"),
            ("kapitel", "ключ 🔑", "ba21ffcc-b15f-6a65-2304-2798093fe87c"),
        ] {
            assert_eq!(digest_of(content_type.as_bytes(), key.as_bytes()).to_string(), digest);
        }
    }

    proptest! {
        #[test]
        fn an_address_is_accepted_exactly_within_its_limits(
            key in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..2_000)),
            content_type in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..500)),
            user in proptest::option::of(any::<[u8; 16]>()),
        ) {
            let within = |value: &Option<Vec<u8>>, limit: usize| value.as_ref().is_some_and(|value| (1..=limit).contains(&value.len()));
            let expected = user.is_some() && within(&key, 1024) && within(&content_type, 255);
            let address = Address::new(user.map(Uuid::from_bytes), content_type.as_deref(), key.as_deref());
            prop_assert_eq!(address.is_ok(), expected);
        }

        #[test]
        fn digests_keep_type_and_key_apart(a in ".{0,8}", b in ".{0,8}", c in ".{0,8}", d in ".{0,8}") {
            let same = (&a, &b) == (&c, &d);
            prop_assert_eq!(digest_of(a.as_bytes(), b.as_bytes()) == digest_of(c.as_bytes(), d.as_bytes()), same);
        }
    }
}
