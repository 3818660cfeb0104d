//! Lookups. They write nothing: no row, no WAL, no transaction id.

use super::newest_version::{self, Version};
use crate::address::{Address, matching};
use crate::arguments::{checked_content_type, checked_user, missing, or_raise};
use crate::audit::reads;
use crate::error::Refusal;
use crate::extension::{CACHE, saved_plan};
use crate::pg::jsonb::RawJsonb;
use crate::pg::memory::Memory;
use crate::pg::spi::{self, Access, Rows};
use crate::pg::srf::{Call, Stored, set_returning};
use crate::statistics::at_commit::pending_hits_of;
use crate::statistics::counters::Latency;
use crate::statistics::hits::Entry;
use crate::statistics::tokens::{MILLIONTHS, Tokens};
use crate::statistics::{Found, Hit};
use crate::{settings, statistics};
use pgrx::Uuid;
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;

/// The column of the hits in the result of cache_get().
const HIT_COUNT: i32 = 7;
/// Keys that one cache_lookup_many() takes.
const MAX_KEYS: usize = 10_000;

/// The content of the live entry, or `None`. The newest version decides: when it has expired, an older
/// one that has not is outdated all the same.
#[pg_extern(sql = false)]
fn cache_lookup<'fcx>(
    memory: Memory<'fcx>,
    user_id: Option<Uuid>,
    content_type: Option<&[u8]>,
    cache_key: Option<&[u8]>,
) -> Option<RawJsonb<'fcx>> {
    let lookup = statistics::Call::begins(Latency::Lookup);
    let address = or_raise(Address::new(user_id, content_type, cache_key));
    if !settings::ENABLED.get() {
        return None;
    }
    let mut version = None;
    if !newest_version::newest(&[&address], memory, |_, found| version = Some(found)) {
        version = newest_by_statement(&address, memory);
    }
    let counted_at = lookup.slot(address.content_type, version.is_some());
    looked_up(&lookup, counted_at, &address, Found::of(version.as_ref()));
    lookup.ends(counted_at);
    content_of(version)
}

/// Audits one lookup, and counts it.
fn looked_up(lookup: &statistics::Call, counted_at: Option<u32>, address: &Address, found: Found) {
    reads::record(address, matches!(found, Found::Live(_)));
    lookup.looked_up(counted_at, address, found);
}

fn content_of(version: Option<Version<'_>>) -> Option<RawJsonb<'_>> {
    match version {
        Some(Version::Live(content, _)) => Some(content),
        _ => None,
    }
}

impl Found {
    fn of(version: Option<&Version>) -> Self {
        match version {
            None => Self::Nothing,
            Some(Version::Expired) => Self::Expired,
            Some(Version::Live(_, hit)) => Self::Live(*hit),
        }
    }
}

/// The newest version in a row of a statement that has its content, if it is live, its cost in millionths, and its id.
fn version<'a>(rows: &Rows, row: u64, (content, cost, id): (i32, i32, i32), memory: Memory<'a>) -> Version<'a> {
    match rows.jsonb(row, content, memory) {
        Some(content) => Version::Live(content, hit(rows, row, cost, id)),
        None => Version::Expired,
    }
}

fn hit(rows: &Rows, row: u64, cost: i32, id: i32) -> Hit {
    Hit { id: rows.uuid(row, id), cost: rows.get(row, cost).map(Tokens::of_cost) }
}

fn newest_by_statement<'a>(address: &Address, memory: Memory<'a>) -> Option<Version<'a>> {
    let sql = |schema: &str| {
        format!(
            "SELECT CASE WHEN expires_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp() THEN content END, \
                    {MILLIONTHS}, id \
             FROM {schema}.{CACHE} WHERE {} ORDER BY created_at DESC LIMIT 1",
            matching(schema)
        )
    };
    saved_plan::run(Access::Read, "lookup", sql, &address.args(), |rows| {
        (rows.count() > 0).then(|| version(rows, 0, (1, 2, 3), memory))
    })
}

/// The hits of an entry in a row of a statement that has its id and its stored hits in these columns, with those that are in
/// memory.
pub(super) fn hits_of(rows: &Rows, row: u64, (id, stored): (i32, i32), user_id: &Uuid, digest: &Uuid) -> i64 {
    let entry = Entry { user_id: *user_id, digest: *digest, id: rows.uuid(row, id) };
    rows.get::<i64>(row, stored).unwrap_or_default().saturating_add_unsigned(pending_hits_of(&entry))
}

set_returning!(infinite_pages_cache_get => get(user_id, content_type, cache_key));

