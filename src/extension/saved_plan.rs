//! The extension's own statements, with saved plans. A plan is made anew when the extension's schema or functions change.

use super::grant_hint::{Grant, with_way_out};
use super::{CACHE, Extension, POLICIES};
use crate::pg::invalidation;
use crate::pg::spi::{self, Access, Rows};
use pgrx::datum::DatumWithOid;

/// Runs a statement with the plan that the backend has saved under `name`. `sql` gets the quoted schema of the extension.
///
/// # Errors
/// 42P01 if a table is missing, with the way to create it.
pub fn run<T>(
    access: Access,
    name: &'static str,
    sql: impl FnOnce(&str) -> String,
    args: &[DatumWithOid],
    f: impl FnOnce(&Rows) -> T,
) -> T {
    invalidation::accept_messages();
    let extension = Extension::current();
    let statement = || {
        for table in [CACHE, POLICIES] {
            extension.table(table);
        }
        sql(&extension.schema)
    };
    with_way_out(&extension, Grant::Tenant, || {
        spi::saved_plan::run(access, name, extension.generation, statement, args, f)
    })
}
