//! Creates partitions. A partition is built beside the table and then attached, because readers of the table would wait
//! behind CREATE TABLE … PARTITION OF.

use super::catalog::{forget_partitions, partitions_of};
use super::secure::secure;
use crate::access::{owner, service};
use crate::arguments;
use crate::calendar::{Month, month_of};
use crate::error::Refusal;
use crate::extension::grant_hint::{Grant, with_way_out};
use crate::extension::{AUDIT_LOG, CACHE, Extension, locks};
use crate::pg::advisory_lock::{self, Brief};
use crate::pg::clock::now;
use crate::pg::guc::with_settings;
use crate::pg::spi::{self, Access};
use crate::pg::table_lock::lock_to_write;
use crate::pg::{datetime, privileges, subtransaction};
use crate::settings;
use pgrx::datum::Timestamp;
use pgrx::pg_sys;
use pgrx::prelude::*;

/// A table that has a partition for each month.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Table {
    Cache,
    AuditLog,
}

impl Table {
    pub fn name(self) -> &'static str {
        match self {
            Table::Cache => CACHE,
            Table::AuditLog => AUDIT_LOG,
        }
    }

    pub fn partition_name(self, month: Month) -> String {
        match self {
            Table::Cache => format!("infinite_pages_cache_{}", month.suffix()),
            Table::AuditLog => format!("{AUDIT_LOG}_{}", month.suffix()),
        }
    }

    /// Returns the storage parameters. A quarter of each page stays free for a new version of a row, which has at most 2 kB
    /// in line, so that storing hits touches no index. A larger row has all its content out of line, so that scans for
    /// metrics read a narrow table.
    fn storage(self) -> &'static str {
        match self {
            Table::Cache => "WITH (fillfactor = 75, toast_tuple_target = 128)",
            Table::AuditLog => "",
        }
    }
}

/// Makes sure that the month of a date has its partition, and returns the partition's name. The month is that of the date
/// as written, because a date has no time zone; the bounds are in UTC.
#[pg_extern(sql = false)]
fn create_monthly_cache_partition(target_date: Option<Timestamp>) -> String {
    let target_date = target_date.unwrap_or_else(|| {
        arguments::missing("target_date").hint("Pass any day of the month, such as '2027-01-01'.").raise()
    });
    let extension = Extension::current();
    let cache = extension.table(CACHE);
    let month = Month::of(target_date.into()).unwrap_or_else(|| {
        Refusal::new(
            PgSqlErrorCode::ERRCODE_DATETIME_FIELD_OVERFLOW,
            "a partition can be made for a month of the years 1 to 9999",
        )
        .detail(format!("The date is {}.", show(target_date)))
        .hint("Pass any day of the month, such as '2027-01-01'.")
        .raise()
    });
    if service::is_service(cache) {
        privileges::confined_to_owner_of(cache, || with_storage_of_database(|| create(&extension, Table::Cache, month)))
            .0
    } else {
        create(&extension, Table::Cache, month).0
    }
}

fn show(timestamp: Timestamp) -> String {
    match i64::from(timestamp) {
        i64::MAX => "infinity".into(),
        i64::MIN => "-infinity".into(),
        value => datetime::show_timestamp(value),
    }
}

/// Makes sure that the current month has its partition, and returns the partition's name. The SQL function is SECURITY
/// DEFINER: a tenant may call it, and can make it do nothing else.
#[pg_extern(sql = false)]
fn cache_create_current_partition() -> String {
    let month = month_of(now());
    with_storage_of_database(|| create(&Extension::current(), Table::Cache, month)).0
}

/// Runs `f` for a tenant or a service, which must not choose where a partition of everybody's is stored.
fn with_storage_of_database<T>(f: impl FnOnce() -> T) -> T {
    with_settings(&[(c"default_tablespace", c""), (c"default_table_access_method", c"heap")], f)
}

/// Returns the time now, and the cache's partition for it; `None` if there is none.
pub fn current_moment(parent: pg_sys::Oid) -> Option<(i64, pg_sys::Oid)> {
    let now = now();
    let partitions = partitions_of(parent);
    partitions.iter().find(|partition| partition.holds(now)).map(|partition| (now, partition.oid))
}

/// Waits for each transaction that has made a partition of the cache and has not ended.
pub fn wait_for_makers() {
    Brief::exclusive(locks::CREATE_PARTITION, Table::Cache as u32).release();
}

/// Creates the partition of the current month, or waits for a transaction that is creating it. It calls the SQL function,
/// because EXECUTE on that is a role's right to make a month, and SECURITY DEFINER gives the role the owner's rights for
/// it.
pub fn create_current() {
    let extension = Extension::current();
    let sql = format!("SELECT {}.cache_create_current_partition()", extension.schema);
    with_way_out(&extension, Grant::Tenant, || spi::execute(&sql));
}

