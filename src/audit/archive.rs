//! Archives months of the audit log: moves them to a table that retention leaves alone. It can be queried and dumped as one
//! table, and users are erased from it.

use crate::access::all_rows::must_see_all_of;
use crate::access::owner;
use crate::access::row_policies::ensure_policies;
use crate::access::service::{grant_audit, service_roles};
use crate::arguments;
use crate::error::{Refusal, shown};
use crate::extension::{AUDIT_ARCHIVE, AUDIT_LOG, Extension};
use crate::partition::catalog::{Partition, partitions_of};
use crate::partition::dump_check;
use crate::partition::secure::{revoke, secure};
use crate::pg::clock::now;
use crate::pg::guc::with_setting;
use crate::pg::privileges;
use crate::pg::relation::qualified_name;
use crate::pg::spi::{self, Access};
use crate::{settings, ttl};
use pgrx::datum::Interval;
use pgrx::prelude::*;

/// # Errors
/// 22023 unless `older_than` is positive, 42501 unless the current user owns the log and sees all rows of the months, 55006
/// while a dump is at work, 55P03 if a month could not be locked within infinite_pages_cache.lock_timeout.
#[pg_extern(sql = false)]
fn archive_audit_logs(
    older_than: Option<Interval>,
) -> TableIterator<'static, (name!(archived_partition, String), name!(audit_rows, i64), name!(bytes, i64))> {
    let older_than =
        older_than.unwrap_or_else(|| arguments::missing("older_than").hint("Pass an age such as '90 days'.").raise());
    let age = ttl::microseconds_of(&older_than).unwrap_or_else(|| {
        Refusal::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "older_than must be positive")
            .detail(format!("It is {}.", shown(&older_than.to_string())))
            .hint("Pass an age such as '90 days'.")
            .raise()
    });
    let extension = Extension::current();
    let log = extension.table(AUDIT_LOG);
    owner::must_own(
        &extension,
        AUDIT_LOG,
        "Archiving moves partitions from one table to another.",
        "Run it as the owner.",
    );
    let schema = &extension.schema;
    let limit = now().saturating_sub(age);
    let old: Vec<_> = partitions_of(log).into_iter().filter(|partition| partition.to <= limit).collect();
    if !old.is_empty() && dump_check::is_at_work(&extension) {
        // A dump that begins meanwhile waits for the commit, and finds the months where its snapshot shows them.
        let message = "cannot move months of the audit log while a dump or a restore is at work";
        dump_check::refusal(
            message,
            "A parallel dump fails if another session waits for a lock on a table that it reads.",
        )
        .raise();
    }
    let timeout = format!("{}ms", settings::LOCK_TIMEOUT.get());
    let mut archived = Vec::new();
    for partition in old {
        let name = partition.name();
        let moved = with_setting(c"lock_timeout", &timeout, || {
            secure(&extension, AUDIT_LOG, partition.oid, true);
            // ATTACH evaluates CHECK constraints, which are the owner's code.
            privileges::without_more_than_owner_of(log, || {
                ensure_archive(&extension);
                let bounds = bounds_of(&partition);
                let moved = qualified_name(partition.oid);
                must_see_all_of(partition.oid);
                spi::execute(&format!("ALTER TABLE {schema}.{AUDIT_LOG} DETACH PARTITION {moved}"));
                spi::execute(&format!("ALTER TABLE {schema}.{AUDIT_ARCHIVE} ATTACH PARTITION {moved} {bounds}"));
                spi::run(
                    Access::Write,
                    &format!("SELECT count(*), pg_total_relation_size($1::oid::regclass) FROM {moved}"),
                    &[partition.oid.into()],
                    |rows| (rows.get(0, 1).unwrap_or(0), rows.get(0, 2).unwrap_or(0)),
                )
            })
        });
        archived.push((name, moved.0, moved.1));
    }
    TableIterator::new(archived)
}

/// Returns `FOR VALUES FROM … TO …`, with literals that mean the same in every time zone and date style.
fn bounds_of(partition: &Partition) -> String {
    let literal = |timestamp: i64| match timestamp {
        i64::MIN => "MINVALUE".to_string(),
        i64::MAX => "MAXVALUE".to_string(),
        timestamp => spi::run(
            Access::ReadLatest,
            "SELECT quote_literal(to_char($1 AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00')",
            &[spi::timestamptz(timestamp)],
            |rows| rows.get(0, 1).expect("a literal"),
        ),
    };
    format!("FOR VALUES FROM ({}) TO ({})", literal(partition.from), literal(partition.to))
}

/// Returns the archive, if there is one.
///
/// # Errors
/// 42501 if it belongs to a role that is neither the owner of the log nor a superuser, because whoever may create tables
/// here could have taken the name before the first month was archived.
pub fn find_archive(extension: &Extension) -> Option<pg_sys::Oid> {
    let archive = extension.find_table(AUDIT_ARCHIVE)?;
    if !owner::is_archive_of_log(extension, archive) {
        Refusal::new(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("{}.{AUDIT_ARCHIVE} is not the archive of the audit log", extension.schema),
        )
        .detail(format!("It belongs neither to the owner of {AUDIT_LOG} nor to a superuser."))
        .hint("Drop or rename it, or give it to the owner of the log with ALTER TABLE … OWNER TO.")
        .raise();
    }
    Some(archive)
}

fn ensure_archive(extension: &Extension) {
    if find_archive(extension).is_some() {
        return;
    }
    let schema = &extension.schema;
    for sql in [
        format!(
            "CREATE TABLE {schema}.{AUDIT_ARCHIVE} (LIKE {schema}.{AUDIT_LOG} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING COMMENTS) \
             PARTITION BY RANGE (\"timestamp\")"
        ),
        format!(
            "COMMENT ON TABLE {schema}.{AUDIT_ARCHIVE} IS 'Months of cache_audit_log that archive_audit_logs() has moved here'"
        ),
    ] {
        spi::execute(&sql);
    }
    revoke(extension.table(AUDIT_ARCHIVE), "ALL");
    ensure_policies(extension, AUDIT_ARCHIVE);
    for role in service_roles(extension) {
        grant_audit(extension, AUDIT_ARCHIVE, &role);
    }
}
