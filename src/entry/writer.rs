//! The writing of entries: one live entry per address, whatever the month and whoever writes at the same
//! time.

use super::values::Values;
use super::{Address, matching, probe};
use crate::clock::month_of;
use crate::error::Refusal;
use crate::home::{CACHE, Home};
use crate::kept;
use crate::partition::create;
use crate::partition::month::Month;
use crate::partition::sight::Sight;
use crate::policy::Policy;
use crate::spi::{self, Access, Rows};
use crate::statistics::tokens::{MILLIONTHS, Tokens};
use crate::{catch, owner, tenant};
use pgrx::datum::{DatumWithOid, TimestampWithTimeZone};
use pgrx::prelude::*;
use pgrx::{Uuid, pg_sys};

/// An entry that has been stored.
pub struct Written {
    pub id: Uuid,
    pub cost: Tokens,
}

/// Writes entries of one moment, to the partition of that moment's month.
pub struct Writer {
    now: i64,
    month: Month,
    parent: pg_sys::Oid,
}

impl Written {
    fn of(rows: &Rows) -> Option<Self> {
        let id = if rows.count() > 0 { rows.get(0, 1) } else { None };
        id.map(|id| Self { id, cost: rows.get(0, 2).map_or(Tokens::default(), Tokens::of_cost) })
    }
}

impl Writer {
    /// Takes the moment and makes sure of its partition. Called with the keys locked: of two writers of
    /// one key the later one then has the later moment.
    pub fn begin() -> Self {
        let home = Home::current();
        let parent = home.table(CACHE);
        let now = create::ensure_current(&home, parent);
        let month = month_of(now);
        Self { now, month, parent }
    }

    /// Stores one entry, whose key is locked, and of which there are these versions. An older version in an earlier
    /// month (or, after the clock was set back, a later one) is removed; the new one keeps its id and counts.
    pub fn write(&self, address: &Address, mut versions: Vec<i64>, values: &Values, policy: &Policy) -> Written {
        // A client that inserts into the table directly takes no lock, and can come between the
        // statements below; then they are run again.
        const ATTEMPTS: usize = 10;
        let mut moved = Moved::default();
        let mut unchanged = 0;
        for _ in 0..ATTEMPTS {
            let is_current = |moment: &&i64| (self.month.start()..self.month.end()).contains(*moment);
            let current = versions.iter().filter(is_current).count();
            let outdated = versions.len() - current;
            if outdated > 0 {
                moved = self.remove(address, outdated).unwrap_or(moved);
            }
            let written = if current == 0 {
                self.insert(address, values, policy, moved)
            } else {
                self.update(address, values, policy)
            };
            if let Some(written) = written {
                return written;
            }
            let found = self::versions(&[address]).remove(0);
            unchanged = if found == versions { unchanged + 1 } else { 0 };
            versions = found;
        }
        if unchanged > ATTEMPTS / 2 && !spi::uses_transaction_snapshot() { kept_out() } else { contended() }
    }

    /// The arguments of both statements below: the address, the values, and the month.
    fn args(&self, address: &Address, values: &Values, policy: &Policy) -> Vec<DatumWithOid<'static>> {
        let mut args = address.args();
        args.extend([
            values.content.into(),
            values.metadata.into(),
            spi::timestamptz(values.expiry(self.now, policy)),
            values.token_cost.clone().unwrap_or_else(|| policy.token_cost.clone()).into(),
            optional_text(values.prompt_template),
            values.prompt_variables.into(),
            values.story_id.into(),
            optional_text(values.foundation_dependency),
            values.priority_tier.unwrap_or(policy.priority_tier).into(),
            optional_text(values.semantic_similarity_hash),
            values.reuse_score.clone().into(),
            spi::timestamptz(self.now),
        ]);
        args
    }

    fn update(&self, address: &Address, values: &Values, policy: &Policy) -> Option<Written> {
        let mut args = self.args(address, values, policy);
        args.extend([spi::timestamptz(self.month.start()), spi::timestamptz(self.month.end())]);
        self.as_tenant(address, || {
            kept::run(
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

    fn insert(&self, address: &Address, values: &Values, policy: &Policy, moved: Moved) -> Option<Written> {
        let mut args = self.args(address, values, policy);
        args.extend([
            moved.id.into(),
            moved.hit_count.into(),
            moved.adaptation_count.into(),
            moved.token_cost_saved.into(),
            moved.access_frequency.into(),
        ]);
        self.as_tenant(address, || {
            kept::run(
                Access::Write,
                "upsert: insert",
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
                         ON CONFLICT DO NOTHING RETURNING id, {MILLIONTHS}"
                    )
                },
                &args,
                Written::of,
            )
        })
    }

    /// Removes versions of other months; returns what the newest of them bequeaths.
    fn remove(&self, address: &Address, outdated: usize) -> Option<Moved> {
        let mut args = address.args();
        args.extend([spi::timestamptz(self.month.start()), spi::timestamptz(self.month.end())]);
        let removed = kept::run(
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
        // What the transaction's snapshot does not show it cannot delete; to commit would leave two.
        if removed.len() < outdated && spi::uses_transaction_snapshot() {
            contended();
        }
        removed.into_iter().max_by_key(|(created_at, _)| *created_at).map(|(_, moved)| moved)
    }

    /// Runs a write; if row security refuses it because the session acts for another user, says so.
    fn as_tenant<T>(&self, address: &Address, write: impl FnOnce() -> T) -> T {
        if !owner::is_restricted(self.parent) {
            return write();
        }
        catch::translate(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, write, || {
            let acting = tenant::cache_current_user_id();
            (acting != Some(address.user_id)).then(|| not_own(acting, &address.user_id))
        })
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
    if let Some(user) = foreign.filter(|_| Sight::is_of_own_writes(Home::current().table(CACHE))) {
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

/// When each version of each entry was made that is committed now, or written by this transaction.
pub fn versions(addresses: &[&Address]) -> Vec<Vec<i64>> {
    let by_statement = |address: &&Address| {
        let sql = |schema: &str| {
            format!("SELECT created_at FROM {schema}.infinite_pages_cache_partitioned WHERE {}", matching(schema))
        };
        kept::run(Access::ReadLatest, "upsert: versions", sql, &address.args(), |rows| {
            let moment = |rows: &Rows, row| rows.get::<TimestampWithTimeZone>(row, 1).expect("it is NOT NULL").into();
            rows.map(moment)
        })
    };
    probe::versions(addresses).unwrap_or_else(|| addresses.iter().map(by_statement).collect())
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
