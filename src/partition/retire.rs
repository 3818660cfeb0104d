//! Retirement of partitions: a month in which nothing is live any more goes in one DROP.

#![allow(unsafe_code)]

use super::catalog::{Partition, partitions_of, qualified_name};
use super::create::Table;
use super::month::Month;
use crate::catch::{self, Failure};
use crate::clock::now;
use crate::error::Refusal;
use crate::home::{CACHE, Home};
use crate::setting_scope::with_setting;
use crate::settings;
use crate::spi::{self, Access};
use pgrx::pg_sys;
use pgrx::prelude::*;

/// Tries to lock before a drop is left to the next run.
const ATTEMPTS: u32 = 3;

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
    let old = partitions_of(parent).into_iter().filter(|partition| partition.to <= oldest_kept);
    let retired: Vec<Retired> =
        old.map(|partition| retire(&home, Table::Cache, &partition, include_live.unwrap_or(false))).collect();
    TableIterator::new(
        retired.into_iter().map(|old| (old.name, old.dropped, old.live_entries, old.freed_bytes, old.detail)),
    )
}

/// Drops the months that are over and hold nothing live.
pub fn drop_dead_months(home: &Home) -> Vec<Retired> {
    let now = now();
    let over = partitions_of(home.table(CACHE)).into_iter().filter(|partition| partition.to <= now);
    over.map(|partition| retire(home, Table::Cache, &partition, false)).filter(|old| old.live_entries == 0).collect()
}

/// Drops a partition, unless it holds a live entry and `include_live` is false.
pub fn retire(home: &Home, table: Table, partition: &Partition, include_live: bool) -> Retired {
    let name = partition.name();
    let live_entries = live_entries(home, table, partition);
    let mut retired = Retired { name, dropped: false, live_entries, freed_bytes: 0, detail: String::new() };
    if live_entries > 0 && !include_live {
        retired.detail = "kept: it holds live entries".into();
        return retired;
    }
    match drop_when_locked(home, table, partition, include_live) {
        Ok(Some(bytes)) => {
            retired.dropped = true;
            retired.freed_bytes = bytes;
            retired.detail = "dropped".into();
        }
        Ok(None) => retired.detail = "kept: an entry came to life while it was locked".into(),
        Err(failure) => retired.detail = format!("kept: {}", failure.message),
    }
    retired
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

/// Drops a partition with a bounded wait for its lock and its parent's, so that what queues behind the
/// wait is held up no longer than infinite_pages_cache.lock_timeout. Returns the bytes freed, or `None`
/// when the locked partition holds a live entry after all.
fn drop_when_locked(
    home: &Home,
    table: Table,
    partition: &Partition,
    include_live: bool,
) -> Result<Option<i64>, Failure> {
    let (schema, parent) = (&home.schema, table.name());
    let partition_name = qualified_name(partition.oid);
    let timeout = format!("{}ms", settings::LOCK_TIMEOUT.get());
    let mut attempts = 0;
    loop {
        let result = catch::attempt(|| {
            with_setting(c"lock_timeout", &timeout, || {
                let sql = format!("LOCK TABLE ONLY {schema}.{parent}, {partition_name} IN ACCESS EXCLUSIVE MODE");
                spi::run(Access::Write, &sql, &[], |_| ());
            });
            if !include_live && live_entries(home, table, partition) > 0 {
                return None;
            }
            let bytes = spi::run(
                Access::ReadLatest,
                "SELECT pg_total_relation_size($1::oid::regclass)",
                &[partition.oid.into()],
                |rows| rows.get::<i64>(0, 1).unwrap_or(0),
            );
            spi::run(Access::Write, &format!("DROP TABLE {partition_name}"), &[], |_| ());
            Some(bytes)
        });
        attempts += 1;
        match result {
            Err(failure) if failure.code == PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE && attempts < ATTEMPTS => {
                pause()
            }
            result => return result,
        }
    }
}

/// Waits 50 to 150 ms, so that those who queued behind the last attempt go first.
fn pause() {
    // SAFETY: sleeps; the number of microseconds is taken from the clock.
    unsafe {
        pg_sys::pg_usleep((50_000 + now().rem_euclid(100_000)) as core::ffi::c_long);
    }
    pgrx::check_for_interrupts!();
}
