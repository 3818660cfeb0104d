//! Retirement of partitions: a month in which nothing is live any more goes in one DROP.

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
use crate::extension::{CACHE, Extension};
use crate::pg::clock::now;
use crate::pg::guc::with_setting;
use crate::pg::privileges;
use crate::pg::relation::qualified_name;
use crate::pg::spi::{self, Access};
use crate::pg::subtransaction::{self, Caught};
use crate::settings;
use pgrx::prelude::*;
use std::cell::Cell;

/// What became of an old partition.
pub struct Retired {
    pub name: String,
    pub dropped: bool,
    /// Kept since somebody holds it, or something else went wrong.
    pub busy: bool,
    /// Kept since a dump would miss it.
    pub dumped: bool,
    pub live_entries: i64,
    pub freed_bytes: i64,
    pub detail: String,
}

/// # Errors
/// 22023 when no month would be kept, 42501 unless the current user owns the table or is a service, and where row security
/// may hide entries.
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
        // The live entries are counted also where they are to go.
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

/// The months that are over and hold nothing live, and nothing that hides what lives in an older one. One that somebody
/// has just made, to fill it, is none yet.
///
/// # Errors
/// 42501 where row security may hide entries.
pub fn dead_months(extension: &Extension) -> Vec<Partition> {
    must_see_all(extension, &[CACHE]);
    let now = now();
    let over = partitions_of(extension.table(CACHE)).into_iter().filter(|partition| partition.to <= now);
    let over = over.filter(|month| !is_new_and_unused(month.oid));
    over.filter(|month| !has_live_entries(extension, Table::Cache, month) && !hides_live_entries(extension, month))
        .collect()
}

/// Whether a month has the newest versions of entries of which older months have some that live longer: clients that
/// insert a key in one month after the other leave such. Without it they would come back.
fn hides_live_entries(extension: &Extension, partition: &Partition) -> bool {
    let schema = &extension.schema;
    let sql = format!(
        "SELECT FROM {schema}.{CACHE} n JOIN {schema}.{CACHE} o ON {} \
         WHERE n.created_at >= $1 AND n.created_at < $2 AND o.created_at < $1 AND o.expires_at > $3 LIMIT 1",
        same_entry(schema, "o", "n")
    );
    let args = [spi::timestamptz(partition.from), spi::timestamptz(partition.to), spi::timestamptz(now())];
    spi::run(Access::ReadLatest, &sql, &args, |rows| rows.count() > 0)
}

/// Drops partitions, but for those that hold a live entry unless `include_live`. What cannot be locked
/// in so many milliseconds is kept, and so is everything while a dump is at work.
///
/// # Errors
/// 42501 where row security may hide the entries that keep one.
pub fn retire(extension: &Extension, table: Table, old: Vec<Partition>, include_live: bool, wait: i32) -> Vec<Retired> {
    if table == Table::Cache && !include_live {
        must_see_all(extension, &[CACHE]);
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
        if has_live_entries(extension, table, &partition) {
            one.live_entries = live_entries(extension, &partition);
        }
        if one.live_entries > 0 && !include_live {
            one.detail = "kept: it holds live entries".into();
        } else if table == Table::Cache && !include_live && hides_live_entries(extension, &partition) {
            one.detail = "kept: it hides live entries of older months".into();
        } else if dump_at_work {
            one.dumped = true;
            one.detail = format!("kept: {AT_WORK}");
        } else {
            let locked = parent_locked.get_or_insert_with(|| lock_parent(extension, table, wait));
            let outcome = match locked {
                // Somebody has dropped it, or detached it, to keep it.
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

/// Locks a table, so that its partitions can be dropped. Whoever comes meanwhile queues behind this
/// wait, which is why it is bounded; nobody new can lock a partition once it is over. Who waits for a
/// row that this transaction has deleted may be the one it waits for: then it looks for the deadlock
/// first, and gives up, before the other one looks. Returns the partitions that the locked table has.
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
    /// It is gone, and with it so many bytes.
    Freed(i64),
    /// It holds a live entry after all.
    NotDead,
    /// A dump has connected meanwhile; the drop has been taken back.
    NotForDump,
}

/// Drops a partition of a locked table, unless somebody holds the partition itself: to wait for that one
/// would hold up everybody.
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
        if !include_live && has_live_entries(extension, table, partition) {
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
        // The last thing before the commit, where the worker commits at once: triggers on the DROP may take long.
        gave_up.set(dump_check::is_at_work(extension));
        if gave_up.get() {
            dump_check::refusal(AT_WORK, "").raise();
        }
        Dropped::Freed(bytes)
    });
    if gave_up.get() { Ok(Dropped::NotForDump) } else { outcome }
}

/// Whether a partition holds a live entry; one of the audit log never does. The index on the expiry
/// answers at once.
fn has_live_entries(extension: &Extension, table: Table, partition: &Partition) -> bool {
    table == Table::Cache
        && query_live(extension, partition, "SELECT 1::bigint FROM", "ORDER BY expires_at DESC LIMIT 1").is_some()
}

fn live_entries(extension: &Extension, partition: &Partition) -> i64 {
    query_live(extension, partition, "SELECT count(*) FROM", "").unwrap_or(0)
}

fn query_live(extension: &Extension, partition: &Partition, select: &str, order: &str) -> Option<i64> {
    let sql = format!(
        "{select} {}.{CACHE} \
         WHERE created_at >= $1 AND created_at < $2 AND expires_at > $3 {order}",
        extension.schema
    );
    let args = [spi::timestamptz(partition.from), spi::timestamptz(partition.to), spi::timestamptz(now())];
    spi::run(Access::ReadLatest, &sql, &args, |rows| if rows.count() > 0 { rows.get(0, 1) } else { None })
}
