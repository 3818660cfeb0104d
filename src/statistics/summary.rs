//! Summaries of a large cache. To count a million entries takes half a second; maintenance does it now and
//! then, and reports show the last count with the hits since. Those of a small cache count for themselves.

use crate::access::all_rows::{must_change_all, must_see_all};
use crate::access::monitor;
use crate::extension::{AUDIT_LOG, BY_TYPE, BY_USER, CACHE, Extension, RUNS};
use crate::partition::catalog::ENTRY_INDEXES;
use crate::pg::advisory_lock::{self, Class};
use crate::pg::spi::{self, Access};
use crate::report::counted::sees_all;
use crate::settings;

const COUNT_BY_TYPE: &str = include_str!("../../sql/reports/entries_by_type.sql");
const COUNT_BY_USER: &str = include_str!("../../sql/reports/entries_by_user.sql");
const RECENT: &str = include_str!("../../sql/reports/recent_statistics.sql");

/// What reports read of tables that a monitor may not read: the table, the query, and the columns of the result.
pub const READ_BY_OWNER: [(&str, &str, &str, &str); 4] = [
    ("@entries_by_type@", CACHE, COUNT_BY_TYPE, BY_TYPE_COLUMNS),
    ("@earliest_expiry@", CACHE, include_str!("../../sql/reports/earliest_expiry.sql"), "expires_at timestamptz"),
    (
        "@recent_writes@",
        AUDIT_LOG,
        include_str!("../../sql/reports/recent_writes.sql"),
        "writes bigint, of_one_user bigint",
    ),
    ("@recent_failures@", RUNS, include_str!("../../sql/reports/recent_failures.sql"), "steps bigint"),
];
const BY_TYPE_COLUMNS: &str = "partition_name text, content_type text, entries bigint, expired_entries bigint, \
    high_priority_entries bigint, hits numeric, tokens_saved numeric, last_activity timestamptz, measured_at timestamptz";

/// Puts the sources of its data into the query of a report: `@entries_by_type@`, `@entries_by_user@`, `@pending_by_type@`,
/// `@pending_by_user@`, `@recent_statistics@`, `@recent_writes@`, `@recent_failures@`, `@earliest_expiry@` and
/// `@entry_indexes@`.
pub fn with_sources(extension: &Extension, query: &str) -> String {
    let mut query = query
        .replace("@recent_statistics@", &format!("({RECENT})"))
        .replace("@entry_indexes@", &format!("({ENTRY_INDEXES})"));
    for (name, table) in [("@entries_by_type@", BY_TYPE), ("@entries_by_user@", BY_USER)] {
        if query.contains(name) && serves(extension, table) {
            query = query.replace(name, &format!("@extschema@.{table}"));
        }
    }
    query = query.replace("@entries_by_user@", &format!("({COUNT_BY_USER})"));
    for (name, table, sql, columns) in READ_BY_OWNER {
        if query.contains(name) {
            let source = if monitor::only_watches(extension) {
                monitor::read_by_owner_of(extension, table, sql, columns)
            } else {
                format!("({sql})")
            };
            query = query.replace(name, &source);
        }
    }
    for (name, per) in [("@pending_by_type@", "content_type"), ("@pending_by_user@", "user_id")] {
        if query.contains(name) {
            query = query.replace(name, &pending(extension, per));
        }
    }
    query
}

/// The pending hits summed up by a column. The SQL of version 0.1.0 has no function that does it.
fn pending(extension: &Extension, per: &str) -> String {
    if extension.has_function("cache_pending_hits_by") {
        return format!("@extschema@.cache_pending_hits_by('{}')", per.trim_end_matches("_id"));
    }
    format!(
        "(SELECT {per}, sum(hits) AS hits, sum(tokens_saved) AS tokens_saved, max(last_accessed) AS last_accessed \
         FROM @extschema@.cache_pending_hits() GROUP BY {per}) pending_hits"
    )
}

/// Whether a report reads a summary: of a large cache that has one, for a caller who may see it. A tenant's
/// own entries are few, and found by an index.
fn serves(extension: &Extension, summary: &str) -> bool {
    extension.find_table(summary).is_some() && sees_all(extension) && is_large(extension) && {
        let sql = format!("SELECT 1 FROM {}.{summary} LIMIT 1", extension.schema);
        spi::run(Access::Read, &sql, &[], |rows| rows.count() > 0)
    }
}

/// Whether the entries are too many to be counted for each report: by the size of their partitions, which
/// is what a count has to read.
pub fn is_large(extension: &Extension) -> bool {
    let size = spi::run(
        Access::ReadLatest,
        "SELECT coalesce(sum(pg_catalog.pg_relation_size(inhrelid)), 0)::bigint \
         FROM pg_catalog.pg_inherits WHERE inhparent OPERATOR(pg_catalog.=) $1",
        &[extension.table(CACHE).into()],
        |rows| rows.get::<i64>(0, 1).unwrap_or(0),
    );
    size > i64::from(settings::EXACT_REPORT_SIZE.get()) * 1024
}

/// Counts the entries of a large cache, and empties the summaries of a small one; returns how many rows
/// have changed.
pub fn renew(extension: &Extension) -> i64 {
    let by_type = "entries expired_entries high_priority_entries hits tokens_saved last_activity";
    let by_user = "entries content_types hits tokens_saved avg_reuse_score last_accessed";
    // Hits that are stored after the count has begun would be missed by it.
    advisory_lock::lock(Class::Statistics, 0);
    must_see_all(extension, &[CACHE]);
    must_change_all(extension, &[BY_TYPE, BY_USER]);
    if is_large(extension) {
        replace(extension, BY_TYPE, "partition_name, content_type", by_type, COUNT_BY_TYPE)
            + replace(extension, BY_USER, "user_id", by_user, COUNT_BY_USER)
    } else {
        empty(extension, BY_TYPE) + empty(extension, BY_USER)
    }
}

/// Brings a summary up to date. Every row is written, since it holds the time of the count.
fn replace(extension: &Extension, table: &str, key: &str, columns: &str, count: &str) -> i64 {
    let schema = &extension.schema;
    let columns: Vec<&str> = columns.split(' ').collect();
    let list = columns.join(", ");
    let set: Vec<String> = columns.iter().map(|column| format!("{column} = excluded.{column}")).collect();
    let written = spi::run(
        Access::Write,
        &format!(
            "INSERT INTO {schema}.{table} AS s ({key}, {list}, measured_at) \
             SELECT {key}, {list}, measured_at FROM ({}) c \
             ON CONFLICT ({key}) DO UPDATE SET {}, measured_at = excluded.measured_at",
            count.replace("@extschema@", schema),
            set.join(", ")
        ),
        &[],
        |rows| rows.count() as i64,
    );
    // What this run has not written is no longer there.
    let sql = format!("DELETE FROM {schema}.{table} WHERE measured_at < pg_catalog.transaction_timestamp()");
    written + spi::run(Access::Write, &sql, &[], |rows| rows.count() as i64)
}

fn empty(extension: &Extension, table: &str) -> i64 {
    let sql = format!("DELETE FROM {}.{table}", extension.schema);
    spi::run(Access::Write, &sql, &[], |rows| rows.count() as i64)
}
