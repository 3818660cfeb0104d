//! Lookups. They write nothing: no row, no WAL, no transaction id.

#![allow(unsafe_code)]

use super::{Address, checked_content_type, checked_key, checked_user, matching, or_raise};
use crate::error::Refusal;
use crate::jsonb::RawJsonb;
use crate::kept;
use crate::materialize::{materialize, nothing};
use crate::settings;
use crate::spi::{self, Access};
use crate::statistics::counters::Latency;
use crate::statistics::tokens::MILLIONTHS;
use crate::statistics::{Call, Found, hits};
use pgrx::prelude::*;
use pgrx::{Uuid, pg_sys};

/// Keys that one cache_lookup_many() takes.
const MAX_KEYS: usize = 10_000;

/// The content of the live entry, or `None`. The newest version decides: when it has expired, an older
/// one that has not is outdated all the same.
#[pg_extern(sql = false)]
fn cache_lookup(user_id: Option<Uuid>, content_type: Option<&[u8]>, cache_key: Option<&[u8]>) -> Option<RawJsonb> {
    let call = Call::begins(Latency::Lookup);
    let address = or_raise(Address::new(user_id, content_type, cache_key));
    if !settings::ENABLED.get() {
        return None;
    }
    let (content, found) = kept::run(
        Access::Read,
        "lookup",
        |schema| {
            format!(
                "SELECT CASE WHEN expires_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp() THEN content END, \
                        {MILLIONTHS} \
                 FROM {schema}.infinite_pages_cache_partitioned WHERE {} ORDER BY created_at DESC LIMIT 1",
                matching(schema)
            )
        },
        &address.args(),
        |rows| {
            let content = if rows.count() == 0 { None } else { rows.jsonb(0, 1) };
            let found = Found::of(rows.count() > 0, content.is_some(), || rows.get(0, 2));
            (content, found)
        },
    );
    let counted_at = call.place(address.content_type, found != Found::Nothing);
    call.looked_up(counted_at, &address, found);
    call.ends(counted_at);
    content
}

crate::materialize::set_returning!(infinite_pages_cache_get, pg_finfo_infinite_pages_cache_get, get);

fn get(fcinfo: pg_sys::FunctionCallInfo) {
    let call = Call::begins(Latency::Lookup);
    // SAFETY: the function is declared with these three arguments.
    let address = unsafe {
        or_raise(Address::new(pgrx::pg_getarg(fcinfo, 0), pgrx::pg_getarg(fcinfo, 1), pgrx::pg_getarg(fcinfo, 2)))
    };
    if !settings::ENABLED.get() {
        return nothing(fcinfo);
    }
    let sql = |schema: &str| {
        format!(
            "SELECT id, content, metadata, created_at, expires_at, clock_timestamp() - created_at, \
                    least(hit_count::numeric + $5, 9223372036854775807)::bigint, \
                    trim_scale(token_cost::numeric), priority_tier::integer, story_id, foundation_dependency::text, \
                    expires_at > clock_timestamp(), {MILLIONTHS} \
             FROM {schema}.infinite_pages_cache_partitioned WHERE {} ORDER BY created_at DESC LIMIT 1",
            matching(schema)
        )
    };
    let mut args = address.args();
    args.push((hits::pending_of(&address.user_id, &address.digest) as i64).into());
    let mut found = Found::Nothing;
    materialize(fcinfo, |deliver| {
        kept::run(Access::Read, "get", sql, &args, |rows| {
            let live = rows.count() > 0 && rows.get(0, 12).unwrap_or(false);
            if live {
                deliver(rows);
            }
            found = Found::of(rows.count() > 0, live, || rows.get(0, 13));
        });
    });
    let counted_at = call.place(address.content_type, found != Found::Nothing);
    call.looked_up(counted_at, &address, found);
    call.ends(counted_at);
}

crate::materialize::set_returning!(
    infinite_pages_cache_lookup_many,
    pg_finfo_infinite_pages_cache_lookup_many,
    lookup_many
);

fn lookup_many(fcinfo: pg_sys::FunctionCallInfo) {
    let call = Call::begins(Latency::Lookup);
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
            "SELECT k.cache_key, e.content, e.found, e.cost FROM unnest($3) WITH ORDINALITY AS k (cache_key, n) \
             LEFT JOIN LATERAL ( \
                 SELECT CASE WHEN c.expires_at > clock_timestamp() THEN c.content END AS content, true AS found, \
                        {MILLIONTHS} AS cost \
                 FROM {schema}.infinite_pages_cache_partitioned c \
                 WHERE c.user_id = $1 AND c.content_type = $2 AND c.cache_key = k.cache_key \
                   AND {schema}.cache_entry_digest(c.content_type, c.cache_key) = {schema}.cache_entry_digest($2, k.cache_key) \
                 ORDER BY c.created_at DESC LIMIT 1) e ON $4 \
             ORDER BY k.n"
        )
    };
    // SAFETY: the third argument is a text[] that is not NULL, and lives until the call ends.
    let array = unsafe {
        let array: pg_sys::Datum = pgrx::pg_getarg(fcinfo, 2).expect("checked above");
        pgrx::datum::DatumWithOid::new(array, pg_sys::TEXTARRAYOID)
    };
    let enabled = settings::ENABLED.get();
    let args = [user_id.into(), spi::text(content_type), array, enabled.into()];
    let mut found = Vec::new();
    materialize(fcinfo, |deliver| {
        kept::run(Access::Read, "lookup many", sql, &args, |rows| {
            deliver(rows);
            found = rows.map(|rows, row| {
                Found::of(rows.get(row, 3).unwrap_or(false), !rows.is_null(row, 2), || rows.get(row, 4))
            });
        });
    });
    if enabled {
        let counted_at = call.place(content_type, found.iter().any(|found| *found != Found::Nothing));
        for (key, found) in keys.iter().zip(found) {
            let address = or_raise(Address::new(Some(user_id), Some(content_type), key));
            call.looked_up(counted_at, &address, found);
        }
        call.ends(counted_at);
    }
}
