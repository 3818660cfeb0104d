//! Owners of the extension's tables.

use crate::error::Refusal;
use crate::extension::{AUDIT_LOG, Extension};
use crate::pg::privileges;
use crate::pg::spi::{self, Access};
use pgrx::{PgSqlErrorCode, pg_sys};

/// Checks that the current user owns one of the extension's tables, or has its owner's rights.
///
/// # Errors
/// 42501 with the given detail and hint.
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

/// Two of the tables that have different owners, if there are any: a statement that writes several runs the triggers
/// of all with the rights of one owner.
pub fn of_different_owners<'a>(extension: &Extension, tables: &[&'a str]) -> Option<(&'a str, &'a str)> {
    let owner = |table: &str| privileges::owner_of(extension.table(table));
    let (first, others) = tables.split_first()?;
    let other = others.iter().find(|other| owner(other) != owner(first))?;
    Some((first, other))
}

/// Whether the archive is that of the audit log, as far as its owner tells: whoever may create tables may take its name.
pub fn is_archive_of_log(extension: &Extension, archive: pg_sys::Oid) -> bool {
    let owner = privileges::owner_of(archive);
    extension.find_table(AUDIT_LOG).is_some_and(|log| owner == privileges::owner_of(log))
        || privileges::is_superuser(owner)
}

/// Whether the current user can grant the functions and views: an owner of the tables that has not created the
/// extension cannot, and leaves their grants as they are.
pub fn may_grant_functions(extension: &Extension) -> bool {
    spi::run(
        Access::ReadLatest,
        "SELECT coalesce(bool_and(pg_has_role(p.proowner, 'USAGE')), false) FROM pg_proc p \
         WHERE p.pronamespace = $1 AND p.proname = 'cache_setup'",
        &[extension.namespace.into()],
        |rows| rows.get(0, 1).unwrap_or(false),
    )
}
