//! The statements that write one entry, whose key is locked.

use super::columns::{self, Column, Moved, NewVersion};
use super::key_lock::Locked;
use super::write_rights::not_own;
use crate::access::tenant;
use crate::address::matching;
use crate::calendar::Month;
use crate::error::Refusal;
use crate::extension::{CACHE, saved_plan};
use crate::pg::spi::{self, Access, Rows};
use crate::pg::{privileges, subtransaction};
use crate::statistics::tokens::{MILLIONTHS, Tokens};
use pgrx::Uuid;
use pgrx::datum::{DatumWithOid, TimestampWithTimeZone};
use pgrx::prelude::*;

/// An entry that has been stored.
pub struct Written {
    pub id: Uuid,
    pub cost: Tokens,
}

impl Written {
    fn of(rows: &Rows) -> Option<Self> {
        let id = if rows.count() > 0 { rows.get(0, 1) } else { None };
        id.map(|id| Self { id, cost: rows.get(0, 2).map_or(Tokens::default(), Tokens::of_cost) })
    }
}

/// What an INSERT does about a conflicting row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum OnConflict {
    Nothing,
    Raise,
}

/// Returns the arguments of the address, $1 to $4, and those of columns, from $5 on.
fn args<'a>(
    key: &Locked,
    columns: impl Iterator<Item = &'static Column>,
    new: &NewVersion<'a>,
) -> Vec<DatumWithOid<'a>> {
    key.address().args().into_iter().chain(columns.map(|column| column.argument(new))).collect()
}

/// The number of the argument of the first column.
const FIRST: usize = 5;

/// Updates the version of a month; `None` if there is none.
pub fn update(key: &Locked, new: &NewVersion, month: Month) -> Option<Written> {
    let mut args = args(key, columns::updated(), new);
    let (start, end) = (args.len() + 1, args.len() + 2);
    args.extend([spi::timestamptz(month.start()), spi::timestamptz(month.end())]);
    let sql = |schema: &str| {
        let assignments: Vec<String> = columns::updated()
            .zip(FIRST..)
            .map(|(column, number)| format!("{} = {}", column.name, column.expression(number)))
            .collect();
        format!(
            "UPDATE {schema}.{CACHE} SET {} \
             WHERE {} AND created_at >= ${start} AND created_at < ${end} RETURNING id, {MILLIONTHS}",
            assignments.join(", "),
            matching(schema)
        )
    };
    explained(key, || saved_plan::run(Access::Write, "upsert: update", sql, &args, Written::of))
}

/// Inserts the first version of a month; `None` if a row conflicts and no error is wanted.
pub fn insert(key: &Locked, new: &NewVersion, on_conflict: OnConflict) -> Option<Written> {
    let (plan, clause) = match on_conflict {
        OnConflict::Nothing => ("upsert: insert", "ON CONFLICT DO NOTHING"),
        OnConflict::Raise => ("upsert: insert or raise", ""),
    };
    let sql = |schema: &str| {
        let names: Vec<&str> = columns::inserted().map(|column| column.name).collect();
        let values: Vec<String> =
            columns::inserted().zip(FIRST..).map(|(column, number)| column.expression(number)).collect();
        // No column holds $2, the digest.
        format!(
            "INSERT INTO {schema}.{CACHE} (user_id, content_type, cache_key, {}) \
             VALUES ($1, $3, $4, {}) {clause} RETURNING id, {MILLIONTHS}",
            names.join(", "),
            values.join(", ")
        )
    };
    let args = args(key, columns::inserted(), new);
    explained(key, || saved_plan::run(Access::Write, plan, sql, &args, Written::of))
}

/// Deletes the versions of all other months; returns what the new version keeps of the newest, and how many were deleted.
pub fn remove_others(key: &Locked, month: Month) -> (Option<Moved>, usize) {
    let mut args = key.address().args();
    args.extend([spi::timestamptz(month.start()), spi::timestamptz(month.end())]);
    let sql = |schema: &str| {
        format!(
            "DELETE FROM {schema}.{CACHE} \
             WHERE {} AND (created_at < $5 OR created_at >= $6) \
             RETURNING created_at, id, hit_count::bigint, adaptation_count::bigint, token_cost_saved::bigint, access_frequency::integer",
            matching(schema)
        )
    };
    let removed = saved_plan::run(Access::Write, "upsert: remove", sql, &args, |rows| {
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
    });
    let number = removed.len();
    (removed.into_iter().max_by_key(|(created_at, _)| *created_at).map(|(_, moved)| moved), number)
}

/// Runs a write, and explains two of its errors: row security refuses it because the session acts for another user, or an
/// index of the operator's own because of another entry.
fn explained<T>(key: &Locked, write: impl FnOnce() -> T) -> T {
    let is_restricted = privileges::is_restricted(key.table());
    let user_id = key.address().user_id;
    let explain = |code, message: &str, detail: Option<&str>| match code {
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE if is_restricted => {
            let acting = tenant::cache_current_user_id();
            (acting != Some(user_id)).then(|| not_own(acting, &user_id))
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
