//! Drops partitions: a month in which nothing is live any more goes in one DROP TABLE.

use super::catalog::{Partition, forget_partitions, partitions_of};
use super::create::Table;
use super::dump_check::{self, AT_WORK};
use super::unused::is_new_and_unused;
use crate::access::all_rows::must_see_all;
use crate::access::{owner, service};
use crate::address::same_entry;
use crate::arguments;
use crate::calendar::{Month, month_of};
use crate::error::Refusal;
use crate::extension::{CACHE, Extension, POLICIES};
use crate::pg::clock::now;
use crate::pg::guc::with_setting;
use crate::pg::privileges;
use crate::pg::relation::qualified_name;
use crate::pg::spi::{self, Access};
use crate::pg::subtransaction::{self, Caught};
use crate::settings;
use crate::stale::StaleTimes;
use pgrx::prelude::*;
use std::cell::Cell;

/// What became of an old partition.
pub struct Retired {
    pub name: String,
    pub dropped: bool,
    /// Kept because another session holds it, or because of another error.
    pub busy: bool,
    /// Kept because a dump would miss it.
    pub dumped: bool,
    pub live_entries: i64,
    pub freed_bytes: i64,
    pub detail: String,
}

/// # Errors
/// 22023 if no month would be kept, 42501 unless the current user owns the table or is a service, and if row security may
/// hide entries.
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
    let months_to_keep = months_to_keep
        .unwrap_or_else(|| arguments::missing("months_to_keep").hint("Leave it out to keep 6 months.").raise());
    if months_to_keep < 1 {
        Refusal::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "months_to_keep must be at least 1")
            .detail(format!("It is {months_to_keep}."))
            .hint("1 keeps the current month only.")
            .raise();
    }
    let extension = Extension::current();
    let parent = extension.table(CACHE);
    let this = month_of(now());
    let oldest_kept = this.plus(1 - i64::from(months_to_keep)).map_or(i64::MIN, Month::start);
    let old = partitions_of(parent).into_iter().filter(|partition| partition.to <= oldest_kept).collect();
    let include_live = include_live.unwrap_or(false);
    let retire_old = || {
        // Live entries are counted even if they are to be dropped.
        must_see_all(&extension, &[CACHE]);
        retire(&extension, Table::Cache, old, include_live, settings::LOCK_TIMEOUT.get())
    };
    let retired = if service::is_service(parent) {
        privileges::confined_to_owner_of(parent, retire_old)
    } else {
        let hint = "Run it as the owner, or as a service role.";
        owner::must_own(&extension, CACHE, "Only the owner of a table can drop its partitions.", hint);
        retire_old()
    };
    TableIterator::new(
        retired.into_iter().map(|old| (old.name, old.dropped, old.live_entries, old.freed_bytes, old.detail)),
    )
}

/// Returns the dead months, except one that hides entries of an older month which are not over, and one just made that is still empty,
/// because its maker may be about to fill it.
///
/// # Errors
/// 42501 if row security may hide entries.
pub fn dead_months(extension: &Extension) -> Vec<Partition> {
    must_see_all(extension, &[CACHE, POLICIES]);
    let now = now();
    let past = partitions_of(extension.table(CACHE)).into_iter().filter(|partition| partition.to <= now);
    let past = past.filter(|month| !is_new_and_unused(month.oid));
    past.filter(|month| !has_kept_entries(extension, Table::Cache, month) && !hides_kept_entries(extension, month))
        .collect()
}

/// Whether a month holds newer versions of entries that are not over in an older month. Clients that insert a key in one month
/// after the other leave such. Without the newer version, the older one would be found again.
fn hides_kept_entries(extension: &Extension, partition: &Partition) -> bool {
    let schema = &extension.schema;
    let sql = format!(
        "SELECT FROM {schema}.{CACHE} n JOIN {schema}.{CACHE} o ON {} \
         WHERE n.created_at >= $1 AND n.created_at < $2 AND o.created_at < $1 AND NOT {} LIMIT 1",
        same_entry(schema, "o", "n"),
        StaleTimes::read(extension).is_over("o.", now())
    );
    let args = [spi::timestamptz(partition.from), spi::timestamptz(partition.to)];
    spi::run(Access::ReadLatest, &sql, &args, |rows| rows.count() > 0)
}

