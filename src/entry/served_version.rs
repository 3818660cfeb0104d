//! The newest version of an entry as cache_fetch() serves it, live or stale, with its times.

use super::freshness::Freshness;
use super::newest_version::{self, newest};
use super::user_rows::Row;
use crate::address::{Address, matching};
use crate::extension::{CACHE, saved_plan};
use crate::pg::clock;
use crate::pg::jsonb::RawJsonb;
use crate::pg::memory::Memory;
use crate::pg::snapshot::with_next;
use crate::pg::spi::{self, Access, Rows};
use crate::statistics::Hit;
use crate::statistics::tokens::{MILLIONTHS, Tokens};
use pgrx::datum::TimestampWithTimeZone;

/// A version of an entry. Moments are in microseconds since 2000-01-01 UTC.
#[derive(Clone, Copy)]
pub struct Served<'a> {
    pub content: RawJsonb<'a>,
    pub hit: Hit,
    pub freshness: Freshness,
    pub created_at: Option<i64>,
    pub expires_at: i64,
}

/// What there is of an entry.
#[derive(Clone, Copy)]
pub enum Newest<'a> {
    /// The newest version is live or stale.
    Served(Served<'a>),
    /// The newest version expired too long ago.
    Over,
    Nothing,
}

impl Served<'_> {
    pub fn is_live(&self) -> bool {
        self.freshness == Freshness::Live
    }
}

impl<'a> Newest<'a> {
    /// Looks for an entry as a new statement would. At READ COMMITTED it finds what is committed now.
    pub fn of(address: &Address, stale_ttl: i64, memory: Memory<'a>) -> Self {
        let mut found = Self::Nothing;
        let read = |row: &Row| of_row(row, stale_ttl, memory);
        if with_next(|snapshot| newest(snapshot, &[address], read, |_, version| found = version)) {
            found
        } else {
            by_statement(address, stale_ttl, memory)
        }
    }

    pub fn served(self) -> Option<Served<'a>> {
        match self {
            Self::Served(version) => Some(version),
            Self::Over | Self::Nothing => None,
        }
    }
}

fn of_row<'a>(row: &Row, stale_ttl: i64, memory: Memory<'a>) -> Newest<'a> {
    let columns = newest_version::values(row);
    let Some(expires_at) = row.tuple.timestamptz(columns.expires_at) else { return Newest::Over };
    let freshness = Freshness::of(expires_at, stale_ttl, clock::now());
    let content = if freshness == Freshness::Over { None } else { row.tuple.jsonb(columns.content, memory) };
    let Some(content) = content else { return Newest::Over };
    let created_at = row.tuple.timestamptz(row.columns.created_at);
    Newest::Served(Served { content, hit: newest_version::hit(row), freshness, created_at, expires_at })
}

fn by_statement<'a>(address: &Address, stale_ttl: i64, memory: Memory<'a>) -> Newest<'a> {
    let sql = |schema: &str| {
        format!(
            "SELECT CASE WHEN expires_at OPERATOR(pg_catalog.>) $5 THEN content END, {MILLIONTHS}, id, \
                    CAST(created_at AS pg_catalog.timestamptz), CAST(expires_at AS pg_catalog.timestamptz) \
             FROM {schema}.{CACHE} WHERE {} ORDER BY created_at DESC LIMIT 1",
            matching(schema)
        )
    };
    let now = clock::now();
    let mut args = address.args();
    args.push(spi::timestamptz(now.saturating_sub(stale_ttl)));
    let access = if spi::uses_transaction_snapshot() { Access::Read } else { Access::ReadLatest };
    saved_plan::run(access, "fetch", sql, &args, |rows| {
        if rows.count() == 0 {
            return Newest::Nothing;
        }
        let moment = |column| rows.get::<TimestampWithTimeZone>(0, column).map(i64::from);
        match (rows.jsonb(0, 1, memory), moment(5)) {
            (Some(content), Some(expires_at)) => Newest::Served(Served {
                content,
                hit: hit(rows),
                freshness: Freshness::of(expires_at, stale_ttl, now),
                created_at: moment(4),
                expires_at,
            }),
            _ => Newest::Over,
        }
    })
}

fn hit(rows: &Rows) -> Hit {
    Hit { id: rows.uuid(0, 3), cost: rows.get(0, 2).map(Tokens::of_cost) }
}
