//! Invalidation: removes entries because what they were made from has changed.

use super::fenced::{fenced, refuse_hidden};
use crate::address::{Address, digest_of, matching, same_entry};
use crate::arguments::{checked_content_type, checked_user, missing, or_raise};
use crate::audit::writes::{self, Event};
use crate::error::{Refusal, shown};
use crate::extension::{CACHE, Extension, saved_plan};
use crate::lease::Subject;
use crate::pg::jsonb::RawJsonb;
use crate::pg::spi::{self, Access, Rows};
use crate::statistics;
use crate::statistics::at_commit::{Change, at_commit};
use crate::statistics::counters::Count;
use crate::statistics::hits::Entry;
use pgrx::Uuid;
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;

#[pg_extern(sql = false)]
fn cache_invalidate(user_id: Option<Uuid>, content_type: Option<&[u8]>, cache_key: Option<&[u8]>) -> i64 {
    let address = or_raise(Address::new(user_id, content_type, cache_key));
    let removal = Removal { action: "invalidate", lock: "lock to invalidate", subject: Subject::Key(&address) };
    removal.run(&address.user_id, matching, &address.args())
}

#[pg_extern(sql = false)]
fn cache_invalidate_content_type(user_id: Option<Uuid>, content_type: Option<&[u8]>) -> i64 {
    let user_id = or_raise(checked_user(user_id));
    let content_type = or_raise(checked_content_type(content_type));
    let args = [user_id.into(), spi::text(content_type)];
    let removal = Removal {
        action: "invalidate_content_type",
        lock: "lock to invalidate_content_type",
        subject: Subject::Type(user_id, content_type),
    };
    removal.run(&user_id, |_| "user_id = $1 AND content_type = $2".into(), &args)
}

/// # Errors
/// 22023 unless the metadata are an object that is not empty, because every object contains `{}`.
#[pg_extern(sql = false)]
fn cache_invalidate_where(user_id: Option<Uuid>, metadata: Option<RawJsonb>) -> i64 {
    let user_id = or_raise(checked_user(user_id));
    let hint = "Pass what the metadata of the entries must contain, such as {\"genre\": \"noir\"}.";
    let metadata = metadata.unwrap_or_else(|| missing("metadata").hint(hint).raise());
    let text = metadata.to_text();
    if !text.starts_with('{') || text == "{}" {
        Refusal::new(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "metadata must be a JSON object with at least one field",
        )
        .detail(format!("It is {}.", shown(&text)))
        .hint(hint)
        .raise();
    }
    let args = [user_id.into(), metadata.into()];
    let removal =
        Removal { action: "invalidate_where", lock: "lock to invalidate_where", subject: Subject::Metadata(user_id) };
    removal.run(&user_id, |_| "user_id = $1 AND metadata @> $2".into(), &args)
}

#[pg_extern(sql = false)]
fn cache_invalidate_dependents(user_id: Option<Uuid>, foundation_dependency: Option<&[u8]>) -> i64 {
    let user_id = or_raise(checked_user(user_id));
    let hint = "Pass the foundation_dependency that the entries were stored with.";
    let dependency = foundation_dependency.unwrap_or_else(|| missing("foundation_dependency").hint(hint).raise());
    let args = [user_id.into(), spi::text(dependency)];
    let removal = Removal {
        action: "invalidate_dependents",
        lock: "lock to invalidate_dependents",
        subject: Subject::Foundation(user_id, dependency),
    };
    removal.run(&user_id, |_| "user_id = $1 AND foundation_dependency = $2".into(), &args)
}

/// A removal of entries, which is audited as an action. `lock` names its first statement.
struct Removal<'a> {
    action: &'static str,
    lock: &'static str,
    subject: Subject<'a>,
}

impl Removal<'_> {
    /// Deletes a user's entries that meet a condition, and returns how many. Row security decides which of them a tenant can
    /// reach. All this works while the cache is off, because outdated entries must not come back with it.
    ///
    /// # Errors
    /// 40001 if the transaction's snapshot hides such an entry.
    fn run(&self, user_id: &Uuid, condition: impl Fn(&str) -> String, args: &[DatumWithOid]) -> i64 {
        let removed = fenced(user_id, &self.subject, || {
            let removed = self.remove(&condition, args);
            refuse_hidden(&condition(&Extension::current().schema), args);
            removed
        });
        record(self.action, removed)
    }

    /// The first statement locks the entries in the order of users and digests, in which all writers lock rows. The second
    /// deletes them: at READ COMMITTED its own snapshot shows, in any month, what a writer has left that the first one waited
    /// for. It also deletes their older versions, which clients may have left in other months, because these would be found
    /// again.
    fn remove(&self, condition: impl Fn(&str) -> String, args: &[DatumWithOid]) -> Vec<Removed> {
        saved_plan::run(
            Access::Write,
            self.lock,
            |schema| {
                format!(
                    "SELECT FROM {schema}.{CACHE} WHERE {} \
                     ORDER BY user_id, {schema}.cache_entry_digest(content_type, cache_key), created_at FOR UPDATE",
                    condition(schema)
                )
            },
            args,
            |_| (),
        );
        saved_plan::run(
            Access::Write,
            self.action,
            |schema| {
                let cache = format!("{schema}.{CACHE}");
                format!(
                    "WITH gone AS (DELETE FROM {cache} WHERE {} RETURNING user_id, content_type, cache_key, created_at, id), \
                     superseded AS ( \
                         DELETE FROM {cache} o USING gone g \
                         WHERE o.user_id OPERATOR(pg_catalog.=) $1 AND {} \
                           AND o.created_at OPERATOR(pg_catalog.<) g.created_at \
                         RETURNING o.user_id, o.content_type, o.cache_key, o.id) \
                     SELECT user_id, content_type::text, cache_key::text, id FROM gone \
                     UNION ALL SELECT user_id, content_type::text, cache_key::text, id FROM superseded",
                    condition(schema),
                    same_entry(schema, "o", "g")
                )
            },
            args,
            |rows| rows.map(Removed::of),
        )
    }
}

/// An entry that was removed.
pub struct Removed {
    event: Event,
    id: Option<Uuid>,
}

impl Removed {
    /// Reads a row of the user, the content type, the key and the id.
    pub fn of(rows: &Rows, row: u64) -> Self {
        let event = Event {
            user_id: rows.get(row, 1).expect("user_id is NOT NULL"),
            content_type: rows.text(row, 2).expect("content_type is NOT NULL"),
            cache_key: rows.text(row, 3).expect("cache_key is NOT NULL"),
        };
        Self { event, id: rows.uuid(row, 4) }
    }

    fn entry(&self) -> Entry {
        let Event { user_id, content_type, cache_key } = &self.event;
        Entry { user_id: *user_id, digest: digest_of(content_type, cache_key), id: self.id }
    }
}

/// Audits and counts what was removed. Its hits are forgotten at commit. Returns how many entries it is.
pub fn record(action: &str, removed: Vec<Removed>) -> i64 {
    if !removed.is_empty() {
        at_commit(Change::Removed(removed.iter().map(Removed::entry).collect()));
    }
    let events: Vec<Event> = removed.into_iter().map(|removed| removed.event).collect();
    writes::record(action, &events);
    for event in &events {
        statistics::counted(&event.content_type, Count::Invalidations, 1);
    }
    events.len() as i64
}