/// Drops partitions, except those that hold an entry that is not over unless `include_live`. Keeps all while a dump is at work, or if
/// the table cannot be locked within `wait` milliseconds.
///
/// # Errors
/// 42501 if row security may hide live entries.
pub fn retire(extension: &Extension, table: Table, old: Vec<Partition>, include_live: bool, wait: i32) -> Vec<Retired> {
    if table == Table::Cache && !include_live {
        must_see_all(extension, &[CACHE, POLICIES]);
    }
    let dump_at_work = dump_check::is_at_work(extension);
    let mut parent_locked = None;
    let mut retired = Vec::with_capacity(old.len());
    for partition in old {
        let mut one = Retired {
            name: partition.name(),
            dropped: false,
            busy: false,
            dumped: false,
            live_entries: 0,
            freed_bytes: 0,
            detail: String::new(),
        };
        let has_kept_entries = has_kept_entries(extension, table, &partition);
        if has_kept_entries {
            one.live_entries = live_entries(extension, &partition);
        }
        if one.live_entries > 0 && !include_live {
            one.detail = "kept: it holds live entries".into();
        } else if has_kept_entries && !include_live {
            one.detail = "kept: it holds expired entries within their stale_ttl".into();
        } else if table == Table::Cache && !include_live && hides_kept_entries(extension, &partition) {
            // A dead month held nothing of the kind when it was chosen. The worker may have committed since then.
            one.detail = "kept: it hides live entries of older months".into();
        } else if dump_at_work {
            one.dumped = true;
            one.detail = format!("kept: {AT_WORK}");
        } else {
            let locked = parent_locked.get_or_insert_with(|| lock_parent(extension, table, wait));
            let outcome = match locked {
                // Another session has dropped it, or detached it to keep it.
                Ok(partitions) if !partitions.contains(&partition.oid) => continue,
                Ok(_) => drop_unless_busy(extension, table, &partition, include_live),
                Err(caught) => Err(caught.clone()),
            };
            match outcome {
                Ok(Dropped::Freed(bytes)) => {
                    one.dropped = true;
                    one.freed_bytes = bytes;
                    one.detail = "dropped".into();
                }
                Ok(Dropped::NotDead) => one.detail = "kept: an entry came to life while it was locked".into(),
                Ok(Dropped::NotForDump) => {
                    one.dumped = true;
                    one.detail = format!("kept: {AT_WORK}");
                }
                Err(caught) => {
                    one.busy = true;
                    one.detail = format!("kept: {caught}");
                }
            }
        }
        retired.push(one);
    }
    retired
}

/// Locks a table, so that its partitions can be dropped, and returns those that it then has. The wait is bounded, because
/// new sessions queue behind it; after it none of them can lock a partition. A session that waits for a row that this
/// transaction has deleted may hold the lock that this one waits for. deadlock_timeout = 1ms makes this one find the
/// deadlock, and give up, first.
fn lock_parent(extension: &Extension, table: Table, wait: i32) -> Result<Vec<pg_sys::Oid>, Caught> {
    subtransaction::attempt(|| {
        let sql = format!("LOCK TABLE ONLY {}.{} IN ACCESS EXCLUSIVE MODE", extension.schema, table.name());
        with_setting(c"lock_timeout", &format!("{wait}ms"), || {
            with_setting(c"deadlock_timeout", "1ms", || spi::execute(&sql));
        });
        let parent = extension.table(table.name());
        forget_partitions(parent);
        partitions_of(parent).iter().map(|partition| partition.oid).collect()
    })
}

/// What became of a partition that was to be dropped.
enum Dropped {
    /// It is gone, and freed this many bytes.
    Freed(i64),
    /// It holds a live entry after all.
    NotDead,
    /// A dump has connected meanwhile, so the drop was rolled back.
    NotForDump,
}

/// Drops a partition of a locked table, unless another session holds the partition itself: to wait for that would hold up
/// every session.
fn drop_unless_busy(
    extension: &Extension,
    table: Table,
    partition: &Partition,
    include_live: bool,
) -> Result<Dropped, Caught> {
    let gave_up = Cell::new(false);
    let outcome = subtransaction::attempt(|| {
        let name = qualified_name(partition.oid);
        let sql = format!("LOCK TABLE ONLY {name} IN ACCESS EXCLUSIVE MODE NOWAIT");
        spi::execute(&sql);
        if !include_live && has_kept_entries(extension, table, partition) {
            return Dropped::NotDead;
        }
        let bytes = spi::run(
            Access::ReadLatest,
            "SELECT pg_total_relation_size($1::oid::regclass)",
            &[partition.oid.into()],
            |rows| rows.get::<i64>(0, 1).unwrap_or(0),
        );
        spi::execute(&format!("DROP TABLE {name}"));
        dump_check::ask_at_commit();
        // Checked last, because triggers on the DROP may take long; the worker commits right after it.
        gave_up.set(dump_check::is_at_work(extension));
        if gave_up.get() {
            dump_check::refusal(AT_WORK, "").raise();
        }
        Dropped::Freed(bytes)
    });
    if gave_up.get() { Ok(Dropped::NotForDump) } else { outcome }
}

/// Whether a partition holds an entry that is not over; one of the audit log never does. The index on expires_at finds it.
fn has_kept_entries(extension: &Extension, table: Table, partition: &Partition) -> bool {
    let is_kept = || {
        let (stale_times, now) = (StaleTimes::read(extension), now());
        let last = format!("AND NOT {} ORDER BY expires_at DESC LIMIT 1", stale_times.is_over("", now));
        query_after(extension, partition, stale_times.all_over_until(now), "SELECT 1::bigint FROM", &last).is_some()
    };
    table == Table::Cache && is_kept()
}

fn live_entries(extension: &Extension, partition: &Partition) -> i64 {
    query_after(extension, partition, now(), "SELECT count(*) FROM", "").unwrap_or(0)
}

/// Runs a query on the entries of a partition that expire after a time.
fn query_after(extension: &Extension, partition: &Partition, time: i64, select: &str, rest: &str) -> Option<i64> {
    let sql = format!(
        "{select} {}.{CACHE} \
         WHERE created_at >= $1 AND created_at < $2 AND expires_at > $3 {rest}",
        extension.schema
    );
    let args = [spi::timestamptz(partition.from), spi::timestamptz(partition.to), spi::timestamptz(time)];
    spi::run(Access::ReadLatest, &sql, &args, |rows| if rows.count() > 0 { rows.get(0, 1) } else { None })
}
