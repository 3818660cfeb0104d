//! cache_release(), cache_extend_lease() and cache_end_leases(): what a client does with leases, beside storing an answer. They
//! act at once, whatever becomes of the transaction. A lease of a user whose entries the caller may not write is like one that
//! does not exist, so that nobody learns of another's.

use super::fetch_policy::{self, FetchPolicy, LONGEST, SHORTEST};
use super::write_rights::Writer;
use crate::access::row_security;
use crate::arguments::{checked_content_type, checked_user, missing, or_raise};
use crate::error::Refusal;
use crate::extension::{CACHE, Extension};
use crate::lease::{self, LeaseId};
use crate::pg::datetime::{duration_of, interval_of};
use pgrx::Uuid;
use pgrx::datum::Interval;
use pgrx::prelude::*;
use std::time::Duration;

/// How long a failure keeps others from generating, unless the caller says so.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Gives a lease back. Returns false when it has ended.
#[pg_extern(sql = false)]
fn cache_release(lease: Option<Uuid>, failed: Option<bool>, retry_after: Option<Interval>) -> bool {
    let lease = checked_lease(lease);
    let retry_after = retry_after.map_or(RETRY_AFTER, checked_retry_after);
    let writer = Writer::current();
    lease::release(lease, |user| writer.may_write(user), failed.unwrap_or(false).then_some(retry_after))
}

/// Gives a lease a new time from now, and returns it; `None` when the lease has ended.
#[pg_extern(sql = false)]
fn cache_extend_lease(lease: Option<Uuid>, ttl: Option<Interval>) -> Option<Interval> {
    let lease = checked_lease(lease);
    let ttl = ttl.map(checked_ttl);
    let writer = Writer::current();
    fetch_policy::renew();
    let ttl_of = |content_type: &[u8]| ttl.unwrap_or_else(|| FetchPolicy::known(content_type).lease_ttl);
    lease::extend(lease, |user| writer.may_write(user), ttl_of).map(interval_of)
}

/// Ends the leases of a user, of one content type or all, and keeps their answers out. Returns how many.
#[pg_extern(sql = false)]
fn cache_end_leases(user_id: Option<Uuid>, content_type: Option<&[u8]>) -> i64 {
    let user_id = or_raise(checked_user(user_id));
    let content_type = content_type.map(|name| or_raise(checked_content_type(Some(name))));
    if !Writer::current().may_write(&user_id) {
        return 0;
    }
    let may_reach_all = || row_security::all_can_be_deleted(Extension::current().table(CACHE));
    lease::end(&user_id, content_type, may_reach_all).try_into().unwrap_or(i64::MAX)
}

/// # Errors
/// 22004 for NULL.
fn checked_lease(lease: Option<Uuid>) -> LeaseId {
    LeaseId(lease.unwrap_or_else(|| missing("lease").hint("Pass the lease that cache_fetch() returned.").raise()))
}

/// # Errors
/// 22023 for a negative time, or more than a day.
fn checked_retry_after(value: Interval) -> Duration {
    match duration_of(&value) {
        None => refuse("retry_after must not be negative", &value, "Leave it out for 5 seconds."),
        Some(time) if time > LONGEST => {
            refuse("retry_after must be a day at most", &value, "Leave it out for 5 seconds.")
        }
        Some(time) => time,
    }
}

/// # Errors
/// 22023 for less than a second, or more than a day.
fn checked_ttl(value: Interval) -> Duration {
    let time = duration_of(&value).filter(|time| (SHORTEST..=LONGEST).contains(time));
    time.unwrap_or_else(|| {
        let hint = "Leave it out for the lease_ttl of the content policy.";
        refuse("ttl must lie between 1 second and 1 day", &value, hint)
    })
}

fn refuse(rule: &str, value: &Interval, hint: &str) -> ! {
    Refusal::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, rule)
        .detail(format!("It is {value}."))
        .hint(hint)
        .raise()
}
