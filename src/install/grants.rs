//! Grants. A tenant role reaches the entries of the user in its claims, a service role those of every user, a monitor the
//! figures. Everything else is the owner's.

use crate::access::monitor::FIGURES;
use crate::access::row_policies::ADMIN;
use crate::access::service::{DATABASE_OWNER, add_to_policy, grant_audit, is_in_policy, service_roles};
use crate::access::{owner, row_policies};
use crate::audit::archive::find_archive;
use crate::error::{Refusal, shown};
use crate::extension::grant_hint::TENANT_FUNCTION;
use crate::extension::{AUDIT_ARCHIVE, AUDIT_LOG, CACHE, Extension, POLICIES, RUNS, locks};
use crate::partition::secure;
use crate::pg::advisory_lock;
use crate::pg::backend::outside_extension_script;
use crate::pg::function;
use crate::pg::spi::{self, Access};
use pgrx::pg_sys;
use pgrx::prelude::*;

// Functions that are neither [`TENANT_FUNCTION`] nor listed here work with the caller's rights on the tables, and are as open
// as default privileges make them.
const SERVICE_FUNCTIONS: &[&str] = &[
    "cleanup_expired_cache_entries_production",
    "cache_forget_user",
    "cache_invalidate_content_type_for_all_users",
    "create_monthly_cache_partition",
    "drop_old_cache_partitions",
    "verify_production_cache",
    "check_partition_health",
    "cache_statistics",
    "cache_performance_metrics",
    "partition_health_metrics",
    "cache_connection_metrics",
    "cache_alerts",
    "cache_maintenance_log",
    "cache_maintenance_status",
    "cache_maintenance_progress",
    "cache_pending_invalidations",
];
/// Functions that only the owner of the tables may call.
const OWNER_FUNCTIONS: &[&str] =
    &["cache_setup", "cache_run_maintenance", "cache_flush_statistics", "archive_audit_logs"];
/// Functions that grant functions and views, which belong to the role that has created the extension.
const GRANTING_FUNCTIONS: &[&str] = &["cache_grant_tenant", "cache_grant_service", "cache_grant_monitor"];
/// All functions that are not open to every role.
const CLOSED: [&[&str]; 4] = [&[TENANT_FUNCTION], SERVICE_FUNCTIONS, OWNER_FUNCTIONS, GRANTING_FUNCTIONS];

/// Functions that monitors call beside those of their views. The second group is open to every role.
const MONITOR_FUNCTIONS: [&[&str]; 2] = [
    &["verify_production_cache", "check_partition_health", "cache_statistics", "cache_pending_invalidations"],
    &["cache_latency_ms", "cache_pending_hits_by", "user_cache_analytics", "cache_leases"],
];
/// Functions that no earlier version has.
const NEW_FUNCTIONS: &[&str] = &[
    "cache_grant_monitor",
    "cache_explain",
    "cache_refresh_candidates",
    "cache_invalidate_content_type_for_all_users",
    "cache_fetch",
    "cache_release",
    "cache_extend_lease",
    "cache_end_leases",
    "cache_leases",
    "cache_pending_invalidations",
];
/// Views that no earlier version has.
const NEW_VIEWS: &[&str] = &["cache_leases"];

/// Views, each on the function of the same name.
const TENANT_VIEWS: &[&str] = &["user_cache_analytics", "cache_leases"];
const SERVICE_VIEWS: &[&str] = &[
    "cache_performance_metrics",
    "partition_health_metrics",
    "cache_connection_metrics",
    "cache_alerts",
    "cache_maintenance_log",
    "cache_maintenance_status",
    "cache_maintenance_progress",
];

/// The predefined role that may read every table, and so gets the reports on them.
const WATCHER: &str = "pg_read_all_data";

/// Roles of Supabase and PostgREST, which get their grants where they exist.
const KNOWN_TENANT: &str = "authenticated";
const KNOWN_SERVICE: &str = "service_role";
/// The predefined role that exporters of metrics are members of.
const KNOWN_MONITOR: &str = "pg_monitor";

#[pg_extern(sql = false)]
fn cache_grant_tenant(role: &str) {
    grant(role, grant_tenant_members, grant_tenant_tables);
}

