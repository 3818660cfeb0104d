//! cache_explain(): tells people why a lookup of a key misses. It reads what the caller may read, and counts and audits nothing,
//! because it is no lookup.

use super::differences::differences;
use super::key::{too_deep, value_of};
use crate::access::row_security::Visible;
use crate::access::tenant::cache_current_user_id;
use crate::address::{Address, EVERY_OTHER_TYPE, matching};
use crate::arguments::or_raise;
use crate::error::shown;
use crate::extension::{AUDIT_LOG, CACHE, Extension, POLICIES, STATISTICS, saved_plan};
use crate::pg::guc::with_setting;
use crate::pg::jsonb::RawJsonb;
use crate::pg::shared_memory::is_preloaded;
use crate::pg::spi::{self, Access};
use crate::pg::srf::{Call, Stored, set_returning};
use crate::pg::{backend, clock, privileges, relation};
use crate::statistics::at_commit::counted;
use crate::statistics::counters::Count;
use crate::{lease, settings, ttl};
use pgrx::Uuid;
use pgrx::datum::Interval;
use std::ffi::CStr;

/// Most entries that a request is compared with, the newest first.
const COMPARED: i64 = 100;
/// Most bytes that what an entry was made from takes in its row, and as text, to be compared.
const STORED: i64 = 256 * 1024;
const LONGEST: i64 = 1024 * 1024;
/// Most paths in which a request and an entry are said to differ.
const PATHS: usize = 64;
/// Most content types that are searched for the same key, and that are named.
const SEARCHED: i64 = 1_000;
const NAMED: i64 = 10;
/// A time in microseconds that is as good as for ever: a thousand years.
const LONG: i64 = 365_000 * crate::calendar::DAY;
/// How far back the audit log is read.
const AUDITED: &str = "31 days";

/// The answer to whoever may not see the entries of a user, whatever there is.
const NOT_VISIBLE: (&str, &str) = ("not visible", "Entries of another user are not shown.");

