//! Retirement of partitions: a month in which nothing is live any more goes in one DROP.

use super::catalog::{Partition, partitions_of, qualified_name};
use super::create::Table;
use super::month::Month;
use crate::catch;
use crate::clock::now;
use crate::error::Refusal;
use crate::home::{CACHE, Home};
use crate::setting_scope::with_setting;
use crate::settings;
use crate::spi::{self, Access};
use pgrx::prelude::*;

/// What became of an old partition.
pub struct Retired {
    pub name: String,
    pub dropped: bool,
    pub live_entries: i64,
    pub freed_bytes: i64,
    pub detail: String,
}

/// # Errors
/// 22023 when no month would be kept.
#[pg_extern(sql = false)]
fn drop_old_cache_partitions(
    months_to_keep: Option<i32>,
    include_live: Option<bool>,
) -> TableIterator<
    'static,
    (
        name!(partition_name, String),
        name!(dropped, bool),
        name!(live_entries, i64),
        name!(freed_bytes, i64),
        name!(detail, String),
    ),
> {
    let months_to_keep = months_to_keep.unwrap_or(6);
    if months_to_keep < 1 {
        Refusal::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "months_to_keep must be at least 1")
            .detail(format!("It is {months_to_keep}."))
            .hint("1 keeps the current month only.")
            .raise();
    }
    let home = Home::current();
    let parent = home.table(CACHE);
    let this = Month::of(now()).expect("the clock shows a year with four digits");
    let oldest_kept = this.plus(1 - i64::from(months_to_keep)).map_or(i64::MIN, Month::start);
    let old = partitions_of(parent).into_iter().filter(|partition| partition.to <= oldest_kept).collect();
    let retired = retire(&home, Table::Cache, old, include_live.unwrap_or(false), settings::LOCK_TIMEOUT.get());
    TableIterator::new(
        retired.into_iter().map(|old| (old.name, old.dropped, old.live_entries, old.freed_bytes, old.detail)),
    )
}

/// Drops the months that are over and hold nothing live. Waits so many milliseconds for the lock.
pub fn drop_dead_months(home: &Home, wait: i32) -> Vec<Retired> {
    let now = now();
    let over = partitions_of(home.table(CACHE)).into_iter().filter(|partition| partition.to <= now).collect();
    retire(home, Table::Cache, over, false, wait).into_iter().filter(|old| old.live_entries == 0).collect()
}

/// Drops partitions, but for those that hold a live entry unless `include_live`. What cannot be locked
/// in so many milliseconds is kept.
pub fn retire(home: &Home, table: Table, old: Vec<Partition>, include_live: bool, wait: i32) -> Vec<Retired> {
    let mut parent_locked = None;
    let mut retired = Vec::with_capacity(old.len());
    for partition in old {
        let live_entries = live_entries(home, table, &partition);
        let mut one =
            Retired { name: partition.name(), dropped: false, live_entries, freed_bytes: 0, detail: String::new() };
        if live_entries > 0 && !include_live {
            one.detail = "kept: it holds live entries".into();
        } else {
            let locked = parent_locked.get_or_insert_with(|| lock_parent(home, table, wait));
            let outcome = match locked {
                Ok(()) => drop_unless_busy(home, table, &partition, include_live),
                Err(message) => Err(message.clone()),
            };
            match outcome {
                Ok(Some(bytes)) => {
                    one.dropped = true;
                    one.freed_bytes = bytes;
                    one.detail = "dropped".into();
                }
                Ok(None) => one.detail = "kept: an entry came to life while it was locked".into(),
                Err(message) => one.detail = format!("kept: {message}"),
            }
        }
        retired.push(one);
    }
    retired
}

/// Locks a table, so that its partitions can be dropped. Whoever comes meanwhile queues behind this
/// wait, which is why it is bounded; nobody new can lock a partition once it is over.
fn lock_parent(home: &Home, table: Table, wait: i32) -> Result<(), String> {
    catch::attempt(|| {
        with_setting(c"lock_timeout", &format!("{wait}ms"), || {
            let sql = format!("LOCK TABLE ONLY {}.{} IN ACCESS EXCLUSIVE MODE", home.schema, table.name());
            spi::run(Access::Write, &sql, &[], |_| ());
        });
    })
    .map_err(|failure| failure.message)
}

/// Drops a partition of a locked table, unless somebody holds the partition itself: to wait for that one
/// would hold up everybody. Returns the bytes freed, or `None` when it holds a live entry after all.
fn drop_unless_busy(
    home: &Home,
    table: Table,
    partition: &Partition,
    include_live: bool,
) -> Result<Option<i64>, String> {
    let name = qualified_name(partition.oid);
    catch::attempt(|| {
        let sql = format!("LOCK TABLE ONLY {name} IN ACCESS EXCLUSIVE MODE NOWAIT");
        spi::run(Access::Write, &sql, &[], |_| ());
        if !include_live && live_entries(home, table, partition) > 0 {
            return None;
        }
        let bytes = spi::run(
            Access::ReadLatest,
            "SELECT pg_total_relation_size($1::oid::regclass)",
            &[partition.oid.into()],
            |rows| rows.get::<i64>(0, 1).unwrap_or(0),
        );
        spi::run(Access::Write, &format!("DROP TABLE {name}"), &[], |_| ());
        Some(bytes)
    })
    .map_err(|failure| failure.message)
}

/// Live entries of a partition; of the audit log there are none.
fn live_entries(home: &Home, table: Table, partition: &Partition) -> i64 {
    if table != Table::Cache {
        return 0;
    }
    let sql = format!(
        "SELECT count(*) FROM {}.infinite_pages_cache_partitioned \
         WHERE created_at >= $1 AND created_at < $2 AND expires_at > $3",
        home.schema
    );
    let args = [spi::timestamptz(partition.from), spi::timestamptz(partition.to), spi::timestamptz(now())];
    spi::run(Access::ReadLatest, &sql, &args, |rows| rows.get(0, 1).unwrap_or(0))
}
