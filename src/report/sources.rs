//! Sources of reports: the subqueries that replace each `@name@` in their queries.

use crate::access::monitor;
use crate::extension::{AUDIT_LOG, BY_TYPE, BY_USER, CACHE, Extension, RUNS};
use crate::partition::catalog::{ENTRY_INDEXES, PARTITIONS};
use crate::pg::spi::{self, Access};
use crate::stale::with_is_over;
use crate::statistics::columns::{COLUMNS, Column, Holds};
use crate::statistics::summary::{COUNT_BY_TYPE, COUNT_BY_USER, is_large};

const RECENT: &str = include_str!("../../sql/reports/recent_statistics.sql");
/// The first column of counters that a table or function of an earlier version may lack.
const NEWER: &std::ffi::CStr = c"evictions";

/// Sources on tables that a monitor may not read: the name, the table, the query, and the columns of its result.
pub const READ_BY_OWNER: [(&str, &str, &str, &str); 3] = [
    ("@entries_by_type@", CACHE, COUNT_BY_TYPE, BY_TYPE_COLUMNS),
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

/// Puts sources into the query of a report: `@entries_by_type@`, `@entries_by_user@`, `@pending_by_type@`,
/// `@pending_by_user@`, `@recent_statistics@`, `@recent_writes@`, `@recent_failures@`, `@pending_invalidations@`, `@partitions@` and
/// `@entry_indexes@`.
pub fn with_sources(extension: &Extension, query: &str) -> String {
    let mut query = query
        .replace("@recent_statistics@", &format!("({})", recent_statistics()))
        .replace("@partitions@", &format!("({PARTITIONS})"))
        .replace("@entry_indexes@", &format!("({ENTRY_INDEXES})"));
    for (name, table) in [("@entries_by_type@", BY_TYPE), ("@entries_by_user@", BY_USER)] {
        if query.contains(name) && serves(extension, table) {
            query = query.replace(name, &format!("@extschema@.{table}"));
        }
    }
    query = query.replace("@entries_by_user@", &format!("({COUNT_BY_USER})"));
    for (name, table, sql, columns) in READ_BY_OWNER {
        if query.contains(name) {
            let sql = &with_is_over(extension, sql, "");
            let source = if monitor::only_watches(extension) {
                monitor::read_by_owner_of(extension, table, sql, columns)
            } else {
                format!("({sql})")
            };
            query = query.replace(name, &source);
        }
    }
    if query.contains("@pending_invalidations@") {
        // The SQL of 0.1.0 and 0.2.0 has no function for them.
        let source = if extension.has_function("cache_pending_invalidations") {
            "@extschema@.cache_pending_invalidations()"
        } else {
            "(SELECT 0 AS pid, interval '0' AS pending_for WHERE false)"
        };
        query = query.replace("@pending_invalidations@", source);
    }
    for (name, per) in [("@pending_by_type@", "content_type"), ("@pending_by_user@", "user_id")] {
        if query.contains(name) {
            query = query.replace(name, &pending(extension, per));
        }
    }
    query
}

fn recent_statistics() -> String {
    let newer: Vec<&Column> = COLUMNS.iter().skip_while(|column| column.name != NEWER).collect();
    let nothing = |column: &&Column| match column.holds {
        Holds::Histogram(_) => format!("'{{}}'::bigint[] AS {}", column.name()),
        _ => format!("0::bigint AS {}", column.name()),
    };
    let names: Vec<&str> = newer.iter().map(|column| column.name()).collect();
    let none: Vec<String> = newer.iter().map(nothing).collect();
    RECENT.replace("@newer@", &names.join(", ")).replace("@none@", &format!("(SELECT {}) none", none.join(", ")))
}

/// Returns a source of pending hits summed up by a column. The SQL of 0.1.0 has no function for that.
fn pending(extension: &Extension, per: &str) -> String {
    if extension.has_function("cache_pending_hits_by") {
        return format!("@extschema@.cache_pending_hits_by('{}')", per.trim_end_matches("_id"));
    }
    format!(
        "(SELECT {per}, sum(hits) AS hits, sum(tokens_saved) AS tokens_saved, max(last_accessed) AS last_accessed \
         FROM @extschema@.cache_pending_hits() GROUP BY {per}) pending_hits"
    )
}

/// Whether a report reads a summary: if the cache is large and has one, and the caller may see every user. A tenant's own
/// entries are few, and an index finds them.
fn serves(extension: &Extension, summary: &str) -> bool {
    extension.find_table(summary).is_some() && monitor::may_see_all_users(extension) && is_large(extension) && {
        let sql = format!("SELECT 1 FROM {}.{summary} LIMIT 1", extension.schema);
        spi::run(Access::Read, &sql, &[], |rows| rows.count() > 0)
    }
}