/// A reason, by a name that programs may compare, and what a person should know of it.
type Reason = (&'static str, String);

set_returning!(infinite_pages_cache_explain => explain(user_id, content_type, cache_key, request));

fn explain(
    call: Call,
    user_id: Option<Uuid>,
    content_type: Option<&[u8]>,
    cache_key: Option<&[u8]>,
    request: Option<RawJsonb>,
) -> Stored {
    let address = or_raise(Address::new(user_id, content_type, cache_key));
    let request = request.map(|request| or_raise(value_of(&request.to_text()).map_err(|error| too_deep(&error))));
    let reasons = with_setting(c"DateStyle", "ISO", || reasons(&address, request.as_ref()));
    call.values(|deliver| {
        for (reason, detail) in reasons {
            deliver([reason.into(), detail.into()]);
        }
    })
}

fn reasons(address: &Address, request: Option<&serde_json::Value>) -> Vec<Reason> {
    let extension = Extension::current();
    let is_own = cache_current_user_id() == Some(address.user_id);
    let visible = Visible::to_current_user(&extension, extension.table(CACHE));
    let refused = || vec![(NOT_VISIBLE.0, NOT_VISIBLE.1.to_string())];
    // Before any statement, so that not even the time of the answer depends on what there is.
    if visible == Visible::OwnEntries && !is_own {
        return refused();
    }
    let policy = Policy::of(address.content_type);
    let entry = Entry::newest(address, policy.stale);
    // Row security of the operator's own may hide the entry.
    if visible == Visible::AskSql && !is_own && entry.is_none() {
        return refused();
    }
    let mut reasons = Vec::new();
    if !settings::ENABLED.get() {
        let detail = "infinite_pages_cache.enabled is off: every lookup misses, and nothing is stored.";
        reasons.push(("cache off", detail.to_string()));
    }
    let is_live = entry.as_ref().is_some_and(|entry| entry.is_live);
    reasons.extend(of_entry(entry.as_ref(), &policy));
    if visible == Visible::All || is_own {
        reasons.extend(of_generation(address));
    }
    if !is_live {
        reasons.extend(of_invalidation(&extension, address, entry.as_ref()));
        reasons.extend(of_type(&extension, address, &policy));
        reasons.extend(of_other_types(address));
        reasons.extend(request.and_then(|request| of_nearest(address, request)));
    }
    reasons
}

/// What the content policy says of lookups that miss.
struct Policy {
    /// In microseconds, or [`ttl::INFINITE`]; 0 for none.
    stale: i64,
    stale_ttl: String,
    max_entries: Option<i64>,
    accept_if: Option<String>,
}

impl Policy {
    /// Reads the row as a JSON object, because a table of an earlier version lacks some of its columns.
    fn of(content_type: &[u8]) -> Self {
        let sql = |schema: &str| {
            format!(
                "SELECT (p ->> 'stale_ttl')::interval, p ->> 'stale_ttl', (p ->> 'max_entries')::bigint, p ->> 'accept_if' \
                 FROM (SELECT to_jsonb(t) AS p, content_type FROM {schema}.{POLICIES} t WHERE content_type IN ($1, $2)) t \
                 ORDER BY content_type = $2 LIMIT 1"
            )
        };
        let args = [spi::text(content_type), spi::text(EVERY_OTHER_TYPE)];
        saved_plan::run(Access::Read, "explain policy", sql, &args, |rows| {
            let row = (rows.count() > 0).then_some(0);
            let stale = row.and_then(|row| rows.get::<Interval>(row, 1)).and_then(|stale| ttl::microseconds_of(&stale));
            Self {
                stale: stale.map_or(0, |stale| if stale > LONG { ttl::INFINITE } else { stale }),
                stale_ttl: row.and_then(|row| rows.get(row, 2)).unwrap_or_default(),
                max_entries: row.and_then(|row| rows.get(row, 3)),
                accept_if: row.and_then(|row| rows.get(row, 4)),
            }
        })
    }
}

/// The newest version of an entry. Times are texts.
struct Entry {
    created_at: String,
    expires_at: String,
    is_live: bool,
    /// Until when it is served while it is generated anew, if it has expired and that time has not passed.
    stale_until: Option<String>,
}

impl Entry {
    fn newest(address: &Address, stale: i64) -> Option<Self> {
        let sql = |schema: &str| {
            format!(
                "SELECT created_at::text, expires_at::text, expires_at > clock_timestamp(), \
                        CASE WHEN expires_at > clock_timestamp() OR expires_at <= $5 THEN NULL \
                             WHEN $6 THEN 'infinity' ELSE (expires_at + make_interval(secs => $7))::text END \
                 FROM {schema}.{CACHE} WHERE {} ORDER BY created_at DESC LIMIT 1",
                matching(schema)
            )
        };
        let is_kept = stale == ttl::INFINITE;
        let earliest = if is_kept { i64::MIN } else { clock::now() - stale };
        let mut args = address.args();
        args.extend([spi::timestamptz(earliest), is_kept.into(), (stale as f64 / 1e6).into()]);
        saved_plan::run(Access::Read, "explain entry", sql, &args, |rows| {
            (rows.count() > 0).then(|| Self {
                created_at: rows.get(0, 1).unwrap_or_default(),
                expires_at: rows.get(0, 2).unwrap_or_default(),
                is_live: rows.get(0, 3).unwrap_or(false),
                stale_until: rows.get(0, 4),
            })
        })
    }
}

fn of_entry(entry: Option<&Entry>, policy: &Policy) -> Vec<Reason> {
    let Some(entry) = entry else {
        let detail = "There is no entry at this key: none was ever stored, or it has been removed.";
        return vec![("not stored", detail.to_string())];
    };
    let Entry { created_at, expires_at, .. } = entry;
    if entry.is_live {
        return vec![("live", format!("It was stored at {created_at}, and expires at {expires_at}."))];
    }
    let mut reasons = vec![("expired", format!("It was stored at {created_at}, and expired at {expires_at}."))];
    if let Some(until) = &entry.stale_until {
        let stale_ttl = &policy.stale_ttl;
        let detail =
            format!("cache_fetch() serves it until {until}, because stale_ttl of its content policy is {stale_ttl}.");
        reasons.push(("within stale time", detail));
    }
    reasons
}

/// Who generates the entry, or why nobody is granted its lease.
fn of_generation(address: &Address) -> Option<Reason> {
    if !is_preloaded() {
        let detail = "The library is not preloaded: cache_fetch() grants no leases.";
        return Some(("no leases", detail.to_string()));
    }
    if backend::is_in_recovery() {
        return Some(("no leases", "The server is a standby: cache_fetch() grants leases on the primary.".to_string()));
    }
    let mut leases = lease::all(Some(&address.user_id)).into_iter();
    leases.find_map(|lease| {
        if lease.digest != address.digest {
            return None;
        }
        let (seconds, waiters) = (lease.ends_in.as_secs_f64(), lease.waiters);
        match lease.state {
            "held" => {
                let detail =
                    format!("Somebody generates it; the lease ends in {seconds:.1} s, and {waiters} sessions wait.");
                Some(("being generated", detail))
            }
            "storing" => Some(("being generated", format!("It is being stored, and {waiters} sessions wait."))),
            "failed" => {
                Some(("failed", format!("Its generation has failed; nobody is granted a lease for {seconds:.1} s.")))
            }
            _ => None,
        }
    })
}

/// The last invalidation since the entry was stored, for who may read the audit log.
fn of_invalidation(extension: &Extension, address: &Address, entry: Option<&Entry>) -> Option<Reason> {
    extension.find_table(AUDIT_LOG).filter(|log| privileges::may_read(*log))?;
    let sql = |schema: &str| {
        format!(
            "SELECT action, \"timestamp\"::text, coalesce(role::text, 'a role that is not known') FROM {schema}.{AUDIT_LOG} \
             WHERE \"timestamp\" > statement_timestamp() - interval '{AUDITED}' \
               AND user_id = $1 AND content_type = $2 AND cache_key = $3 AND action LIKE 'invalidate%' \
               AND \"timestamp\" > coalesce($4::timestamptz, '-infinity') ORDER BY \"timestamp\" DESC LIMIT 1"
        )
    };
    let args = [
        address.user_id.into(),
        spi::text(address.content_type),
        spi::text(address.cache_key),
        entry.map(|entry| entry.created_at.clone()).into(),
    ];
    saved_plan::run(Access::Read, "explain invalidation", sql, &args, |rows| {
        (rows.count() > 0).then(|| {
            let text = |column| rows.get::<String>(0, column).unwrap_or_default();
            ("invalidated", format!("cache_{}() removed it at {}, called by {}.", text(1), text(2), text(3)))
        })
    })
}

/// What may remove or refuse entries of the content type.
fn of_type(extension: &Extension, address: &Address, policy: &Policy) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let evicted = lately(extension, address.content_type, "explain evictions", c"evictions", Count::Evictions);
    if evicted > 0 {
        let detail =
            format!("In the last 24 hours {evicted} entries of this content type were evicted by max_entries.");
        reasons.push(("evicted lately", detail));
    }
    if let Some(most) = policy.max_entries.filter(|most| has_entries(address, *most)) {
        let detail = format!(
            "The user has {most} entries of this content type, as many as max_entries allows: a new one evicts another."
        );
        reasons.push(("at max_entries", detail));
    }
    if let Some(condition) = &policy.accept_if {
        let plan = "explain refusals";
        let refused = lately(extension, address.content_type, plan, c"refused_by_gate", Count::RefusedByGate);
        let lately =
            if refused > 0 { format!(" It was not of {refused} in the last 24 hours.") } else { String::new() };
        reasons.push(("accept_if", format!("An answer is stored only if this is true of it: {condition}.{lately}")));
    }
    reasons
}