#[pg_extern(sql = false)]
fn cache_grant_service(role: &str) {
    grant(role, grant_service_members, grant_service_tables);
}

#[pg_extern(sql = false)]
fn cache_grant_monitor(role: &str) {
    grant(role, grant_monitor_members, grant_monitor_tables);
}

fn grant(role: &str, members: fn(&Extension, &str), tables: fn(&Extension, &str)) {
    advisory_lock::lock(locks::SETUP, 0);
    let extension = Extension::current();
    let role = checked_role(&extension, role);
    members(&extension, &role);
    tables(&extension, &role);
}

/// Returns the role's name, quoted.
///
/// # Errors
/// 42704 if there is no such role, 42501 unless the current user owns the table.
fn checked_role(extension: &Extension, role: &str) -> String {
    owner::must_own(extension, CACHE, "Only the owner of a table can grant rights on it.", "Run it as the owner.");
    quoted_role(role).unwrap_or_else(|| {
        Refusal::new(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, format!("role {} does not exist", shown(role)))
            .detail("Rights are granted to a role of this cluster, by its name as it stands in pg_roles.")
            .hint("Create it first: CREATE ROLE … NOLOGIN.")
            .raise()
    })
}

fn quoted_role(role: &str) -> Option<String> {
    let sql = "SELECT quote_ident(rolname) FROM pg_roles WHERE rolname = $1";
    spi::run(Access::ReadLatest, sql, &[role.into()], |rows| if rows.count() > 0 { rows.get(0, 1) } else { None })
}

/// Grants to the roles of Supabase and PostgREST that exist, to [`KNOWN_MONITOR`], and to the owner of the database what it
/// may call as the owner of the tables.
pub fn grant_to_known_roles(extension: &Extension) {
    let members = owner::may_grant_functions(extension);
    if let Some(role) = quoted_role(KNOWN_TENANT) {
        if members {
            grant_tenant_members(extension, &role);
        }
        grant_tenant_tables(extension, &role);
    }
    if let Some(role) = quoted_role(KNOWN_SERVICE) {
        if members {
            grant_service_members(extension, &role);
        }
        grant_service_tables(extension, &role);
    }
    grant_monitor_tables(extension, KNOWN_MONITOR);
    if members {
        grant_monitor_members(extension, KNOWN_MONITOR);
        grant_service_members(extension, DATABASE_OWNER);
        on_functions(extension, OWNER_FUNCTIONS, |function| {
            format!("GRANT EXECUTE ON FUNCTION {function} TO {DATABASE_OWNER}")
        });
    }
}

/// Whether [`grant_to_known_roles`] is going to change the row policy of a table.
pub fn changes_policy(extension: &Extension, table: &str) -> bool {
    [CACHE, POLICIES, AUDIT_LOG, AUDIT_ARCHIVE].contains(&table)
        && quoted_role(KNOWN_SERVICE).is_some_and(|role| !is_in_policy(extension, table, &role))
}

fn grant_tenant_members(extension: &Extension, role: &str) {
    spi::execute(&format!("GRANT USAGE ON SCHEMA {} TO {role}", extension.schema));
    spi::execute(&format!("GRANT USAGE ON TYPE {}.cache_ttl TO {role}", extension.schema));
    let reserved = [SERVICE_FUNCTIONS, OWNER_FUNCTIONS, GRANTING_FUNCTIONS].concat();
    let open = spi::run(
        Access::ReadLatest,
        "SELECT p.oid::regprocedure::text FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid \
         WHERE d.classid = 'pg_proc'::regclass AND d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass \
           AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'infinite_pages_cache') \
           AND p.proname <> ALL ($1)",
        &[names(&reserved).into()],
        |rows| rows.map(|rows, row| rows.get::<String>(row, 1).expect("a function")),
    );
    for function in open {
        spi::execute(&format!("GRANT EXECUTE ON FUNCTION {function} TO {role}"));
    }
    on_views(extension, TENANT_VIEWS, role);
}

fn grant_service_members(extension: &Extension, role: &str) {
    grant_tenant_members(extension, role);
    on_functions(extension, SERVICE_FUNCTIONS, |function| format!("GRANT EXECUTE ON FUNCTION {function} TO {role}"));
    on_views(extension, SERVICE_VIEWS, role);
}

