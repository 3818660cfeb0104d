//! The values of an entry, and the rules for them.

use super::content_policy::Policy;
use crate::arguments::missing;
use crate::error::{Refusal, shown};
use crate::pg::jsonb::RawJsonb;
use crate::statistics::tokens::MOST_OF_AN_ANSWER;
use crate::{settings, ttl};
use pgrx::Uuid;
use pgrx::datum::{AnyNumeric, TimestampWithTimeZone};
use pgrx::prelude::*;

/// The values of an entry, times in microseconds. `None` takes the default: of the content policy for expiry, cost and
/// priority, of the column for the rest.
pub struct Values<'a> {
    pub content: RawJsonb<'a>,
    pub ttl: Option<i64>,
    pub expires_at: Option<i64>,
    pub metadata: Option<RawJsonb<'a>>,
    pub token_cost: Option<AnyNumeric>,
    pub prompt_template: Option<&'a [u8]>,
    pub prompt_variables: Option<RawJsonb<'a>>,
    pub story_id: Option<Uuid>,
    pub foundation_dependency: Option<&'a [u8]>,
    pub priority_tier: Option<i32>,
    pub semantic_similarity_hash: Option<&'a [u8]>,
    pub reuse_score: Option<AnyNumeric>,
}

/// # Errors
/// 22004 for NULL, 54000 over the limit.
pub fn checked_content(content: Option<RawJsonb<'_>>) -> Result<RawJsonb<'_>, Refusal> {
    let content = content.ok_or_else(|| {
        missing("content").hint("Store what was generated; to store that nothing was, use the JSON value null.")
    })?;
    let limit = settings::MAX_CONTENT_BYTES.get() as usize;
    if content.size() > limit {
        return Err(too_large("content", limit, content.size()));
    }
    Ok(content)
}

#[track_caller]
fn too_large(name: &str, limit: usize, size: usize) -> Refusal {
    Refusal::new(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, format!("{name} is too large"))
        .detail(format!("The limit is {limit} bytes; the value has {size}."))
        .hint("Store it in parts, or raise infinite_pages_cache.max_content_bytes.")
}

#[track_caller]
fn invalid(rule: &str, value: String, hint: &str) -> Result<(), Refusal> {
    Err(Refusal::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, rule).detail(value).hint(hint))
}

impl Values<'_> {
    /// Checks the rules that no type enforces.
    ///
    /// # Errors
    /// 22023 for a value that breaks a rule, 54000 for one over the size limit.
    pub fn check(&self, now: i64) -> Result<(), Refusal> {
        if let Some(expires_at) = self.expires_at {
            if self.ttl.is_some() {
                return invalid(
                    "ttl and expires_at cannot both be given",
                    "Each of them decides when the entry expires.".into(),
                    "Pass one of the two.",
                );
            }
            if expires_at <= now {
                return invalid(
                    "expires_at must lie in the future",
                    format!("It is {}.", show_timestamp(expires_at)),
                    "To remove an entry call cache_invalidate().",
                );
            }
        }
        if let Some(tier) = self.priority_tier.filter(|tier| !(1..=3).contains(tier)) {
            return invalid(
                "priority_tier must be 1 (high), 2 or 3 (low)",
                format!("It is {tier}."),
                "Pass 1, 2 or 3.",
            );
        }
        let limit = settings::MAX_CONTENT_BYTES.get() as usize;
        for (name, size) in [
            ("metadata", self.metadata.map_or(0, RawJsonb::size)),
            ("prompt_variables", self.prompt_variables.map_or(0, RawJsonb::size)),
            ("prompt_template", self.prompt_template.map_or(0, <[u8]>::len)),
            ("foundation_dependency", self.foundation_dependency.map_or(0, <[u8]>::len)),
            ("semantic_similarity_hash", self.semantic_similarity_hash.map_or(0, <[u8]>::len)),
        ] {
            if size > limit {
                return Err(too_large(name, limit, size));
            }
        }
        if let Some(cost) = self.token_cost.as_ref().filter(|cost| {
            !is_finite(cost) || **cost < AnyNumeric::from(0) || **cost > AnyNumeric::from(MOST_OF_AN_ANSWER)
        }) {
            return invalid(
                "token_cost must lie between 0 and 10^9",
                format!("It is {}.", shown(&cost.to_string())),
                "Pass the cost of generating the answer, in a unit that keeps it in this range.",
            );
        }
        if let Some(score) = self
            .reuse_score
            .as_ref()
            .filter(|score| !is_finite(score) || **score < AnyNumeric::from(0) || **score > AnyNumeric::from(10))
        {
            return invalid(
                "reuse_score must lie between 0 and 10",
                format!("It is {}.", shown(&score.to_string())),
                "Leave it out for the default of 5.",
            );
        }
        Ok(())
    }

    /// Returns when the entry expires, in microseconds since 2000-01-01 UTC.
    pub fn expiry(&self, now: i64, policy: &Policy) -> i64 {
        self.expires_at.unwrap_or_else(|| expiry_after(now, self.ttl.unwrap_or(policy.ttl)))
    }
}

/// Returns when an entry expires that lives `lifetime` microseconds from `now`.
///
/// # Errors
/// 22008 if that lies after the last timestamp.
pub fn expiry_after(now: i64, lifetime: i64) -> i64 {
    if lifetime == ttl::INFINITE {
        return i64::MAX;
    }
    now.checked_add(lifetime).filter(|expiry| *expiry < ttl::END_OF_TIME).unwrap_or_else(|| {
        Refusal::new(PgSqlErrorCode::ERRCODE_DATETIME_FIELD_OVERFLOW, "the entry would expire after the end of time")
            .detail("Timestamps end with the year 294276.")
            .hint("To keep an entry for ever use 'infinity'.")
            .raise()
    })
}

fn is_finite(number: &AnyNumeric) -> bool {
    !number.is_nan() && !number.to_string().ends_with("Infinity")
}

fn show_timestamp(timestamp: i64) -> String {
    TimestampWithTimeZone::try_from(timestamp).map_or_else(|_| "infinite".into(), |timestamp| timestamp.to_string())
}