/// As [`create_current`], for the audit log, called with the rights of its owner. No role needs a right of its own, because
/// the extension audits whoever writes.
pub fn ensure_current_audit(extension: &Extension, log: pg_sys::Oid) {
    let now = now();
    // The row gets its timestamp a moment later, which may be in the next month.
    const MARGIN: i64 = 60_000_000;
    let soon = Month::of(now + MARGIN).map(|_| now + MARGIN);
    for moment in std::iter::once(now).chain(soon) {
        if !partitions_of(log).iter().any(|partition| partition.holds(moment)) {
            with_storage_of_database(|| create(extension, Table::AuditLog, month_of(moment)));
        }
    }
}

/// Returns the months that should have a partition: the current one and the next `premake`, up to the end of the calendar.
pub fn wanted_months() -> impl Iterator<Item = Month> {
    let this = Month::of(now());
    (0..=i64::from(settings::PREMAKE.get())).filter_map(move |ahead| this?.plus(ahead))
}

/// Makes sure that a month has its partition; returns its name, and whether it was created.
///
/// # Errors
/// 42501 unless the current user owns the table, 42P07 if another relation has the partition's name, 23514 if a DEFAULT
/// partition holds rows of the month.
pub fn create(extension: &Extension, table: Table, month: Month) -> (String, bool) {
    let parent = extension.table(table.name());
    let existing = || {
        partitions_of(parent)
            .into_iter()
            .find(|partition| partition.from <= month.start() && month.end() <= partition.to)
    };
    if let Some(partition) = existing() {
        return (partition.name(), false);
    }
    owner::must_own(
        extension,
        table.name(),
        "Only the owner of a table can change its partitions.",
        "Run it as the owner, or as a service role. Any role can make the current month's partition with \
         cache_create_current_partition().",
    );
    // In the order of writers, because a session that has locked the table, such as set-up, may be about to make a month.
    lock_to_write(parent);
    advisory_lock::lock(locks::CREATE_PARTITION, table as u32);
    // Another session may have made it during the wait.
    forget_partitions(parent);
    if let Some(partition) = existing() {
        return (partition.name(), false);
    }
    let name = table.partition_name(month);
    if extension.find_table(&name).is_some() {
        Refusal::new(
            PgSqlErrorCode::ERRCODE_DUPLICATE_TABLE,
            format!("{}.{name} exists and is not a partition of {}", extension.schema, table.name()),
        )
        .detail("The month's partition must have this name.")
        .hint(format!("Rename it, or attach it: ALTER TABLE {}.{} ATTACH PARTITION …", extension.schema, table.name()))
        .raise();
    }
    // ATTACH evaluates CHECK constraints, which are the owner's code.
    privileges::without_more_than_owner_of(parent, || build(extension, table, month, &name));
    (name, true)
}

fn build(extension: &Extension, table: Table, month: Month, name: &str) {
    let (schema, parent_name) = (&extension.schema, table.name());
    spi::execute(&format!(
        "CREATE TABLE {schema}.{name} (LIKE {schema}.{parent_name} \
             INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE INCLUDING COMPRESSION) {}",
        table.storage()
    ));
    secure(extension, parent_name, extension.table(name), true);
    let (from, to) = month.bounds();
    let sql = format!(
        "ALTER TABLE {schema}.{parent_name} ATTACH PARTITION {schema}.{name} FOR VALUES FROM ('{from}') TO ('{to}')"
    );
    // Read before the ATTACH, because after an error no statement can run.
    let default_partition = spi::run(
        Access::ReadLatest,
        "SELECT partdefid::regclass::text FROM pg_partitioned_table WHERE partrelid = $1 AND partdefid <> 0",
        &[extension.table(parent_name).into()],
        |rows| if rows.count() > 0 { rows.get::<String>(0, 1) } else { None },
    );
    let in_the_way = |code, _: &str, _: Option<&str>| {
        let is_in_the_way = code == PgSqlErrorCode::ERRCODE_CHECK_VIOLATION;
        let default_partition = default_partition.as_ref().filter(|_| is_in_the_way)?;
        let message = format!(
            "{schema}.{name} cannot be made: the DEFAULT partition {default_partition} holds rows of the month"
        );
        let hint = format!(
            "Move the rows elsewhere, make the month's partition, and put them back; or drop {default_partition}."
        );
        Some(
            Refusal::new(PgSqlErrorCode::ERRCODE_CHECK_VIOLATION, message)
                .detail("A row can be in one partition only, and PostgreSQL does not move rows.")
                .hint(hint),
        )
    };
    subtransaction::translate(|| spi::execute(&sql), in_the_way);
}