/// Whether the user has so many live entries of a content type.
fn has_entries(address: &Address, most: i64) -> bool {
    let sql = |schema: &str| {
        format!(
            "SELECT FROM {schema}.{CACHE} WHERE user_id = $1 AND content_type = $2 AND expires_at > clock_timestamp() \
             OFFSET $3 - 1 LIMIT 1"
        )
    };
    let args = [address.user_id.into(), spi::text(address.content_type), most.into()];
    saved_plan::run(Access::Read, "explain limit", sql, &args, |rows| rows.count() > 0)
}

/// Returns what was counted of a content type in the last 24 hours; 0 for who may not read the statistics.
fn lately(extension: &Extension, content_type: &[u8], plan: &'static str, column: &CStr, count: Count) -> u64 {
    let table = extension.find_table(STATISTICS);
    if !table.is_some_and(|table| privileges::may_read(table) && relation::has_column(table, column)) {
        return 0;
    }
    let column = column.to_string_lossy();
    let sql = |schema: &str| {
        format!(
            "SELECT least(coalesce(sum({column}), 0), 9223372036854775807)::bigint FROM {schema}.{STATISTICS} \
             WHERE content_type = $1 AND hour > statement_timestamp() - interval '24 hours'"
        )
    };
    let stored = saved_plan::run(Access::Read, plan, sql, &[spi::text(content_type)], |rows| rows.get::<i64>(0, 1));
    let pending = counted().into_iter().filter(|counted| counted.content_type == content_type);
    let pending: u64 = pending.map(|counted| counted.pending[count as usize]).sum();
    stored.unwrap_or_default().unsigned_abs().saturating_add(pending)
}

