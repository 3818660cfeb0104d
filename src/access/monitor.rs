//! Monitors: roles that see the figures of every user, and no entry. They have no right on the entries nor on the audit log,
//! since row security cannot show a role the rows of others without all that it may read of them; and none on the log of
//! maintenance, since an error may quote any row. What a report shows of these tables is read with their owner's rights.

use super::row_security::Visible;
use crate::extension::{AUDIT_LOG, BY_TYPE, BY_USER, CACHE, Extension, RUNS, STATISTICS};
use crate::pg::privileges;
use crate::pg::spi::{self, Access};
use crate::pg::subtransaction::MARK;
use pgrx::spi::quote_literal;

/// The tables of figures. Who may read all of them, and not the audit log, is a monitor: what a grant on all tables of a
/// schema has reached is none for that.
pub const FIGURES: [&str; 3] = [STATISTICS, BY_TYPE, BY_USER];

/// Whether the current user is a monitor that may not read every user's entries for itself. As a tenant it may
/// read those of one user.
pub fn only_watches(extension: &Extension) -> bool {
    let may_read = |table: &str| extension.find_table(table).is_some_and(privileges::may_read);
    FIGURES.iter().all(|table| may_read(table))
        && !may_read(AUDIT_LOG)
        && extension.find_table(CACHE).is_some_and(|cache| {
            !privileges::may_read(cache) || Visible::to_current_user(extension, cache) == Visible::OwnEntries
        })
}

/// Whether the caller may see every user's statistics: who may read the entries, and is not restricted by row
/// security, or who may read the roll-up.
pub fn may_see_all_users(extension: &Extension) -> bool {
    extension.find_table(CACHE).is_some_and(|cache| privileges::may_read(cache) && !privileges::is_restricted(cache))
        || extension.find_table(STATISTICS).is_some_and(privileges::may_read)
}

/// The rows of a query on a table, read now with the rights of the table's owner, as a source for a statement of a role
/// that may not read it. `columns` names them with their types.
pub fn read_by_owner_of(extension: &Extension, table: &str, query: &str, columns: &str) -> String {
    let sql =
        format!("SELECT coalesce(json_agg(r), '[]')::text FROM ({query}) r").replace("@extschema@", &extension.schema);
    let rows = privileges::confined_to_owner_of(extension.table(table), || {
        spi::run(Access::Read, &sql, &[], |rows| rows.get::<String>(0, 1).expect("an array"))
    });
    format!("(SELECT * FROM json_to_recordset({}) AS r ({columns}))", quote_literal(rows))
}

/// Whether the current user may see what errors of maintenance said. The last is in memory, and stays there when tables are
/// dropped.
pub fn may_read_errors(extension: &Extension) -> bool {
    let table = [RUNS, AUDIT_LOG].into_iter().find_map(|table| extension.find_table(table));
    !only_watches(extension) && table.map_or_else(privileges::acts_as_superuser, privileges::may_read)
}

/// An expression for all that a text says that may hold what an error said, or else for what is left of it for a monitor.
/// `failed` is one for whether it does: earlier versions logged no code.
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
