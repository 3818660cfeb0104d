//! Services: roles that reach the entries of every user, and may call some functions in the owner's place. The row policy
//! [`ADMIN`] of each table names them.

use super::row_policies::ADMIN;
use super::row_security;
use crate::extension::{CACHE, Extension};
use crate::pg::privileges;
use crate::pg::spi::{self, Access};
use pgrx::pg_sys;

/// The role that the owner of the database is a member of.
pub const DATABASE_OWNER: &str = "pg_database_owner";

/// Whether the current user is a service: it lacks the rights of the owner, and may delete every entry. So it may also create
/// and drop months. The right to execute a function proves less, because a grant on all functions includes it.
pub fn is_service(cache: pg_sys::Oid) -> bool {
    !privileges::is_owned(cache) && row_security::all_can_be_deleted(cache)
}

/// Lets a service role read and delete audit rows of a table, as cache_forget_user() does.
pub fn grant_audit(extension: &Extension, table: &str, role: &str) {
    spi::execute(&format!("GRANT SELECT, DELETE ON {}.{table} TO {role}", extension.schema));
    add_to_policy(extension, table, role);
}

/// Adds a role to the row policy [`ADMIN`] of a table.
pub fn add_to_policy(extension: &Extension, table: &str, role: &str) {
    if !is_in_policy(extension, table, role) {
        let mut roles = policy_roles(extension, table);
        roles.push(role.to_string());
        spi::execute(&format!("ALTER POLICY {ADMIN} ON {}.{table} TO {}", extension.schema, roles.join(", ")));
    }
}

/// Whether the row policy [`ADMIN`] of a table names a role, quoted, or every role.
pub fn is_in_policy(extension: &Extension, table: &str, role: &str) -> bool {
    policy_roles(extension, table).iter().any(|known| known == role || known == "PUBLIC")
}

/// Returns the roles of the row policy [`ADMIN`] of a table, quoted.
fn policy_roles(extension: &Extension, table: &str) -> Vec<String> {
    spi::run(
        Access::ReadLatest,
        "SELECT CASE role WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(role)) END FROM pg_policy p, unnest(p.polroles) role \
         WHERE p.polrelid = $1 AND p.polname = $2 ORDER BY 1",
        &[extension.table(table).into(), ADMIN.into()],
        |rows| rows.map(|rows, row| rows.get(row, 1).expect("a name")),
    )
}

/// Returns the service roles, quoted.
pub fn service_roles(extension: &Extension) -> Vec<String> {
    policy_roles(extension, CACHE).into_iter().filter(|role| role != DATABASE_OWNER && role != "PUBLIC").collect()
}
