//! Maintenance decides by all rows of a table: if row security may hide some, it refuses to work. FORCE ROW LEVEL SECURITY
//! puts a table's owner under its policies, too.

use super::row_security::{Use, Visible};
use crate::error::Refusal;
use crate::extension::{Extension, TABLES};
use crate::pg::backend::{self, current_user};
use crate::pg::relation::{Relation, qualified_name, while_it_stays};
use crate::pg::{privileges, table_lock};
use pgrx::{PgSqlErrorCode, pg_sys};

const CHANGES: [Use; 3] = [Use::Read, Use::Update, Use::Delete];

/// Makes sure that row security hides no row of some tables from the current user until the transaction ends.
///
/// # Errors
/// 42501 if row security may hide some.
pub fn must_see_all(extension: &Extension, tables: &[&str]) {
    tables.iter().for_each(|table| check(extension.table(table), &[Use::Read]));
}

/// As [`must_see_all`], for rows that the current user is to change, too. Rows left out by a policy would silently stay as
/// they are.
///
/// # Errors
/// 42501 if row security may leave out some.
pub fn must_change_all(extension: &Extension, tables: &[&str]) {
    tables.iter().for_each(|table| check(extension.table(table), &CHANGES));
}

/// As [`must_see_all`], for one table, which may be a partition.
///
/// # Errors
/// 42501 if row security may hide some.
pub fn must_see_all_of(table: pg_sys::Oid) {
    check(table, &[Use::Read]);
}

/// Whether row security hides no row of a table from the current user.
pub fn sees_all(table: pg_sys::Oid) -> bool {
    may_all(table, current_user(), &[Use::Read])
}

/// Whether row security hides no row of a table from its owner.
pub fn owner_sees_all(table: pg_sys::Oid) -> bool {
    may_all(table, privileges::owner_of(table), &[Use::Read])
}

/// Returns the tables whose owner row security may hide rows from.
pub fn hidden_from_owners(extension: &Extension) -> Vec<&'static str> {
    let is_hidden = |table: &&str| {
        extension.find_table(table).is_some_and(|table| !may_all(table, privileges::owner_of(table), &CHANGES))
    };
    TABLES.into_iter().filter(is_hidden).collect()
}

fn check(table: pg_sys::Oid, uses: &[Use]) {
    let role = current_user();
    // Until the end of the transaction no other session can change the table's row security.
    table_lock::lock_to_read(table);
    if !may_all(table, role, uses) {
        refuse(table, role, uses);
    }
}

/// Whether row security lets a role use every row of a table in some ways. A policy counts only if it is the constant true,
/// because what any other lets through is not known.
fn may_all(table: pg_sys::Oid, role: pg_sys::Oid, uses: &[Use]) -> bool {
    let restricted = privileges::is_role_restricted(table, role);
    let allowed = |table: &Relation| uses.iter().all(|way| Visible::by_policies(table, role, *way) == Visible::All);
    !restricted || (!backend::has_row_security_hook() && while_it_stays(table, allowed).unwrap_or(true))
}

fn refuse(table: pg_sys::Oid, role: pg_sys::Oid, uses: &[Use]) -> ! {
    let role = privileges::name_of(role);
    let forced = while_it_stays(table, Relation::forces_row_security).unwrap_or(false);
    let name = qualified_name(table);
    let (what, way_out) = if forced && privileges::is_owned(table) {
        let way_out = format!(
            "ALTER TABLE {name} NO FORCE ROW LEVEL SECURITY; or ALTER ROLE {} BYPASSRLS;",
            pgrx::spi::quote_identifier(&role)
        );
        ("FORCE ROW LEVEL SECURITY", way_out)
    } else {
        let way_out = "Run it as the owner of the table, or give the role a policy that lets it see every row, as \
                       cache_grant_service() does.";
        ("row level security", way_out.to_string())
    };
    let doing = if uses.len() > 1 { "see and change" } else { "see" };
    Refusal::new(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        format!("{what} may hide rows of {name} from role {role}"),
    )
    .detail(format!(
        "The table's policies may not let the role {doing} every row, and a hidden row must not be taken for a missing one."
    ))
    .hint(way_out)
    .raise()
}
