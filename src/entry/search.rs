//! cache_search(): finds a user's entries of one content type by their metadata, the best first. Like a lookup it writes
//! nothing. It is not counted as a lookup, because the lookup of the entry that is chosen tells whether the search was of
//! use.

use super::lookup::hits_of;
use crate::address::{Address, digest_of};
use crate::arguments::{checked_content_type, checked_user, missing, or_raise};
use crate::audit::reads;
use crate::error::{Refusal, shown};
use crate::extension::{CACHE, saved_plan};
use crate::pg::jsonb::RawJsonb;
use crate::pg::spi::{self, Access, Rows};
use crate::pg::srf::{Call, Stored, set_returning};
use crate::settings;
use pgrx::Uuid;
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;

/// Most entries of one search.
const MAX_RESULTS: i32 = 1_000;

/// The numbers of columns in the result. The SQL of 0.2.0 declares all columns but the last, hit_count.
const ID: i32 = 1;
const CACHE_KEY: i32 = 2;
const HIT_COUNT: i32 = 13;

/// The inner query reads the index on user and content type. The outer one asks for each of the best, until there are
/// enough, whether a later month holds a newer version: that one decides, even if it has expired or has other metadata.
/// OFFSET 0 keeps the planner from making a join of it, which would ask for all. A row without metadata counts as `{}`.
fn statement(schema: &str) -> String {
    format!(
        "SELECT b.id, b.cache_key, b.content, b.metadata, b.reuse_score, b.created_at, b.expires_at, \
                CASE WHEN isfinite(b.created_at) THEN clock_timestamp() - b.created_at END, b.token_cost, b.priority_tier, b.story_id, b.foundation_dependency, \
                b.hit_count \
         FROM ( \
             SELECT id, cache_key::text, content, metadata, reuse_score, created_at, expires_at, \
                    token_cost::numeric, priority_tier::integer, story_id, foundation_dependency::text, \
                    coalesce(hit_count, 0)::bigint AS hit_count \
             FROM {schema}.{CACHE} \
             WHERE user_id = $1 AND content_type = $2 AND coalesce(metadata, '{{}}') @> $3 AND expires_at > clock_timestamp() \
             ORDER BY reuse_score DESC NULLS LAST, created_at DESC, id OFFSET 0) b \
         WHERE NOT EXISTS ( \
             SELECT FROM {schema}.{CACHE} n \
             WHERE n.user_id = $1 AND n.content_type = $2 AND n.cache_key = b.cache_key \
               AND {schema}.cache_entry_digest(n.content_type, n.cache_key) = {schema}.cache_entry_digest($2, b.cache_key) \
               AND n.created_at > b.created_at OFFSET 0) \
         ORDER BY b.reuse_score DESC NULLS LAST, b.created_at DESC, b.id LIMIT $4"
    )
}

set_returning!(infinite_pages_cache_search => search(user_id, content_type, metadata, max_results));

fn search(
    call: Call,
    user_id: Option<Uuid>,
    content_type: Option<&[u8]>,
    metadata: Option<RawJsonb>,
    max_results: Option<i32>,
) -> Stored {
    let user_id = or_raise(checked_user(user_id));
    let content_type = or_raise(checked_content_type(content_type));
    let metadata = or_raise(checked_metadata(metadata));
    let max_results = or_raise(checked_max_results(max_results));
    if !settings::ENABLED.get() {
        return call.nothing();
    }
    let args: [DatumWithOid; 4] =
        [user_id.into(), spi::text(content_type), metadata.into(), i64::from(max_results).into()];
    let hit_count = |rows: &Rows, row| {
        let digest = rows.text(row, CACHE_KEY).map(|key| digest_of(content_type, &key));
        digest.map(|digest| hits_of(rows, row, (ID, HIT_COUNT), &user_id, &digest)).into()
    };
    call.rows_with(HIT_COUNT, hit_count, |deliver| {
        saved_plan::run(Access::Read, "search", statement, &args, |rows| {
            deliver(rows);
            audit(user_id, content_type, rows);
        });
    })
}

/// Audits what a search returns, because its caller has read it.
fn audit(user_id: Uuid, content_type: &[u8], rows: &Rows) {
    if !reads::is_on() {
        return;
    }
    for row in 0..rows.count() {
        let cache_key = rows.text(row, CACHE_KEY);
        // A client that inserts directly may have stored a key that no lookup accepts.
        if let Ok(address) = Address::new(Some(user_id), Some(content_type), cache_key.as_deref()) {
            reads::record(&address, true);
        }
    }
}

/// # Errors
/// 22004 for NULL, 22023 for anything but an object.
fn checked_metadata(metadata: Option<RawJsonb<'_>>) -> Result<RawJsonb<'_>, Refusal> {
    let hint =
        "Pass what the metadata of the entries must contain, such as {\"genre\": \"noir\"}; {} is in all of them.";
    let metadata = metadata.ok_or_else(|| missing("metadata").hint(hint))?;
    let text = metadata.to_text();
    if !text.starts_with('{') {
        return Err(Refusal::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "metadata must be a JSON object")
            .detail(format!("It is {}.", shown(&text)))
            .hint(hint));
    }
    Ok(metadata)
}

/// # Errors
/// 22004 for NULL, 22023 for a number out of range.
fn checked_max_results(max_results: Option<i32>) -> Result<i32, Refusal> {
    let hint = "Leave it out to get the best 10.";
    let max_results = max_results.ok_or_else(|| missing("max_results").hint(hint))?;
    if !(1..=MAX_RESULTS).contains(&max_results) {
        return Err(Refusal::new(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("max_results must be between 1 and {MAX_RESULTS}"),
        )
        .detail(format!("It is {max_results}."))
        .hint(hint));
    }
    Ok(max_results)
}