fn grant_monitor_members(extension: &Extension, role: &str) {
    spi::execute(&format!("GRANT USAGE ON SCHEMA {} TO {role}", extension.schema));
    for functions in MONITOR_FUNCTIONS.into_iter().chain([SERVICE_VIEWS]) {
        on_functions(extension, functions, |function| format!("GRANT EXECUTE ON FUNCTION {function} TO {role}"));
    }
    on_views(extension, SERVICE_VIEWS, role);
    on_views(extension, TENANT_VIEWS, role);
}

fn grant_tenant_tables(extension: &Extension, role: &str) {
    let schema = &extension.schema;
    spi::execute(&format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.{CACHE} TO {role}"));
    spi::execute(&format!("GRANT SELECT ON {schema}.{POLICIES} TO {role}"));
}

/// Grants the tables of figures, and no table that holds or may quote what users have stored or done.
fn grant_monitor_tables(extension: &Extension, role: &str) {
    for table in FIGURES.into_iter().chain([POLICIES]) {
        spi::execute(&format!("GRANT SELECT ON {}.{table} TO {role}", extension.schema));
    }
}

fn grant_service_tables(extension: &Extension, role: &str) {
    let schema = &extension.schema;
    grant_tenant_tables(extension, role);
    spi::execute(&format!("GRANT INSERT, UPDATE, DELETE ON {schema}.{POLICIES} TO {role}"));
    grant_monitor_tables(extension, role);
    spi::execute(&format!("GRANT SELECT ON {schema}.{RUNS} TO {role}"));
    add_to_policy(extension, CACHE, role);
    // The table of an earlier version has no such policy until cache_setup() has run.
    if row_policies::exists(extension, POLICIES, ADMIN) {
        add_to_policy(extension, POLICIES, role);
    }
    grant_audit(extension, AUDIT_LOG, role);
    if find_archive(extension).is_some() {
        grant_audit(extension, AUDIT_ARCHIVE, role);
    }
}

/// Gives the functions and views of the extension that is being created their initial privileges, whatever default
/// privileges have granted.
pub fn reset_members(extension: &Extension) {
    for function in functions(extension, &CLOSED.concat()) {
        reset_function(function);
    }
    reset_views(extension, SERVICE_VIEWS);
    reset_views(extension, TENANT_VIEWS);
}

fn reset_views(extension: &Extension, views: &[&str]) {
    for view in views.iter().filter_map(|view| extension.find_table(view)) {
        secure::revoke(view, "ALL");
    }
    on_views(extension, views, WATCHER);
}

/// As [`reset_members`], for one function. A function that is open to every role keeps what default privileges grant.
pub fn reset_function(function: pg_sys::Oid) {
    let name = function::name_of(function);
    let is_in = |list: &[&str]| list.contains(&name.as_str());
    if !CLOSED.iter().any(|list| is_in(list)) {
        return;
    }
    let signature = function::signature_of(function);
    revoke_all(function, &signature);
    if is_in(MONITOR_FUNCTIONS[0]) || is_in(SERVICE_VIEWS) {
        spi::execute(&format!("GRANT EXECUTE ON FUNCTION {signature} TO {WATCHER}"));
    }
}

fn revoke_all(function: pg_sys::Oid, signature: &str) {
    let granted = spi::run(
        Access::ReadLatest,
        "SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END \
         FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a WHERE p.oid = $1 AND a.grantee <> p.proowner",
        &[function.into()],
        |rows| rows.map(|rows, row| rows.get::<String>(row, 1).expect("a role")),
    );
    for grantee in granted {
        spi::execute(&format!("REVOKE ALL ON FUNCTION {signature} FROM {grantee}"));
    }
}

/// As [`reset_members`], for the functions and views that an update has just created.
pub fn reset_new_members(extension: &Extension) {
    for function in functions(extension, NEW_FUNCTIONS) {
        reset_function(function);
    }
    reset_views(extension, NEW_VIEWS);
}

/// Turns grants that 0.1.0 made during CREATE EXTENSION into grants like any others. PostgreSQL recorded them as initial
/// privileges. A dump leaves these out, and revokes them, by OID, from a role that was dropped.
pub fn correct_first_privileges(extension: &Extension) {
    let outdated = spi::run(
        Access::ReadLatest,
        &include_str!("../../sql/statements/first_privileges.sql").replace("@watcher@", WATCHER),
        &[extension.namespace.into()],
        |rows| {
            rows.map(|rows, row| {
                let list = |column| rows.get::<Vec<String>>(row, column).expect("an array");
                (rows.get::<String>(row, 1).expect("an object"), list(2), list(3), list(4))
            })
        },
    );
    for (object, revokes, first, grants) in outdated {
        let set = |wanted: &[String]| revokes.iter().chain(wanted).for_each(|sql| spi::execute(sql));
        // An object that leaves the extension loses its initial privileges. The privileges that it rejoins with become initial.
        spi::execute(&format!("ALTER EXTENSION infinite_pages_cache DROP {object}"));
        outside_extension_script(|| set(&first));
        spi::execute(&format!("ALTER EXTENSION infinite_pages_cache ADD {object}"));
        outside_extension_script(|| set(&grants));
    }
}

/// Grants the functions and views again to the roles that have rights on the tables. When the extension is created anew over
/// existing tables, these rights are all that is left of earlier grants.
pub fn renew_members(extension: &Extension) {
    if !owner::may_grant_functions(extension) {
        return;
    }
    let tenants = spi::run(
        Access::ReadLatest,
        "SELECT DISTINCT quote_ident(r.rolname) FROM pg_class c, aclexplode(c.relacl) a \
         JOIN pg_roles r ON r.oid = a.grantee \
         WHERE c.oid = $1 AND a.privilege_type = 'INSERT' AND a.grantee <> c.relowner",
        &[extension.table(CACHE).into()],
        |rows| rows.map(|rows, row| rows.get::<String>(row, 1).expect("a name")),
    );
    for role in tenants {
        grant_tenant_members(extension, &role);
    }
    let monitors = spi::run(
        Access::ReadLatest,
        "SELECT quote_ident(r.rolname) FROM pg_class c, aclexplode(c.relacl) a JOIN pg_roles r ON r.oid = a.grantee \
         WHERE c.relnamespace = $1 AND c.relname = ANY ($2) AND a.privilege_type = 'SELECT' AND a.grantee <> c.relowner \
           AND NOT EXISTS (SELECT FROM pg_class l, aclexplode(l.relacl) g \
                           WHERE l.oid = $3 AND g.grantee = r.oid AND g.privilege_type = 'SELECT') \
         GROUP BY r.oid, r.rolname HAVING count(DISTINCT c.oid) = cardinality($2)",
        &[extension.namespace.into(), names(&FIGURES).into(), extension.table(AUDIT_LOG).into()],
        |rows| rows.map(|rows, row| rows.get::<String>(row, 1).expect("a name")),
    );
    for role in monitors {
        grant_monitor_members(extension, &role);
    }
    for role in service_roles(extension) {
        grant_service_members(extension, &role);
    }
}

fn on_functions(extension: &Extension, names: &[&str], statement: impl Fn(&str) -> String) {
    for function in functions(extension, names) {
        spi::execute(&statement(&function::signature_of(function)));
    }
}

/// Returns the functions of these names.
fn functions(extension: &Extension, list: &[&str]) -> Vec<pg_sys::Oid> {
    let sql = "SELECT oid FROM pg_proc WHERE pronamespace = $1 AND proname = ANY ($2) ORDER BY proname";
    spi::run(Access::ReadLatest, sql, &[extension.namespace.into(), names(list).into()], |rows| {
        rows.map(|rows, row| rows.get(row, 1).expect("an OID"))
    })
}

/// Grants views to a role. The SQL of an earlier version lacks some of them.
fn on_views(extension: &Extension, views: &[&str], role: &str) {
    for view in views.iter().filter(|view| extension.find_table(view).is_some()) {
        spi::execute(&format!("GRANT SELECT ON {}.{view} TO {role}", extension.schema));
    }
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| (*name).to_string()).collect()
}
