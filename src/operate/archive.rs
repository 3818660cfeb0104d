//! The archive of the audit log: months moved out of retention's reach, still one table to query, to
//! dump, and to erase a user from.

use crate::clock::now;
use crate::error::{Refusal, shown};
use crate::home::{AUDIT_LOG, Home};
use crate::partition::catalog::{Partition, partitions_of};
use crate::partition::create::revoke;
use crate::spi::{self, Access};
use crate::ttl;
use crate::{owner, settings, subtransaction};
use pgrx::datum::Interval;
use pgrx::prelude::*;

/// The table that holds archived months; made when the first one is archived.
pub const ARCHIVE: &str = "cache_audit_archive";

/// # Errors
/// 22023 unless `older_than` is positive, 42501 unless the current user owns the log, 55P03 when a
/// month could not be locked within infinite_pages_cache.lock_timeout.
#[pg_extern(sql = false)]
fn archive_audit_logs(
    older_than: Option<Interval>,
) -> TableIterator<'static, (name!(archived_partition, String), name!(audit_rows, i64), name!(bytes, i64))> {
    let older_than = older_than
        .unwrap_or_else(|| crate::entry::missing("older_than").hint("Pass an age such as '90 days'.").raise());
    let age = ttl::microseconds_of(&older_than).unwrap_or_else(|| {
        Refusal::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "older_than must be positive")
            .detail(format!("It is {}.", shown(&older_than.to_string())))
            .hint("Pass an age such as '90 days'.")
            .raise()
    });
    let home = Home::current();
    let log = home.table(AUDIT_LOG);
    if !owner::has_rights_of(owner::owner_of(log)) {
        Refusal::new(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("must be owner of table {}.{AUDIT_LOG}", home.schema),
        )
        .detail("Archiving moves partitions from one table to another.")
        .hint("Run it as the owner.")
        .raise();
    }
    let schema = &home.schema;
    let limit = now().saturating_sub(age);
    let timeout = format!("{}ms", settings::LOCK_TIMEOUT.get());
    let mut archived = Vec::new();
    for partition in partitions_of(log).into_iter().filter(|partition| partition.to <= limit) {
        let name = partition.name();
        let moved = subtransaction::with_setting(c"lock_timeout", &timeout, || {
            ensure_archive(&home);
            let bounds = bounds_of(&partition);
            let ddl = |sql: String| spi::run(Access::Write, &sql, &[], |_| ());
            ddl(format!("ALTER TABLE {schema}.{AUDIT_LOG} DETACH PARTITION {schema}.{name}"));
            ddl(format!("ALTER TABLE {schema}.{ARCHIVE} ATTACH PARTITION {schema}.{name} {bounds}"));
            spi::run(
                Access::Write,
                &format!("SELECT count(*), pg_total_relation_size($1::oid::regclass) FROM {schema}.{name}"),
                &[partition.oid.into()],
                |rows| (rows.get(0, 1).unwrap_or(0), rows.get(0, 2).unwrap_or(0)),
            )
        });
        archived.push((name, moved.0, moved.1));
    }
    TableIterator::new(archived)
}

/// `FOR VALUES FROM … TO …` with literals that mean the same in every time zone and date style.
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

fn ensure_archive(home: &Home) {
    if home.find_table(ARCHIVE).is_some() {
        return;
    }
    let schema = &home.schema;
    for sql in [
        format!(
            "CREATE TABLE {schema}.{ARCHIVE} (LIKE {schema}.{AUDIT_LOG} INCLUDING DEFAULTS INCLUDING CONSTRAINTS) \
             PARTITION BY RANGE (\"timestamp\")"
        ),
        format!("ALTER TABLE {schema}.{ARCHIVE} ENABLE ROW LEVEL SECURITY"),
        format!(
            "COMMENT ON TABLE {schema}.{ARCHIVE} IS 'Months of cache_audit_log that archive_audit_logs() has moved here'"
        ),
    ] {
        spi::run(Access::Write, &sql, &[], |_| ());
    }
    revoke(home, ARCHIVE, "ALL");
    super::setup::ensure_policies(home, ARCHIVE);
    for role in super::grants::service_roles(home) {
        super::grants::grant_audit(home, ARCHIVE, &role);
    }
}
