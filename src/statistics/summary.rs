//! Summaries of a large cache. Counting a million entries takes half a second, so maintenance counts now and then, and reports
//! show the last count with the hits since then. Reports on a small cache count for themselves.

use crate::access::all_rows::{must_change_all, must_see_all};
use crate::extension::{BY_TYPE, BY_USER, CACHE, Extension, POLICIES, locks};
use crate::pg::advisory_lock;
use crate::pg::spi::{self, Access};
use crate::settings;
use crate::stale::with_is_over;

/// The query that counts the entries by partition and content type, with a place for [`with_is_over`].
pub const COUNT_BY_TYPE: &str = include_str!("../../sql/reports/entries_by_type.sql");
/// The query that counts the entries by user.
pub const COUNT_BY_USER: &str = include_str!("../../sql/reports/entries_by_user.sql");

/// Whether the entries are too many to be counted for each report, by the size of their partitions, which a count reads.
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

/// Counts the entries of a large cache, and empties the summaries of a small one. Returns the number of rows that it wrote or
/// deleted.
pub fn renew(extension: &Extension) -> i64 {
    let by_type = "entries expired_entries high_priority_entries hits tokens_saved last_activity";
    let by_user = "entries content_types hits tokens_saved avg_reuse_score last_accessed";
    // Waits for a flush, because the count would miss the hits that it stores meanwhile.
    advisory_lock::lock(locks::STATISTICS, 0);
    must_see_all(extension, &[CACHE, POLICIES]);
    must_change_all(extension, &[BY_TYPE, BY_USER]);
    if is_large(extension) {
        replace(
            extension,
            BY_TYPE,
            "partition_name, content_type",
            by_type,
            &with_is_over(extension, COUNT_BY_TYPE, ""),
        ) + replace(extension, BY_USER, "user_id", by_user, COUNT_BY_USER)
    } else {
        empty(extension, BY_TYPE) + empty(extension, BY_USER)
    }
}

/// Brings a summary up to date. Every row is written, because each holds the time of the count.
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
    // A row that this count has not written is of entries that are gone.
    let sql = format!("DELETE FROM {schema}.{table} WHERE measured_at < pg_catalog.transaction_timestamp()");
    written + spi::run(Access::Write, &sql, &[], |rows| rows.count() as i64)
}

fn empty(extension: &Extension, table: &str) -> i64 {
    let sql = format!("DELETE FROM {}.{table}", extension.schema);
    spi::run(Access::Write, &sql, &[], |rows| rows.count() as i64)
}
