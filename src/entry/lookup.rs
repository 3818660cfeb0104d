//! Lookups: find entries by their address. They write nothing: no row, no WAL, no transaction id.

use super::newest_version::{self, newest};
use super::user_rows::Row;
use crate::address::{Address, matching};
use crate::arguments::{checked_content_type, checked_user, missing, or_raise};
use crate::audit::reads;
use crate::error::Refusal;
use crate::extension::{CACHE, saved_plan};
use crate::pg::jsonb::RawJsonb;
use crate::pg::memory::Memory;
use crate::pg::snapshot::with_active;
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

/// The number of the column hit_count in the result of cache_get().
const HIT_COUNT: i32 = 7;
/// Most keys of one cache_lookup_many().
const MAX_KEYS: usize = 10_000;

/// Returns the content of the live entry, or `None`. The newest version decides: if it has expired, an older one is
/// outdated even if it has not.
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
    let mut found = Found::Nothing;
    let read = |row: &Row| newest_version::found(row, memory);
    if !with_active(|snapshot| newest(snapshot, &[&address], read, |_, version| found = version)) {
        found = newest_by_statement(&address, memory);
    }
    audit_and_count(&lookup, address.content_type, std::iter::once((&address, &found)));
    found.content()
}

/// Audits and counts what a call has found of entries of one content type.
fn audit_and_count<'a, Content: 'a>(
    lookup: &statistics::Call,
    content_type: &[u8],
    found: impl Iterator<Item = (&'a Address<'a>, &'a Found<Content>)> + Clone,
) {
    let has_entries = found.clone().any(|(_, found)| !matches!(found, Found::Nothing));
    let counted_at = lookup.slot(content_type, has_entries);
    for (address, found) in found {
        reads::record(address, found.is_live());
        lookup.looked_up(counted_at, address, found);
    }
    lookup.ends(counted_at);
}

/// Reads the newest version from a row of a statement. The columns are its content, if it is live, its cost in millionths,
/// and its id.
fn version<'a>(rows: &Rows, row: u64, (content, cost, id): (i32, i32, i32), memory: Memory<'a>) -> Found<RawJsonb<'a>> {
    match rows.jsonb(row, content, memory) {
        Some(content) => Found::Live(content, hit(rows, row, cost, id)),
        None => Found::Expired,
    }
}

fn hit(rows: &Rows, row: u64, cost: i32, id: i32) -> Hit {
    Hit { id: rows.uuid(row, id), cost: rows.get(row, cost).map(Tokens::of_cost) }
}

fn newest_by_statement<'a>(address: &Address, memory: Memory<'a>) -> Found<RawJsonb<'a>> {
    let sql = |schema: &str| {
        format!(
            "SELECT CASE WHEN expires_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp() THEN content END, \
                    {MILLIONTHS}, id \
             FROM {schema}.{CACHE} WHERE {} ORDER BY created_at DESC LIMIT 1",
            matching(schema)
        )
    };
    saved_plan::run(Access::Read, "lookup", sql, &address.args(), |rows| {
        if rows.count() > 0 { version(rows, 0, (1, 2, 3), memory) } else { Found::Nothing }
    })
}

/// Returns the hits of an entry: those stored, from a row of a statement that has the entry's id and stored hits in these
/// columns, and those in shared memory.
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
                _ if live => Found::Live((), hit(rows, 0, 13, 1)),
                _ => Found::Expired,
            };
        });
    });
    audit_and_count(&lookup, address.content_type, std::iter::once((&address, &found)));
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
    // With the cache off, each key is returned with NULL.
    let mut found: Vec<Found<RawJsonb>> = addresses.iter().map(|_| Found::Nothing).collect();
    if settings::ENABLED.get() {
        let mut order: Vec<usize> = (0..addresses.len()).collect();
        order.sort_unstable_by_key(|&number| addresses[number].digest.as_bytes());
        let ordered: Vec<&Address> = order.iter().map(|&number| &addresses[number]).collect();
        let memory = call.memory();
        let read = |row: &Row| newest_version::found(row, memory);
        let is_found =
            with_active(|snapshot| newest(snapshot, &ordered, read, |number, version| found[order[number]] = version));
        if !is_found {
            let keys = spi::texts(addresses.iter().map(|address| address.cache_key));
            found = newest_of_each_by_statement(user_id, content_type, keys, memory);
        }
        audit_and_count(&lookup, content_type, addresses.iter().zip(&found));
    }
    call.values(|deliver| {
        for (address, found) in addresses.iter().zip(found) {
            deliver([spi::text(address.cache_key), found.content().into()]);
        }
    })
}

/// Returns the newest version of each key, in the order of the keys.
fn newest_of_each_by_statement<'a>(
    user_id: Uuid,
    content_type: &[u8],
    keys: DatumWithOid,
    memory: Memory<'a>,
) -> Vec<Found<RawJsonb<'a>>> {
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
        rows.map(|rows, row| if rows.is_null(row, 1) { Found::Nothing } else { version(rows, row, (2, 3, 4), memory) })
    })
}
