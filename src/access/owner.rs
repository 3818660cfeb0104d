//! Owners of the extension's tables.

use crate::error::Refusal;
use crate::extension::{AUDIT_LOG, Extension};
use crate::pg::privileges;
use crate::pg::spi::{self, Access};
use pgrx::{PgSqlErrorCode, pg_sys};

/// Checks that the current user owns one of the extension's tables, or has its owner's rights.
///
/// # Errors
/// 42501, with the given DETAIL and HINT.
pub fn must_own(extension: &Extension, table: &str, detail: &str, hint: &str) {
    if !privileges::is_owned(extension.table(table)) {
        Refusal::new(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("must be owner of table {}.{table}", extension.schema),
        )
        .detail(detail)
        .hint(hint)
        .raise();
    }
}

/// Returns two of the tables that have different owners, if there are any. A statement that writes both would run the triggers
/// of one with the rights of the other's owner.
pub fn of_different_owners<'a>(extension: &Extension, tables: &[&'a str]) -> Option<(&'a str, &'a str)> {
    let owner = |table: &str| privileges::owner_of(extension.table(table));
    let (first, others) = tables.split_first()?;
    let other = others.iter().find(|other| owner(other) != owner(first))?;
    Some((first, other))
}

/// Whether a table is the archive of the audit log, by its owner: any role that may create tables could take the name.
pub fn is_archive_of_log(extension: &Extension, archive: pg_sys::Oid) -> bool {
    let owner = privileges::owner_of(archive);
    extension.find_table(AUDIT_LOG).is_some_and(|log| owner == privileges::owner_of(log))
        || privileges::is_superuser(owner)
}

/// Whether the current user can grant the functions and views. An owner of the tables that has not created the extension
/// cannot.
pub fn may_grant_functions(extension: &Extension) -> bool {
    spi::run(
        Access::ReadLatest,
        "SELECT coalesce(bool_and(pg_has_role(p.proowner, 'USAGE')), false) FROM pg_proc p \
         WHERE p.pronamespace = $1 AND p.proname = 'cache_setup'",
        &[extension.namespace.into()],
        |rows| rows.get(0, 1).unwrap_or(false),
    )
}
