//! The roles that act in a worker: in each step the owner of the table that it changes, or for all steps the role that
//! `infinite_pages_cache.maintenance_role` names.

use super::transaction;
use crate::extension::{CACHE, Extension};
use crate::maintenance::step::Step;
use crate::maintenance::steps::STEPS;
use crate::pg::privileges;
use crate::pg::spi::{self, Access};
use crate::settings;
use pgrx::pg_sys;

#[derive(Clone)]
pub struct Role {
    pub oid: pg_sys::Oid,
    pub name: String,
}

/// Returns the role that acts in each step; an error says why the role of the setting may not.
pub fn roles(extension: &Extension) -> Result<Vec<Role>, String> {
    let wanted = settings::MAINTENANCE_ROLE.get().filter(|name| !name.is_empty());
    let Some(wanted) = wanted else {
        let role_of =
            |step: &Step| step.owner_of.map_or_else(transaction::own_role, |table| owner_of(extension, table));
        return Ok(STEPS.iter().map(|step| named(role_of(step))).collect());
    };
    let name = wanted.to_string_lossy().into_owned();
    let Some(oid) = privileges::find_role(&wanted) else {
        return Err(format!("role \"{name}\", which infinite_pages_cache.maintenance_role names, does not exist"));
    };
    if !privileges::role_has_rights_of(oid, owner_of(extension, CACHE)) {
        return Err(format!(
            "role \"{name}\", which infinite_pages_cache.maintenance_role names, must be owner of table {}.{CACHE}, \
             or a member of its owner",
            extension.schema
        ));
    }
    Ok(vec![Role { oid, name }; STEPS.len()])
}

/// Returns the owner of a table. The table is not locked for it, because only steps may wait for a lock.
pub fn owner_of(extension: &Extension, table: &str) -> pg_sys::Oid {
    spi::run(
        Access::ReadLatest,
        "SELECT relowner FROM pg_class WHERE oid = $1",
        &[extension.table(table).into()],
        |rows| {
            if rows.count() > 0 { rows.get(0, 1) } else { None }
        },
    )
    .unwrap_or_else(|| panic!("table {}.{table} is gone", extension.schema))
}

/// Returns a role with its name.
///
/// # Errors
/// 42704 when the role is gone: no step acts as a role that no longer owns anything.
fn named(oid: pg_sys::Oid) -> Role {
    Role { oid, name: privileges::name_of_existing(oid) }
}