/// The user's other content types that have a live entry with the same key. Each type is found by a step in the index on user and
/// content type, and its entry in the entry indexes.
fn of_other_types(address: &Address) -> Option<Reason> {
    let sql = |schema: &str| {
        format!(
            "WITH RECURSIVE types (content_type, number) AS ( \
                 (SELECT content_type::text, 1::bigint FROM {schema}.{CACHE} WHERE user_id = $1 ORDER BY content_type LIMIT 1) \
                 UNION ALL \
                 SELECT (SELECT c.content_type::text FROM {schema}.{CACHE} c WHERE c.user_id = $1 AND c.content_type > t.content_type \
                         ORDER BY c.content_type LIMIT 1), t.number + 1 \
                 FROM types t WHERE t.content_type IS NOT NULL AND t.number < $4) \
             SELECT t.content_type FROM types t WHERE t.content_type <> $2 AND EXISTS ( \
                 SELECT FROM {schema}.{CACHE} c WHERE c.user_id = $1 AND c.content_type = t.content_type AND c.cache_key = $3 \
                   AND {schema}.cache_entry_digest(c.content_type, c.cache_key) = {schema}.cache_entry_digest(t.content_type, $3) \
                   AND c.expires_at > clock_timestamp()) \
             LIMIT $5"
        )
    };
    let (content_type, cache_key) = (spi::text(address.content_type), spi::text(address.cache_key));
    let args = [address.user_id.into(), content_type, cache_key, SEARCHED.into(), NAMED.into()];
    let types = saved_plan::run(Access::Read, "explain types", sql, &args, |rows| {
        rows.map(|rows, row| shown(&rows.get::<String>(row, 1).unwrap_or_default()))
    });
    let detail = || format!("The key is stored under the content type {}.", types.join(", "));
    (!types.is_empty()).then(|| ("another content type", detail()))
}

/// The entry whose prompt_variables, or else metadata, differ least from the request.
fn of_nearest(address: &Address, request: &serde_json::Value) -> Option<Reason> {
    let sql = |schema: &str| {
        format!(
            "SELECT cache_key, made_from FROM ( \
                 SELECT cache_key, CASE WHEN coalesce(pg_column_size(prompt_variables), 0) + coalesce(pg_column_size(metadata), 0) <= $5 \
                                        THEN coalesce(nullif(prompt_variables::text, '{{}}'), metadata::text) END AS made_from \
                 FROM (SELECT cache_key::text AS cache_key, prompt_variables, metadata \
                       FROM {schema}.{CACHE} WHERE user_id = $1 AND content_type = $2 AND cache_key <> $3 \
                       ORDER BY created_at DESC LIMIT $4) newest OFFSET 0) compared \
             WHERE made_from <> '{{}}' AND octet_length(made_from) <= $6"
        )
    };
    let (content_type, cache_key) = (spi::text(address.content_type), spi::text(address.cache_key));
    let args = [address.user_id.into(), content_type, cache_key, COMPARED.into(), STORED.into(), LONGEST.into()];
    let nearest = saved_plan::run(Access::Read, "explain nearest", sql, &args, |rows| {
        let compared = (0..rows.count()).map(|row| {
            pgrx::check_for_interrupts!();
            let text = |column| rows.get::<String>(row, column).unwrap_or_default();
            // What is too deep for cache_key() is compared as a whole.
            let paths =
                value_of(&text(2)).map_or_else(|_| vec!["$".to_string()], |value| differences(request, &value, PATHS));
            (text(1), paths)
        });
        compared.min_by_key(|(_, paths)| paths.len())
    });
    nearest.map(|(key, paths)| {
        let key = shown(&key);
        let more = if paths.len() == PATHS { ", and perhaps more" } else { "" };
        let detail = match paths.as_slice() {
            [] => format!("Entry {key} was made from the same request: its key was made in another way."),
            paths => format!("The request differs from that of entry {key} in {}{more}.", paths.join(", ")),
        };
        ("nearest request", detail)
    })
}