fn get(call: Call, user_id: Option<Uuid>, content_type: Option<&[u8]>, cache_key: Option<&[u8]>) -> Stored {
    let lookup = statistics::Call::begins(Latency::Lookup);
    let address = or_raise(Address::new(user_id, content_type, cache_key));
    if !settings::ENABLED.get() {
        return call.nothing();
    }
    let sql = |schema: &str| {
        format!(
            "SELECT id, content, metadata, created_at, expires_at, \
                    CASE WHEN isfinite(created_at) THEN clock_timestamp() - created_at END, \
                    coalesce(hit_count, 0)::bigint, \
                    trim_scale(token_cost::numeric), priority_tier::integer, story_id, foundation_dependency::text, \
                    expires_at > clock_timestamp(), {MILLIONTHS} \
             FROM {schema}.{CACHE} WHERE {} ORDER BY created_at DESC LIMIT 1",
            matching(schema)
        )
    };
    let mut found = Found::Nothing;
    let hit_count = |rows: &Rows, row| hits_of(rows, row, (1, HIT_COUNT), &address.user_id, &address.digest).into();
    let stored = call.rows_with(HIT_COUNT, hit_count, |deliver| {
        saved_plan::run(Access::Read, "get", sql, &address.args(), |rows| {
            let live = rows.count() > 0 && rows.get(0, 12).unwrap_or(false);
            if live {
                deliver(rows);
            }
            found = match rows.count() {
                0 => Found::Nothing,
                _ if live => Found::Live(hit(rows, 0, 13, 1)),
                _ => Found::Expired,
            };
        });
    });
    let counted_at = lookup.slot(address.content_type, found != Found::Nothing);
    looked_up(&lookup, counted_at, &address, found);
    lookup.ends(counted_at);
    stored
}

set_returning!(infinite_pages_cache_lookup_many => lookup_many(user_id, content_type, cache_keys));

fn lookup_many(
    call: Call,
    user_id: Option<Uuid>,
    content_type: Option<&[u8]>,
    cache_keys: Option<Array<&[u8]>>,
) -> Stored {
    let lookup = statistics::Call::begins(Latency::Lookup);
    let user_id = or_raise(checked_user(user_id));
    let content_type = or_raise(checked_content_type(content_type));
    let keys = cache_keys.unwrap_or_else(|| missing("cache_keys").hint("Pass an array of keys.").raise());
    if keys.len() > MAX_KEYS {
        Refusal::new(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, "too many keys in one call")
            .detail(format!("The limit is {MAX_KEYS} keys; the array has {}.", keys.len()))
            .hint("Ask in several calls.")
            .raise();
    }
    let address = |(index, key)| match Address::new(Some(user_id), Some(content_type), key) {
        Ok(address) => address,
        Err(refusal) => refusal.at_position(index + 1).raise(),
    };
    let addresses: Vec<Address> = keys.iter().enumerate().map(address).collect();
    // With the cache off the keys are answered, each as a miss.
    let mut versions: Vec<Option<Version>> = addresses.iter().map(|_| None).collect();
    if settings::ENABLED.get() {
        let mut order: Vec<usize> = (0..addresses.len()).collect();
        order.sort_unstable_by_key(|&number| addresses[number].digest.as_bytes());
        let ordered: Vec<&Address> = order.iter().map(|&number| &addresses[number]).collect();
        if !newest_version::newest(&ordered, call.memory(), |number, version| versions[order[number]] = Some(version)) {
            let keys = spi::texts(addresses.iter().map(|address| address.cache_key));
            versions = newest_of_each_by_statement(user_id, content_type, keys, call.memory());
        }
        let counted_at = lookup.slot(content_type, versions.iter().any(Option::is_some));
        for (address, version) in addresses.iter().zip(&versions) {
            looked_up(&lookup, counted_at, address, Found::of(version.as_ref()));
        }
        lookup.ends(counted_at);
    }
    call.values(|deliver| {
        for (address, version) in addresses.iter().zip(versions) {
            deliver([spi::text(address.cache_key), content_of(version).into()]);
        }
    })
}

/// The newest version of each key, in their order.
fn newest_of_each_by_statement<'a>(
    user_id: Uuid,
    content_type: &[u8],
    keys: DatumWithOid,
    memory: Memory<'a>,
) -> Vec<Option<Version<'a>>> {
    let sql = |schema: &str| {
        format!(
            "SELECT e.found, e.content, e.cost, e.id FROM unnest($3) WITH ORDINALITY AS k (cache_key, n) \
             LEFT JOIN LATERAL ( \
                 SELECT CASE WHEN c.expires_at > clock_timestamp() THEN c.content END AS content, true AS found, \
                        {MILLIONTHS} AS cost, c.id \
                 FROM {schema}.{CACHE} c \
                 WHERE c.user_id = $1 AND c.content_type = $2 AND c.cache_key = k.cache_key \
                   AND {schema}.cache_entry_digest(c.content_type, c.cache_key) = {schema}.cache_entry_digest($2, k.cache_key) \
                 ORDER BY c.created_at DESC LIMIT 1) e ON true \
             ORDER BY k.n"
        )
    };
    let args = [user_id.into(), spi::text(content_type), keys];
    saved_plan::run(Access::Read, "lookup many", sql, &args, |rows| {
        rows.map(|rows, row| (!rows.is_null(row, 1)).then(|| version(rows, row, (2, 3, 4), memory)))
    })
}
