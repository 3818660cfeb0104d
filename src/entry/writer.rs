//! The writing of entries: one live entry per address, whatever the month and whoever writes at the same
//! time.

use super::content_policy::Policy;
use super::entry_index::Entries;
use super::key_lock::{self, Wrote};
use super::values::Values;
use crate::access::row_security::Sight;
use crate::access::tenant;
use crate::address::{Address, matching};
use crate::calendar::{Month, month_of};
use crate::error::Refusal;
use crate::extension::{CACHE, Extension};
use crate::partition::create;
use crate::pg::relation::is_of_this_transaction;
use crate::pg::spi::{self, Access, Rows};
use crate::pg::{privileges, subtransaction};
use crate::saved_plan;
use crate::statistics::tokens::{MILLIONTHS, Tokens};
use pgrx::datum::{DatumWithOid, TimestampWithTimeZone};
use pgrx::prelude::*;
use pgrx::{Uuid, pg_sys};
use std::rc::Rc;

/// An entry that has been stored.
pub struct Written {
    pub id: Uuid,
    pub cost: Tokens,
}

/// Writes the entries of one call.
pub struct Writer {
    extension: Rc<Extension>,
    parent: pg_sys::Oid,
    last: Option<Moment>,
}

/// A moment that has a partition.
#[derive(Clone, Copy)]
struct Moment {
    now: i64,
    month: Month,
    partition: pg_sys::Oid,
}

/// What an INSERT does about a row in the way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OnConflict {
    Nothing,
    Raise,
}

impl Written {
    fn of(rows: &Rows) -> Option<Self> {
        let id = if rows.count() > 0 { rows.get(0, 1) } else { None };
        id.map(|id| Self { id, cost: rows.get(0, 2).map_or(Tokens::default(), Tokens::of_cost) })
    }
}

impl Writer {
    pub fn new() -> Self {
        let extension = Extension::current();
        let parent = extension.table(CACHE);
        Self { extension, parent, last: None }
    }

    /// Stores one entry when nobody else is writing it. An older version in an earlier month (or, after the clock was
    /// set back, a later one) is removed; the new one keeps its id and counts.
    pub fn store(&mut self, address: &Address, values: &Values, policy: &Policy) -> Written {
        // A client that writes to the table directly takes no lock, and can come between what is looked at and
        // what is written; then both are done again.
        const ATTEMPTS: usize = 10;
        let mut moved = Moved::default();
        let mut before = None;
        let mut unchanged = 0;
        for _ in 0..ATTEMPTS {
            let attempt = key_lock::with_key(address, |found| {
                let Some(write) = self.at_now() else { return Wrote::Openly(None) };
                let versions = found.versions.clone().unwrap_or_else(|| versions_by_statement(address));
                let found = Some((versions, found.exists));
                let again = before == found;
                let versions = found.as_ref().map_or(&[][..], |(versions, _)| versions);
                let written = write.write(address, versions, values, policy, &mut moved, again);
                write.wrote(Some((written, found)))
            });
            match attempt {
                // Once more from the top: the month may end meanwhile.
                None => create::create_current(&self.extension),
                Some((Some(written), _)) => return written,
                Some((None, found)) => {
                    unchanged = if before == found { unchanged + 1 } else { 0 };
                    before = found;
                }
            }
        }
        let is_there = before.is_some_and(|(_, exists)| exists);
        if unchanged <= ATTEMPTS / 2 || is_there && spi::uses_transaction_snapshot() {
            contended();
        }
        if is_there {
            kept_out();
        }
        // A row of another key is in the way, which a plain INSERT names; or something lets no row in.
        let written = key_lock::with_key(address, |_| {
            let Some(write) = self.at_now() else { return Wrote::Openly(None) };
            write.wrote(write.insert(address, values, policy, moved, OnConflict::Raise))
        });
        written.unwrap_or_else(|| kept_out())
    }

    /// Takes the moment; `None` when its month has no partition. Called with the key locked: of two writers of one key
    /// the later one then has the later moment, but for a batch that goes on with its last one.
    fn at_now(&mut self) -> Option<Write> {
        let now = create::current_moment(self.parent);
        let now = now.map(|(now, partition)| Moment { now, month: month_of(now), partition });
        self.last = now.or(self.last);
        self.last.map(|moment| Write { moment, parent: self.parent })
    }
}

/// The writing of one entry, to the partition of a moment's month.
struct Write {
    moment: Moment,
    parent: pg_sys::Oid,
}

