//! Arguments of SQL functions: what each must be, and how a wrong one is refused.
//!
//! A check that a batch makes of each of its entries returns the [`Refusal`], because the batch adds the entry's position
//! before it raises the error. Any other argument is refused where it is read.

use crate::error::{Refusal, shown};
use pgrx::Uuid;
use pgrx::prelude::*;

/// Longest cache key, in bytes. Anything longer is a request, and cache_key() makes a key of it.
const MAX_KEY_BYTES: usize = 1024;
/// Longest name of a content type, in bytes.
const MAX_CONTENT_TYPE_BYTES: usize = 255;

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
            .detail(format!("The limit is {limit} bytes; the value is {}.", shown(&String::from_utf8_lossy(value))))
            .hint(hint));
    }
    Ok(value)
}

/// Returns the refusal of an argument that is NULL.
#[track_caller]
pub fn missing(name: &str) -> Refusal {
    Refusal::new(PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED, format!("{name} must not be NULL"))
        .detail(format!("The argument {name} is NULL."))
}

/// Returns the value, or raises its refusal.
pub fn or_raise<T>(checked: Result<T, Refusal>) -> T {
    checked.unwrap_or_else(|refusal| refusal.raise())
}
