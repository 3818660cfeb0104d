//! cache_upsert(): stores one entry.

use super::client_numbers::numeric;
use super::new_entry::NewEntry;
use super::store::store_all;
use super::values::{Values, checked_content};
use crate::address::Address;
use crate::arguments::or_raise;
use crate::lease::LeaseId;
use crate::pg::backend::refuse_if_read_only;
use crate::pg::clock::now;
use crate::pg::jsonb::RawJsonb;
use crate::settings;
use crate::statistics::Call;
use crate::statistics::counters::Latency;
use pgrx::Uuid;
use pgrx::datum::{AnyNumeric, TimestampWithTimeZone};
use pgrx::prelude::*;

/// Stores an entry.
#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)] // the SQL function's arguments
fn cache_upsert_with_doubles(
    user_id: Option<Uuid>,
    content_type: Option<&[u8]>,
    cache_key: Option<&[u8]>,
    content: Option<RawJsonb>,
    ttl: Option<i64>,
    metadata: Option<RawJsonb>,
    token_cost: Option<f64>,
    prompt_template: Option<&[u8]>,
    prompt_variables: Option<RawJsonb>,
    story_id: Option<Uuid>,
    foundation_dependency: Option<&[u8]>,
    priority_tier: Option<i32>,
    semantic_similarity_hash: Option<&[u8]>,
    reuse_score: Option<f64>,
    expires_at: Option<TimestampWithTimeZone>,
    lease: Option<Uuid>,
) -> Option<Uuid> {
    upsert((user_id, content_type, cache_key), content, lease, |content| Values {
        content,
        ttl,
        expires_at: expires_at.map(i64::from),
        metadata,
        token_cost: token_cost.map(numeric),
        prompt_template,
        prompt_variables,
        story_id,
        foundation_dependency,
        priority_tier,
        semantic_similarity_hash,
        reuse_score: reuse_score.map(numeric),
    })
}

/// Stores an entry for the SQL of 0.1.0 and 0.2.0, which declares its numbers as numeric.
#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)] // the SQL function's arguments
fn cache_upsert(
    user_id: Option<Uuid>,
    content_type: Option<&[u8]>,
    cache_key: Option<&[u8]>,
    content: Option<RawJsonb>,
    ttl: Option<i64>,
    metadata: Option<RawJsonb>,
    token_cost: Option<AnyNumeric>,
    prompt_template: Option<&[u8]>,
    prompt_variables: Option<RawJsonb>,
    story_id: Option<Uuid>,
    foundation_dependency: Option<&[u8]>,
    priority_tier: Option<i32>,
    semantic_similarity_hash: Option<&[u8]>,
    reuse_score: Option<AnyNumeric>,
    expires_at: Option<TimestampWithTimeZone>,
) -> Option<Uuid> {
    upsert((user_id, content_type, cache_key), content, None, |content| Values {
        content,
        ttl,
        expires_at: expires_at.map(i64::from),
        metadata,
        token_cost,
        prompt_template,
        prompt_variables,
        story_id,
        foundation_dependency,
        priority_tier,
        semantic_similarity_hash,
        reuse_score,
    })
}

/// Stores an entry: `values` makes its values of its content, which it gets when address and content have been checked.
fn upsert<'a>(
    (user_id, content_type, cache_key): (Option<Uuid>, Option<&'a [u8]>, Option<&'a [u8]>),
    content: Option<RawJsonb<'a>>,
    lease: Option<Uuid>,
    values: impl FnOnce(RawJsonb<'a>) -> Values<'a>,
) -> Option<Uuid> {
    let call = Call::begins(Latency::Upsert);
    let address = or_raise(Address::to_write(user_id, content_type, cache_key));
    let values = values(or_raise(checked_content(content)));
    or_raise(values.check(now()));
    if !settings::ENABLED.get() {
        return None;
    }
    refuse_if_read_only(c"cache_upsert()");
    store_all(&call, &[NewEntry { address, values, lease: lease.map(LeaseId), position: None }]).pop().flatten()
}