impl Write {
    /// Writes an entry that has these versions; `None` when something kept it from that. `again`: it has found the same
    /// versions before, and could not remove those of other months.
    fn write(
        &self,
        address: &Address,
        versions: &[i64],
        values: &Values,
        policy: &Policy,
        moved: &mut Moved,
        again: bool,
    ) -> Option<Written> {
        let month = self.moment.month;
        let is_current = |moment: &&i64| (month.start()..month.end()).contains(*moment);
        let current = versions.iter().filter(is_current).count();
        let outdated = versions.len() - current;
        if outdated > 0 {
            let (bequeathed, removed) = self.remove(address);
            *moved = bequeathed.unwrap_or(*moved);
            // What the transaction's snapshot does not show it cannot delete; to commit would leave two.
            if removed < outdated && spi::uses_transaction_snapshot() {
                contended();
            }
            // Somebody has put another row in the place of one. What stays a second time a policy or trigger keeps.
            if removed < outdated && !again {
                return None;
            }
        }
        if current == 0 {
            self.insert(address, values, policy, *moved, OnConflict::Nothing)
        } else {
            self.update(address, values, policy)
        }
    }

    /// What others know of a write.
    fn wrote<T>(&self, written: T) -> Wrote<T> {
        if is_of_this_transaction(self.moment.partition) { Wrote::Hidden(written) } else { Wrote::Openly(written) }
    }

    /// The arguments of both statements below: the address, the values, and the month.
    fn args(&self, address: &Address, values: &Values, policy: &Policy) -> Vec<DatumWithOid<'static>> {
        let mut args = address.args();
        args.extend([
            values.content.into(),
            values.metadata.into(),
            spi::timestamptz(values.expiry(self.moment.now, policy)),
            values.token_cost.clone().unwrap_or_else(|| policy.token_cost.clone()).into(),
            optional_text(values.prompt_template),
            values.prompt_variables.into(),
            values.story_id.into(),
            optional_text(values.foundation_dependency),
            values.priority_tier.unwrap_or(policy.priority_tier).into(),
            optional_text(values.semantic_similarity_hash),
            values.reuse_score.clone().into(),
            spi::timestamptz(self.moment.now),
        ]);
        args
    }

    fn update(&self, address: &Address, values: &Values, policy: &Policy) -> Option<Written> {
        let mut args = self.args(address, values, policy);
        args.extend([spi::timestamptz(self.moment.month.start()), spi::timestamptz(self.moment.month.end())]);
        self.explained(address, || {
            saved_plan::run(
                Access::Write,
                "upsert: update",
                |schema| {
                    format!(
                        "UPDATE {schema}.infinite_pages_cache_partitioned SET \
                             content = $5, metadata = coalesce($6, '{{}}'), expires_at = $7, token_cost = $8, \
                             prompt_template = $9, prompt_variables = coalesce($10, '{{}}'), story_id = $11, \
                             foundation_dependency = $12, priority_tier = $13, semantic_similarity_hash = $14, \
                             reuse_score = coalesce($15, 5.0), created_at = $16 \
                         WHERE {} AND created_at >= $17 AND created_at < $18 RETURNING id, {MILLIONTHS}",
                        matching(schema)
                    )
                },
                &args,
                Written::of,
            )
        })
    }

    fn insert(
        &self,
        address: &Address,
        values: &Values,
        policy: &Policy,
        moved: Moved,
        on_conflict: OnConflict,
    ) -> Option<Written> {
        let (plan, clause) = match on_conflict {
            OnConflict::Nothing => ("upsert: insert", "ON CONFLICT DO NOTHING"),
            OnConflict::Raise => ("upsert: insert or raise", ""),
        };
        let mut args = self.args(address, values, policy);
        args.extend([
            moved.id.into(),
            moved.hit_count.into(),
            moved.adaptation_count.into(),
            moved.token_cost_saved.into(),
            moved.access_frequency.into(),
        ]);
        self.explained(address, || {
            saved_plan::run(
                Access::Write,
                plan,
                |schema| {
                    // The digest, $2, is passed for the sake of one list of arguments.
                    format!(
                        "INSERT INTO {schema}.infinite_pages_cache_partitioned \
                             (user_id, content_type, cache_key, content, metadata, expires_at, token_cost, \
                              prompt_template, prompt_variables, story_id, foundation_dependency, priority_tier, \
                              semantic_similarity_hash, reuse_score, created_at, last_accessed, \
                              id, hit_count, adaptation_count, token_cost_saved, access_frequency) \
                         VALUES ($1, $3, $4, $5, coalesce($6, '{{}}'), $7, $8, $9, coalesce($10, '{{}}'), $11, $12, $13, \
                                 $14, coalesce($15, 5.0), $16, $16, \
                                 coalesce($17, gen_random_uuid()), coalesce($18, 0), coalesce($19, 0), \
                                 coalesce($20, 0), coalesce($21, 1)) \
                         {clause} RETURNING id, {MILLIONTHS}"
                    )
                },
                &args,
                Written::of,
            )
        })
    }

    /// Removes versions of other months; returns what the newest of them bequeaths, and how many they were.
    fn remove(&self, address: &Address) -> (Option<Moved>, usize) {
        let mut args = address.args();
        args.extend([spi::timestamptz(self.moment.month.start()), spi::timestamptz(self.moment.month.end())]);
        let removed = saved_plan::run(
            Access::Write,
            "upsert: remove",
            |schema| {
                format!(
                    "DELETE FROM {schema}.infinite_pages_cache_partitioned \
                     WHERE {} AND (created_at < $5 OR created_at >= $6) \
                     RETURNING created_at, id, hit_count::bigint, adaptation_count::bigint, token_cost_saved::bigint, access_frequency::integer",
                    matching(schema)
                )
            },
            &args,
            |rows| {
                rows.map(|rows, row| {
                    let moved = Moved {
                        id: rows.get(row, 2),
                        hit_count: rows.get(row, 3),
                        adaptation_count: rows.get(row, 4),
                        token_cost_saved: rows.get(row, 5),
                        access_frequency: rows.get(row, 6),
                    };
                    (rows.get::<TimestampWithTimeZone>(row, 1).map(i64::from), moved)
                })
            },
        );
        let number = removed.len();
        (removed.into_iter().max_by_key(|(created_at, _)| *created_at).map(|(_, moved)| moved), number)
    }

    /// Runs a write, and tells its errors better: that row security refuses it because the session acts for another
    /// user, or that an index of the operator's own does because of another entry.
    fn explained<T>(&self, address: &Address, write: impl FnOnce() -> T) -> T {
        let is_restricted = privileges::is_restricted(self.parent);
        let explain = |code, message: &str, detail: Option<&str>| match code {
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE if is_restricted => {
                let acting = tenant::cache_current_user_id();
                (acting != Some(address.user_id)).then(|| not_own(acting, &address.user_id))
            }
            PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION | PgSqlErrorCode::ERRCODE_EXCLUSION_VIOLATION => Some(
                Refusal::new(code, message)
                    .detail(detail.unwrap_or("Another row has the same values."))
                    .hint("Store other values, remove the row that has these, or drop the index or constraint."),
            ),
            _ => None,
        };
        subtransaction::translate(write, explain)
    }
}

