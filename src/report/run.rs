//! Reports: the functions under the views and checks. Each returns the rows of a query in sql/reports.

use super::sources::{READ_BY_OWNER, with_sources};
use crate::access::all_rows::{owner_sees_all, sees_all};
use crate::access::monitor;
use crate::error::Refusal;
use crate::extension::grant_hint::{Grant, with_way_out};
use crate::extension::{CACHE, Extension, RUNS, TABLES};
use crate::pg::function;
use crate::pg::guc::with_settings;
use crate::pg::spi::{self, Access};
use crate::pg::srf::{Call, Stored, set_returning};
use crate::pg::{privileges, shared_memory};
use pgrx::PgSqlErrorCode;
use pgrx::datum::DatumWithOid;

/// The query of each report, by the name of its function.
const REPORTS: [(&str, &str); 7] = [
    ("cache_performance_metrics", include_str!("../../sql/reports/cache_performance_metrics.sql")),
    ("partition_health_metrics", include_str!("../../sql/reports/partition_health_metrics.sql")),
    ("cache_connection_metrics", include_str!("../../sql/reports/cache_connection_metrics.sql")),
    ("user_cache_analytics", include_str!("../../sql/reports/user_cache_analytics.sql")),
    ("cache_alerts", include_str!("../../sql/reports/cache_alerts.sql")),
    ("cache_maintenance_log", include_str!("../../sql/reports/cache_maintenance_log.sql")),
    ("check_partition_health", include_str!("../../sql/reports/check_partition_health.sql")),
];

set_returning!(infinite_pages_cache_report => report());

/// The C function of all reports. It finds its query by the name of the SQL function.
///
/// # Errors
/// 55000 when the function has been renamed.
fn report(call: Call) -> Stored {
    let name = function::name_of(call.function());
    let query = REPORTS.iter().find(|(report, _)| *report == name).map(|(_, query)| query);
    let query = query.unwrap_or_else(|| unknown(&name));
    let extension = Extension::current();
    match name.as_str() {
        // Not by read_by_owner_of(), because there may be very many users.
        "user_cache_analytics" if monitor::only_watches(&extension) => {
            privileges::confined_to_owner_of(extension.table(CACHE), || run(call, query))
        }
        "user_cache_analytics" => answer(call, query, &[], Grant::Tenant),
        "cache_maintenance_log" => {
            run_on_log(call, &extension, query, "@detail@", ("detail", "status = 'failed'"), &[])
        }
        _ => run(call, query),
    }
}

fn unknown(name: &str) -> ! {
    let names: Vec<&str> = REPORTS.iter().map(|(name, _)| *name).collect();
    Refusal::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, format!("there is no report {name}()"))
        .detail("A report is found by the name of its function, and this one has been renamed.")
        .hint(format!("Rename it back with ALTER FUNCTION {name}() RENAME TO …; the reports are {}.", names.join(", ")))
        .raise()
}

/// Runs a query on the log of maintenance; for a monitor, with the rights of the log's owner. `text` may quote an error, and
/// does where the condition `failed` holds: `place` is replaced by as much of it as the caller may see.
pub fn run_on_log(
    call: Call,
    extension: &Extension,
    query: &str,
    place: &str,
    (text, failed): (&str, &str),
    args: &[DatumWithOid],
) -> Stored {
    let query = query.replace(place, &monitor::shown_of(text, failed, monitor::may_read_errors(extension)));
    match extension.find_table(RUNS) {
        Some(runs) if monitor::only_watches(extension) => {
            privileges::confined_to_owner_of(runs, || run_with(call, &query, args))
        }
        _ => run_with(call, &query, args),
    }
}

/// Replaces each `@sees_<table>@` in the query of a report by whether row security shows every row of the table to the role
/// that reads it. If it may hide rows, the report can say nothing about them.
fn with_visibility(extension: &Extension, query: &str) -> String {
    let watches = monitor::only_watches(extension);
    let sees = |name: &str, table| {
        if watches && READ_BY_OWNER.iter().any(|(_, read, ..)| *read == name) {
            owner_sees_all(table)
        } else {
            sees_all(table)
        }
    };
    TABLES.iter().fold(query.to_string(), |query, table| {
        let name = format!("@sees_{table}@");
        if !query.contains(&name) {
            return query;
        }
        query.replace(&name, &extension.find_table(table).is_none_or(|oid| sees(table, oid)).to_string())
    })
}

/// Returns the rows of a query as the result of the function.
pub fn run(call: Call, query: &str) -> Stored {
    run_with(call, query, &[])
}

/// As [`run`], for a query with arguments.
pub fn run_with(call: Call, query: &str, args: &[DatumWithOid]) -> Stored {
    answer(call, query, args, Grant::Monitor)
}

/// Returns the rows of a query. `grant` is what a role needs that may not read the tables.
pub fn answer(call: Call, query: &str, args: &[DatumWithOid], grant: Grant) -> Stored {
    let extension = Extension::current();
    let preloaded = shared_memory::is_preloaded().to_string();
    let query = with_visibility(&extension, query);
    let query =
        with_sources(&extension, &query).replace("@extschema@", &extension.schema).replace("@preloaded@", &preloaded);
    // The queries parse bounds of partitions and definitions of indexes, whose text depends on these settings. JIT is off,
    // because compiling would take longer than the queries.
    let settings = [
        (c"DateStyle", c"ISO"),
        (c"TimeZone", c"UTC"),
        (c"quote_all_identifiers", c"off"),
        (c"standard_conforming_strings", c"on"),
        (c"jit", c"off"),
    ];
    with_way_out(&extension, grant, || {
        with_settings(&settings, || call.rows(|deliver| spi::run(Access::Read, &query, args, deliver)))
    })
}
