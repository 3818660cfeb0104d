//! The policies of row security.

use crate::home::{AUDIT_ARCHIVE, AUDIT_LOG, CACHE, Home};
use crate::spi::{self, Access};

/// Each policy with the tables that have it.
const POLICIES: [(&str, &str, &[&str]); 3] = [
    ("tenant_isolation_cache_access", include_str!("../../sql/policies/tenant_isolation_cache_access.sql"), &[CACHE]),
    (
        "analytics_readonly_access",
        include_str!("../../sql/policies/analytics_readonly_access.sql"),
        &[CACHE, AUDIT_LOG, AUDIT_ARCHIVE],
    ),
    (
        "admin_maintenance_access",
        include_str!("../../sql/policies/admin_maintenance_access.sql"),
        &[CACHE, AUDIT_LOG, AUDIT_ARCHIVE],
    ),
];

/// Enables row security on a table, and creates the policies that it should have and has not. One that
/// exists may have been changed on purpose, and stays.
pub fn ensure_policies(home: &Home, table: &str) {
    let enabled = spi::run(
        Access::ReadLatest,
        "SELECT relrowsecurity FROM pg_class WHERE oid = $1",
        &[home.table(table).into()],
        |rows| rows.get::<bool>(0, 1).unwrap_or(false),
    );
    if !enabled {
        let sql = format!("ALTER TABLE {}.{table} ENABLE ROW LEVEL SECURITY", home.schema);
        spi::execute(&sql);
    }
    for (policy, sql, tables) in POLICIES {
        if !tables.contains(&table) {
            continue;
        }
        let exists = spi::run(
            Access::ReadLatest,
            "SELECT EXISTS (SELECT 1 FROM pg_policy WHERE polrelid = $1 AND polname = $2)",
            &[home.table(table).into(), policy.into()],
            |rows| rows.get::<bool>(0, 1).unwrap_or(false),
        );
        if !exists {
            let sql = sql.replace("@extschema@", &home.schema).replace("@table@", table);
            spi::execute(&sql);
        }
    }
}