/// Refuses entries of another user before their keys are locked: a tenant that waits for another one's writers would
/// learn of them. Where it is not sure that row security refuses them, that has the say.
///
/// # Errors
/// 42501.
pub fn check_users<'a>(users: impl Iterator<Item = &'a Uuid>) {
    let acting = tenant::cache_current_user_id();
    let foreign = users.into_iter().find(|user| acting != Some(**user));
    if let Some(user) = foreign.filter(|_| Sight::is_of_own_writes(Extension::current().table(CACHE))) {
        not_own(acting, user).raise();
    }
}

fn not_own(acting: Option<Uuid>, user_id: &Uuid) -> Refusal {
    let acting = acting.map_or_else(|| "no user".to_string(), |user| format!("user {user}"));
    Refusal::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, "an entry of another user cannot be written")
        .detail(format!("The session acts for {acting}, the entry belongs to user {user_id}."))
        .hint("Set the claim sub in request.jwt.claims, or infinite_pages_cache.user_id, to the entry's user.")
}

/// What an entry keeps when its new version goes to another month.
#[derive(Clone, Copy, Default)]
struct Moved {
    id: Option<Uuid>,
    hit_count: Option<i64>,
    adaptation_count: Option<i64>,
    token_cost_saved: Option<i64>,
    access_frequency: Option<i32>,
}

/// Whether an entry is one that the caller may see, for a call that does nothing about others: a tenant that waits for
/// another one's writers, or reads another one's rows, would learn of them.
pub fn may_see(address: &Address) -> bool {
    let extension = Extension::current();
    let entries = Entries::current(&extension);
    match entries.partitions(&extension) {
        Some((_, Sight::OneUser)) => tenant::cache_current_user_id() == Some(address.user_id),
        Some(_) => true,
        None => !privileges::is_restricted(entries.table) || !versions_by_statement(address).is_empty(),
    }
}

/// When each version of an entry was made that is committed now, or written by this transaction, and that the caller
/// may see.
fn versions_by_statement(address: &Address) -> Vec<i64> {
    let sql = |schema: &str| {
        format!("SELECT created_at FROM {schema}.infinite_pages_cache_partitioned WHERE {}", matching(schema))
    };
    saved_plan::run(Access::ReadLatest, "upsert: versions", sql, &address.args(), |rows| {
        let moment = |rows: &Rows, row| rows.get::<TimestampWithTimeZone>(row, 1).expect("it is NOT NULL").into();
        rows.map(moment)
    })
}

fn optional_text(text: Option<&[u8]>) -> DatumWithOid<'static> {
    text.map_or_else(|| DatumWithOid::null_oid(pg_sys::TEXTOID), spi::text)
}

/// Nobody else writes the entry, and yet it cannot be written.
fn kept_out() -> ! {
    Refusal::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, "the entry cannot be written")
        .detail("A restrictive row security policy, or a trigger, keeps its row from being inserted or updated.")
        .hint("Look at the policies and triggers of infinite_pages_cache_partitioned.")
        .raise()
}

fn contended() -> ! {
    Refusal::new(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        "could not write the entry because of concurrent changes to it",
    )
    .detail("Another transaction wrote the same key, and this one cannot see or follow it.")
    .hint("Try the transaction again.")
    .raise()
}
