//! cache_touch(): gives a live entry a new time to live.

use super::content_policy::Policy;
use super::key_lock::{self, Locked, Wrote};
use super::values;
use super::write_rights::may_see;
use crate::address::{Address, matching};
use crate::arguments::or_raise;
use crate::audit::writes::{self, Event};
use crate::extension::{CACHE, saved_plan};
use crate::pg::backend::refuse_if_read_only;
use crate::pg::clock;
use crate::pg::spi::{self, Access};
use crate::settings;
use pgrx::Uuid;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;

/// Returns the new expiry, or `None` if there is no live entry, because what has expired stays expired.
#[pg_extern(sql = false)]
fn cache_touch(
    user_id: Option<Uuid>,
    content_type: Option<&[u8]>,
    cache_key: Option<&[u8]>,
    ttl: Option<i64>,
) -> Option<TimestampWithTimeZone> {
    let address = or_raise(Address::to_write(user_id, content_type, cache_key));
    if !settings::ENABLED.get() {
        return None;
    }
    if !may_see(&address) {
        return None;
    }
    refuse_if_read_only(c"cache_touch()");
    let lifetime = ttl.unwrap_or_else(|| Policy::of(address.content_type).ttl);
    let expiry = touch(&address, lifetime);
    if expiry.is_some() {
        writes::record("touch", &[Event::of(&address)]);
    }
    expiry
}

/// Extends the entry. If the statement waited for a transaction that has replaced the entry, it finds none, and is repeated
/// for the new one.
fn touch(address: &Address, lifetime: i64) -> Option<TimestampWithTimeZone> {
    const ATTEMPTS: usize = 10;
    let mut before = None;
    for _ in 0..ATTEMPTS {
        let (expiry, found) =
            key_lock::with_key(address, None, |key| Wrote::Openly((extend(key, lifetime), key.found().clone())));
        if expiry.is_some() || !found.exists || before.as_ref() == Some(&found) {
            return expiry;
        }
        before = Some(found);
    }
    None
}

fn extend(key: &Locked, lifetime: i64) -> Option<TimestampWithTimeZone> {
    let now = clock::now();
    let mut args = key.address().args();
    args.extend([spi::timestamptz(values::expiry_after(now, lifetime)), spi::timestamptz(now)]);
    saved_plan::run(
        Access::Write,
        "touch",
        |schema| {
            // Only the newest version, because an older one must not come back to life.
            format!(
                "UPDATE {schema}.{CACHE} SET expires_at = $5 \
                 WHERE {0} AND expires_at OPERATOR(pg_catalog.>) $6 AND created_at OPERATOR(pg_catalog.=) \
                     (SELECT pg_catalog.max(created_at) FROM {schema}.{CACHE} WHERE {0}) \
                 RETURNING expires_at",
                matching(schema)
            )
        },
        &args,
        |rows| if rows.count() > 0 { rows.get::<TimestampWithTimeZone>(0, 1) } else { None },
    )
}
