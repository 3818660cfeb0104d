//! Entries of the cache: how one is addressed, read, written and removed.

mod client_numbers;
mod conflicts;
pub mod content_policy;
pub mod entry_index;
mod forget_user;
mod index_scan;
mod invalidate;
pub mod key;
mod key_lock;
mod lookup;
mod newest_version;
mod search;
mod touch;
mod upsert;
mod upsert_many;
mod values;
mod writer;

use crate::error::{Refusal, shown};
use crate::pg::spi;
use pgrx::Uuid;
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;

/// Longest cache key, in bytes. Anything longer is a request, and cache_key() makes a key of it.
const MAX_KEY_BYTES: usize = 1024;
/// Longest name of a content type, in bytes.
const MAX_CONTENT_TYPE_BYTES: usize = 255;

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
        Ok(Self { user_id, content_type, cache_key, digest: key::digest_of(content_type, cache_key) })
    }

    /// The same of an entry that is to be written. Lookups and invalidations take any name: of one that no entry can
    /// have there is none, and what an older version has stored can be removed.
    ///
    /// # Errors
    /// Also 22023 for the name of the policy of all other types.
    pub fn to_write(
        user_id: Option<Uuid>,
        content_type: Option<&'a [u8]>,
        cache_key: Option<&'a [u8]>,
    ) -> Result<Self, Refusal> {
        let address = Self::new(user_id, content_type, cache_key)?;
        if address.content_type == content_policy::OF_ALL_OTHERS {
            return Err(Refusal::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "content_type must not be *")
                .detail("The value is \"*\".")
                .hint("* is the content policy of all types that have none of their own; name the type itself."));
        }
        Ok(address)
    }

    /// The first four arguments, $1 to $4, of every statement that contains [`matching`].
    pub fn args(&self) -> Vec<DatumWithOid<'static>> {
        vec![self.user_id.into(), self.digest.into(), spi::text(self.content_type), spi::text(self.cache_key)]
    }
}

/// The condition that finds an entry by its address: the digest by the index of each partition, then
/// the row's own columns, so that a collision of digests can return no wrong row.
pub fn matching(schema: &str) -> String {
    format!(
        "user_id OPERATOR(pg_catalog.=) $1 \
         AND {schema}.cache_entry_digest(content_type, cache_key) OPERATOR(pg_catalog.=) $2 \
         AND content_type OPERATOR(pg_catalog.=) $3 AND cache_key OPERATOR(pg_catalog.=) $4"
    )
}

/// The condition that a row `one` is a version of the same entry as a row `other`, for the index of each partition.
pub fn same_entry(schema: &str, one: &str, other: &str) -> String {
    format!(
        "{one}.user_id OPERATOR(pg_catalog.=) {other}.user_id \
         AND {schema}.cache_entry_digest({one}.content_type, {one}.cache_key) \
             OPERATOR(pg_catalog.=) {schema}.cache_entry_digest({other}.content_type, {other}.cache_key) \
         AND {one}.content_type OPERATOR(pg_catalog.=) {other}.content_type \
         AND {one}.cache_key OPERATOR(pg_catalog.=) {other}.cache_key"
    )
}

/// # Errors
/// 22004 for NULL.
pub fn checked_user(user_id: Option<Uuid>) -> Result<Uuid, Refusal> {
    user_id.ok_or_else(|| missing("user_id").hint("Every entry belongs to a user; pass the user's uuid."))
}

/// # Errors
/// 22004 for NULL, 22023 for an empty or too long name.
pub fn checked_content_type(content_type: Option<&[u8]>) -> Result<&[u8], Refusal> {
    checked_text("content_type", content_type, MAX_CONTENT_TYPE_BYTES, "Use a short name such as story_foundation.")
}

/// # Errors
/// 22004 for NULL, 22023 for an empty or too long key.
pub fn checked_key(cache_key: Option<&[u8]>) -> Result<&[u8], Refusal> {
    checked_text("cache_key", cache_key, MAX_KEY_BYTES, "Make a key of the request with cache_key(request jsonb).")
}

fn checked_text<'a>(name: &str, value: Option<&'a [u8]>, limit: usize, hint: &str) -> Result<&'a [u8], Refusal> {
    let value = value.ok_or_else(|| missing(name).hint(hint))?;
    if value.is_empty() {
        return Err(Refusal::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, format!("{name} must not be empty"))
            .detail("The value is ''.")
            .hint(hint));
    }
    if value.len() > limit {
        return Err(Refusal::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, format!("{name} is too long"))
            .detail(format!("The limit is {limit} bytes, the value is {}.", shown(&String::from_utf8_lossy(value))))
            .hint(hint));
    }
    Ok(value)
}

pub use crate::pg::backend::refuse_if_read_only;

/// An argument that must not be NULL.
#[track_caller]
pub fn missing(name: &str) -> Refusal {
    Refusal::new(PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED, format!("{name} must not be NULL"))
        .detail(format!("The argument {name} is NULL."))
}

/// The value, or its refusal raised.
pub fn or_raise<T>(checked: Result<T, Refusal>) -> T {
    checked.unwrap_or_else(|refusal| refusal.raise())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
    }
}
