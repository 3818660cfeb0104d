//! Lookups. They write nothing: no row, no WAL, no transaction id.

#![allow(unsafe_code)]

use super::{Address, checked_content_type, checked_key, checked_user, matching, or_raise};
use crate::error::Refusal;
use crate::jsonb::RawJsonb;
use crate::kept;
use crate::materialize::{materialize, nothing};
use crate::settings;
use crate::spi::{self, Access};
use pgrx::prelude::*;
use pgrx::{Uuid, pg_sys};

/// Keys that one cache_lookup_many() takes.
const MAX_KEYS: usize = 10_000;

/// The content of the live entry, or `None`. The newest version decides: when it has expired, an older
/// one that has not is outdated all the same.
#[pg_extern(sql = false)]
fn cache_lookup(user_id: Option<Uuid>, content_type: Option<&[u8]>, cache_key: Option<&[u8]>) -> Option<RawJsonb> {
    let address = or_raise(Address::new(user_id, content_type, cache_key));
    if !settings::ENABLED.get() {
        return None;
    }
    kept::run(
        Access::Read,
        "lookup",
        |schema| {
            format!(
                "SELECT CASE WHEN expires_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp() THEN content END \
                 FROM {schema}.infinite_pages_cache_partitioned WHERE {} ORDER BY created_at DESC LIMIT 1",
                matching(schema)
            )
        },
        &address.args(),
        |rows| if rows.count() == 0 { None } else { rows.jsonb(0, 1) },
    )
}

crate::materialize::set_returning!(infinite_pages_cache_get, pg_finfo_infinite_pages_cache_get, get);

fn get(fcinfo: pg_sys::FunctionCallInfo) {
    // SAFETY: the function is declared with these three arguments.
    let address = unsafe {
        or_raise(Address::new(pgrx::pg_getarg(fcinfo, 0), pgrx::pg_getarg(fcinfo, 1), pgrx::pg_getarg(fcinfo, 2)))
    };
    if !settings::ENABLED.get() {
        return nothing(fcinfo);
    }
    let sql = |schema: &str| {
        format!(
            "SELECT id, content, metadata, created_at, expires_at, clock_timestamp() - created_at, hit_count::bigint, \
                    token_cost, priority_tier::integer, story_id, foundation_dependency::text \
             FROM (SELECT * FROM {schema}.infinite_pages_cache_partitioned WHERE {} ORDER BY created_at DESC LIMIT 1) newest \
             WHERE expires_at > clock_timestamp()",
            matching(schema)
        )
    };
    materialize(fcinfo, |deliver| kept::run(Access::Read, "get", sql, &address.args(), deliver));
}

crate::materialize::set_returning!(
    infinite_pages_cache_lookup_many,
    pg_finfo_infinite_pages_cache_lookup_many,
    lookup_many
);

fn lookup_many(fcinfo: pg_sys::FunctionCallInfo) {
    // SAFETY: the function is declared with these three arguments.
    let (user_id, content_type, keys) = unsafe {
        (
            or_raise(checked_user(pgrx::pg_getarg(fcinfo, 0))),
            or_raise(checked_content_type(pgrx::pg_getarg(fcinfo, 1))),
            pgrx::pg_getarg::<Array<&[u8]>>(fcinfo, 2),
        )
    };
    let keys = keys.unwrap_or_else(|| super::missing("cache_keys").hint("Pass an array of keys.").raise());
    if keys.len() > MAX_KEYS {
        Refusal::new(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, "too many keys in one call")
            .detail(format!("The limit is {MAX_KEYS} keys, the array has {}.", keys.len()))
            .hint("Ask in several calls.")
            .raise();
    }
    for (index, key) in keys.iter().enumerate() {
        if let Err(refusal) = checked_key(key) {
            refusal.at_position(index + 1).raise();
        }
    }
    // With the cache off the keys are answered, each as a miss.
    let sql = |schema: &str| {
        format!(
            "SELECT k.cache_key, e.content FROM unnest($3) WITH ORDINALITY AS k (cache_key, n) \
             LEFT JOIN LATERAL ( \
                 SELECT c.content, c.expires_at FROM {schema}.infinite_pages_cache_partitioned c \
                 WHERE c.user_id = $1 AND c.content_type = $2 AND c.cache_key = k.cache_key \
                   AND {schema}.cache_entry_digest(c.content_type, c.cache_key) = {schema}.cache_entry_digest($2, k.cache_key) \
                 ORDER BY c.created_at DESC LIMIT 1) e ON e.expires_at > clock_timestamp() AND $4 \
             ORDER BY k.n"
        )
    };
    // SAFETY: the third argument is a text[] that is not NULL, and lives until the call ends.
    let keys = unsafe {
        let keys: pg_sys::Datum = pgrx::pg_getarg(fcinfo, 2).expect("checked above");
        pgrx::datum::DatumWithOid::new(keys, pg_sys::TEXTARRAYOID)
    };
    let args = [user_id.into(), spi::text(content_type), keys, settings::ENABLED.get().into()];
    materialize(fcinfo, |deliver| kept::run(Access::Read, "lookup many", sql, &args, deliver));
}
