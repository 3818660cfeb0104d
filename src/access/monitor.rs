//! Monitors: roles that see the figures of every user, and no entry. They have no right on the entries or the audit log,
//! because row security cannot show the figures of a row without the row, and none on the log of maintenance, because an
//! error may quote any row. Reports read these tables for monitors with the rights of their owner.

use super::row_security::Visible;
use crate::extension::{AUDIT_LOG, BY_TYPE, BY_USER, CACHE, Extension, RUNS, STATISTICS};
use crate::pg::privileges;
use crate::pg::spi::{self, Access};
use crate::pg::subtransaction::MARK;
use pgrx::spi::quote_literal;

/// The tables of figures. A role that may read all of them, and not the audit log, is a monitor. A role with a grant on all
/// tables of the schema may read the audit log, so it is no monitor.
pub const FIGURES: [&str; 3] = [STATISTICS, BY_TYPE, BY_USER];

/// Whether the current user is a monitor that has no right of its own to read every user's entries. A monitor that is also a
/// tenant may read those of one user.
pub fn only_watches(extension: &Extension) -> bool {
    let may_read = |table: &str| extension.find_table(table).is_some_and(privileges::may_read);
    FIGURES.iter().all(|table| may_read(table))
        && !may_read(AUDIT_LOG)
        && extension.find_table(CACHE).is_some_and(|cache| {
            !privileges::may_read(cache) || Visible::to_current_user(extension, cache) == Visible::OwnEntries
        })
}

/// Whether the current user may see every user's statistics: it may read the entries and row security does not restrict it,
/// or it may read the hourly statistics.
pub fn may_see_all_users(extension: &Extension) -> bool {
    extension.find_table(CACHE).is_some_and(|cache| privileges::may_read(cache) && !privileges::is_restricted(cache))
        || extension.find_table(STATISTICS).is_some_and(privileges::may_read)
}

/// Reads a query on a table with the rights of the table's owner, and returns its rows as a source for a statement of a role
/// that may not read the table. `columns` names the columns with their types.
pub fn read_by_owner_of(extension: &Extension, table: &str, query: &str, columns: &str) -> String {
    let sql =
        format!("SELECT coalesce(json_agg(r), '[]')::text FROM ({query}) r").replace("@extschema@", &extension.schema);
    let rows = privileges::confined_to_owner_of(extension.table(table), || {
        spi::run(Access::Read, &sql, &[], |rows| rows.get::<String>(0, 1).expect("an array"))
    });
    format!("(SELECT * FROM json_to_recordset({}) AS r ({columns}))", quote_literal(rows))
}

/// Whether the current user may see the messages of errors in maintenance. The last one is in shared memory, so this must
/// also answer when the tables are gone.
pub fn may_read_errors(extension: &Extension) -> bool {
    let table = [RUNS, AUDIT_LOG].into_iter().find_map(|table| extension.find_table(table));
    !only_watches(extension) && table.map_or_else(privileges::acts_as_superuser, privileges::may_read)
}

/// Returns an SQL expression for a text that may quote an error: the whole text, or what a monitor may see of it. `failed` is
/// a condition for texts that quote one, because earlier versions logged no SQLSTATE to know them by.
pub fn shown_of(text: &str, failed: &str, whole: bool) -> String {
    if whole {
        return text.to_string();
    }
    format!(
        "CASE WHEN {failed} OR strpos({text}, '{MARK}') > 0 \
              THEN 'an error {MARK}' || coalesce(substring({text} FROM '\\{MARK}([0-9A-Z]{{5}})'), 'unknown') \
                   || '), whose message is for the owner and services' \
              ELSE {text} END"
    )
}
