//! The policies of row security.

use crate::extension::{
    AUDIT_ARCHIVE, AUDIT_LOG, BY_TYPE, BY_USER, CACHE, Extension, POLICIES as CONTENT_POLICIES, RUNS, STATISTICS,
};
use crate::pg::spi::{self, Access};

/// The policy of services.
pub const ADMIN: &str = "admin_maintenance_access";

/// Each policy with the tables that have it.
const POLICIES: [(&str, &str, &[&str]); 4] = [
    ("tenant_isolation_cache_access", include_str!("../../sql/policies/tenant_isolation_cache_access.sql"), &[CACHE]),
    (
        "analytics_readonly_access",
        include_str!("../../sql/policies/analytics_readonly_access.sql"),
        &[CACHE, AUDIT_LOG, AUDIT_ARCHIVE],
    ),
    (
        ADMIN,
        include_str!("../../sql/policies/admin_maintenance_access.sql"),
        &[CACHE, AUDIT_LOG, AUDIT_ARCHIVE, CONTENT_POLICIES],
    ),
    (
        "privileged_readonly_access",
        include_str!("../../sql/policies/privileged_readonly_access.sql"),
        &[CONTENT_POLICIES, RUNS, STATISTICS, BY_TYPE, BY_USER],
    ),
];

/// Enables row security on a table, and creates the policies that it lacks. A policy that exists stays, because it may have
/// been changed on purpose.
pub fn ensure_policies(extension: &Extension, table: &str) {
    if !is_enabled(extension, table) {
        let sql = format!("ALTER TABLE {}.{table} ENABLE ROW LEVEL SECURITY", extension.schema);
        spi::execute(&sql);
    }
    for (policy, sql) in missing(extension, table) {
        let sql = sql.replace("@extschema@", &extension.schema).replace("@table@", table);
        spi::execute(&sql);
        if (policy, table) == (ADMIN, CONTENT_POLICIES) {
            keep_writers(extension, table);
        }
    }
}

/// Whether [`ensure_policies`] has nothing to do for a table.
pub fn are_complete(extension: &Extension, table: &str) -> bool {
    is_enabled(extension, table) && missing(extension, table).is_empty()
}

fn is_enabled(extension: &Extension, table: &str) -> bool {
    let sql = "SELECT relrowsecurity FROM pg_class WHERE oid = $1";
    let args = [extension.table(table).into()];
    spi::run(Access::ReadLatest, sql, &args, |rows| rows.get(0, 1).unwrap_or(false))
}

/// Returns the policies that a table lacks, each with its statement.
fn missing(extension: &Extension, table: &str) -> Vec<(&'static str, &'static str)> {
    let wanted = POLICIES.into_iter().filter(|(_, _, tables)| tables.contains(&table));
    wanted.filter(|(policy, ..)| !exists(extension, table, policy)).map(|(policy, sql, _)| (policy, sql)).collect()
}

/// Whether a table has a policy of this name.
pub fn exists(extension: &Extension, table: &str, policy: &str) -> bool {
    spi::run(
        Access::ReadLatest,
        "SELECT EXISTS (SELECT 1 FROM pg_policy WHERE polrelid = $1 AND polname = $2)",
        &[extension.table(table).into(), policy.into()],
        |rows| rows.get::<bool>(0, 1).unwrap_or(false),
    )
}

/// Keeps writing open to the roles that were granted it, because the table of earlier versions had no row security.
fn keep_writers(extension: &Extension, table: &str) {
    let writers = spi::run(
        Access::ReadLatest,
        "SELECT CASE WHEN bool_or(a.grantee = 0) THEN 'PUBLIC' \
                ELSE 'pg_database_owner, ' || string_agg(DISTINCT quote_ident(pg_get_userbyid(a.grantee)), ', ') END \
         FROM pg_class c, aclexplode(c.relacl) a \
         WHERE c.oid = $1 AND a.privilege_type IN ('INSERT', 'UPDATE', 'DELETE') AND a.grantee <> c.relowner",
        &[extension.table(table).into()],
        |rows| rows.get::<String>(0, 1),
    );
    if let Some(writers) = writers {
        let sql = format!("ALTER POLICY {ADMIN} ON {}.{table} TO {writers}", extension.schema);
        spi::execute(&sql);
    }
}
