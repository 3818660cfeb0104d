//! Brings tables of earlier versions to the shape of this one. cache_setup() calls it, after ALTER EXTENSION UPDATE and after
//! the restore of a dump alike. Every row stays. A value that a new constraint refuses becomes the nearest allowed one; if
//! there is none, the constraint holds for new rows only.

use crate::access::all_rows::must_change_all;
use crate::error::Warning;
use crate::extension::{CACHE, Extension, POLICIES};
use crate::pg::privileges;
use crate::pg::spi::{self, Access};
use pgrx::{PgSqlErrorCode, pg_sys};

/// The limit of token_cost in 0.1.0, as the catalog shows it. That version has created a table whose constraint contains it.
/// A table that clients have created has no constraints of ours, and gets none.
const OLD_LIMIT: &str = "1000000000000000";

/// Comments on columns as earlier versions had them.
const OLD_COMMENTS: [&str; 6] = [
    "What generating the answer cost, in the application's own unit",
    "Empty for all types beyond infinite_pages_cache.max_tracked_content_types",
    "How long past its expiry an entry may still be served while it is generated anew",
    "Reserved, without effect in this version: how long after its expiry an entry may be served while it is generated anew",
    "Those that have expired",
    "Those of the hits that no entry got, for want of shared memory (infinite_pages_cache.max_tracked_entries)",
];

/// Brings a table of an earlier version to the shape of its template.
pub fn upgrade(extension: &Extension, name: &str, table: pg_sys::Oid, template: pg_sys::Oid) {
    if [CACHE, POLICIES].contains(&name) {
        // The UPDATE fires triggers and checks constraints, which are the owner's code.
        privileges::without_more_than_owner_of(table, || upgrade_values(extension, name, table, template));
    }
    if name == CACHE {
        rename_entry_indexes(extension, table);
    }
    open_identities(extension, name, table, template);
    renew_comments(extension, name, table, template);
}

/// Whether [`upgrade`] is going to lock a table against readers.
pub fn locks_out_readers(name: &str, table: pg_sys::Oid, template: pg_sys::Oid) -> bool {
    let outdated = Outdated::of(name, table, template);
    !outdated.constraints.is_empty()
        || !outdated.checks.is_empty()
        || (outdated.has_untyped_cost && dependents_of_cost(table).is_none())
        || !closed_identities(table, template).is_empty()
}

/// What an earlier version has left in the numbers of a table.
#[derive(Default)]
struct Outdated {
    /// Constraints that this version replaces, quoted.
    constraints: Vec<String>,
    has_untyped_cost: bool,
    /// The expressions of constraints that the table lacks.
    checks: Vec<String>,
}

impl Outdated {
    fn of(name: &str, table: pg_sys::Oid, template: pg_sys::Oid) -> Self {
        if ![CACHE, POLICIES].contains(&name) {
            return Self::default();
        }
        let constraints = outdated_constraints(table);
        let is_ours = !constraints.is_empty() || (name == POLICIES && has_our_constraint(table));
        let checks = if is_ours { missing_checks(table, template) } else { Vec::new() };
        Self { constraints, has_untyped_cost: name == CACHE && has_untyped_cost(table), checks }
    }
}

fn upgrade_values(extension: &Extension, name: &str, table: pg_sys::Oid, template: pg_sys::Oid) {
    let Outdated { constraints: outdated, has_untyped_cost: retype, checks: wanted } =
        Outdated::of(name, table, template);
    let mut changes = Vec::new();
    if retype || !outdated.is_empty() {
        must_change_all(extension, &[name]);
        let mended = if name == CACHE && !outdated.is_empty() {
            &["hit_count", "adaptation_count", "token_cost_saved", "access_frequency", "token_cost"][..]
        } else {
            &["token_cost"][..]
        };
        mend(extension, name, mended);
    }
    if retype {
        match dependents_of_cost(table) {
            None => changes.push("ALTER COLUMN token_cost TYPE numeric(16,6)".to_string()),
            Some(dependents) => Warning::new(
                PgSqlErrorCode::ERRCODE_WARNING,
                format!("column token_cost of {name} keeps its type, numeric without a scale"),
            )
            .detail(format!("These objects depend on it: {dependents}."))
            .hint(format!("Drop them, run SELECT {}.cache_setup(), and create them again.", extension.schema))
            .send(),
        }
    }
    changes.extend(outdated.iter().map(|constraint| format!("DROP CONSTRAINT {constraint}")));
    if !wanted.is_empty() {
        let broken = broken_by_rows(extension, name, &wanted);
        for (expression, rows) in wanted.iter().zip(broken) {
            let not_valid = if rows == 0 { "" } else { " NOT VALID" };
            changes.push(format!("ADD CHECK ({expression}){not_valid}"));
            if rows > 0 {
                let message = format!("{rows} rows of {name} break a constraint of this version and stay as they are");
                let hint = format!(
                    "Correct or delete them, then run ALTER TABLE {}.{name} VALIDATE CONSTRAINT, as verify_production_cache() shows it.",
                    extension.schema
                );
                Warning::new(PgSqlErrorCode::ERRCODE_WARNING, message)
                    .detail(format!("The constraint is CHECK ({expression}), and holds for new rows only."))
                    .hint(hint)
                    .send();
            }
        }
    }
    if !changes.is_empty() {
        // One statement, so that rows are read and written once.
        spi::execute(&format!("ALTER TABLE {}.{name} {}", extension.schema, changes.join(", ")));
    }
}

/// Returns the constraints of a table that this version replaces, quoted.
fn outdated_constraints(table: pg_sys::Oid) -> Vec<String> {
    spi::run(
        Access::ReadLatest,
        "SELECT quote_ident(conname) FROM pg_constraint WHERE conrelid = $1 AND contype = 'c' AND conislocal \
         AND conname LIKE '%token_cost_check' AND strpos(pg_get_constraintdef(oid), $2) > 0",
        &[table.into(), OLD_LIMIT.into()],
        |rows| rows.map(|rows, row| rows.get::<String>(row, 1).expect("a name")),
    )
}

/// Whether a table has a constraint of ours. A table that clients have created has none, and gets none.
fn has_our_constraint(table: pg_sys::Oid) -> bool {
    spi::run(
        Access::ReadLatest,
        "SELECT EXISTS (SELECT FROM pg_constraint WHERE conrelid = $1 AND contype = 'c' AND conname LIKE '%token_cost_check')",
        &[table.into()],
        |rows| rows.get(0, 1).unwrap_or(false),
    )
}

/// Whether token_cost has no scale, as in 0.1.0, and the table has a constraint of ours. A column that clients have created
/// stays as it is.
fn has_untyped_cost(table: pg_sys::Oid) -> bool {
    spi::run(
        Access::ReadLatest,
        "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = $1 AND attname = 'token_cost' AND NOT attisdropped \
                        AND atttypid = 'numeric'::regtype AND atttypmod = -1)",
        &[table.into()],
        |rows| rows.get(0, 1).unwrap_or(false),
    ) && has_our_constraint(table)
}

/// Brings numbers into the bounds of this version: counts to at least 0, a cost to at most 10^9.
fn mend(extension: &Extension, name: &str, columns: &[&str]) {
    let nearest: Vec<_> = columns
        .iter()
        .map(|column| match *column {
            "token_cost" => ("token_cost", "least(greatest(token_cost, 0), 1e9)".to_string()),
            count => (count, format!("greatest({count}, 0)")),
        })
        .collect();
    // greatest() and least() ignore NULL, and would replace it.
    let set: Vec<String> = nearest
        .iter()
        .map(|(column, value)| format!("{column} = CASE WHEN {column} IS NOT NULL THEN {value} END"))
        .collect();
    let differ: Vec<String> = nearest.iter().map(|(column, value)| format!("{column} <> {value}")).collect();
    spi::execute(&format!("UPDATE {}.{name} SET {} WHERE {}", extension.schema, set.join(", "), differ.join(" OR ")));
}

/// An expression for the name of the dependent object of a row `d` of pg_depend: for the rule of a view, the view.
pub const DEPENDENT: &str = "\
    CASE d.classid WHEN 'pg_rewrite'::regclass \
    THEN (SELECT pg_describe_object('pg_class'::regclass, r.ev_class, 0) FROM pg_rewrite r WHERE r.oid = d.objid) \
    ELSE pg_describe_object(d.classid, d.objid, d.objsubid) END";

/// Returns the objects that prevent a change of the type of token_cost. Constraints, indexes and statistics do not.
fn dependents_of_cost(table: pg_sys::Oid) -> Option<String> {
    let sql = format!(
        "SELECT string_agg(DISTINCT {DEPENDENT}, ', ') \
         FROM (SELECT $1 AS oid UNION ALL SELECT inhrelid FROM pg_inherits WHERE inhparent = $1) t \
         JOIN pg_attribute a ON a.attrelid = t.oid AND a.attname = 'token_cost' \
         JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid AND d.refobjsubid = a.attnum \
         WHERE d.classid NOT IN ('pg_constraint'::regclass, 'pg_class'::regclass, 'pg_statistic_ext'::regclass)"
    );
    spi::run(Access::ReadLatest, &sql, &[table.into()], |rows| rows.get(0, 1))
}

/// Returns the expressions of the CHECK constraints of the template that a table lacks.
fn missing_checks(table: pg_sys::Oid, template: pg_sys::Oid) -> Vec<String> {
    spi::run(
        Access::ReadLatest,
        "SELECT pg_get_expr(w.conbin, w.conrelid) FROM pg_constraint w WHERE w.conrelid = $1 AND w.contype = 'c' \
         AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conrelid = $2 AND c.contype = 'c' \
                         AND pg_get_expr(c.conbin, c.conrelid) = pg_get_expr(w.conbin, w.conrelid)) \
         ORDER BY w.conname",
        &[template.into(), table.into()],
        |rows| rows.map(|rows, row| rows.get::<String>(row, 1).expect("an expression")),
    )
}

/// Counts the rows that break each constraint.
fn broken_by_rows(extension: &Extension, name: &str, checks: &[String]) -> Vec<i64> {
    let counts: Vec<String> = checks.iter().map(|check| format!("count(*) FILTER (WHERE NOT ({check}))")).collect();
    let sql = format!("SELECT {} FROM {}.{name}", counts.join(", "), extension.schema);
    spi::run(Access::ReadLatest, &sql, &[], |rows| {
        (1..=checks.len()).map(|column| rows.get(0, column as i32).unwrap_or(0)).collect()
    })
}

/// Makes identity columns GENERATED BY DEFAULT where the template does. Those of 0.1.0 are GENERATED ALWAYS.
fn open_identities(extension: &Extension, name: &str, table: pg_sys::Oid, template: pg_sys::Oid) {
    for column in closed_identities(table, template) {
        spi::execute(&format!(
            "ALTER TABLE {}.{name} ALTER COLUMN {column} SET GENERATED BY DEFAULT",
            extension.schema
        ));
    }
}

fn closed_identities(table: pg_sys::Oid, template: pg_sys::Oid) -> Vec<String> {
    spi::run(
        Access::ReadLatest,
        "SELECT quote_ident(t.attname) FROM pg_attribute t JOIN pg_attribute w ON w.attname = t.attname \
         WHERE t.attrelid = $1 AND t.attidentity = 'a' AND w.attrelid = $2 AND w.attidentity = 'd'",
        &[table.into(), template.into()],
        |rows| rows.map(|rows, row| rows.get::<String>(row, 1).expect("a name")),
    )
}

/// Renames the entry indexes of 0.1.0 to the name that the server would give them, if that is free.
fn rename_entry_indexes(extension: &Extension, table: pg_sys::Oid) {
    let names = spi::run(
        Access::ReadLatest,
        "SELECT quote_ident(x.relname), quote_ident(new.name) \
         FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhrelid JOIN pg_index e ON e.indrelid = p.oid AND e.indisunique AND e.indexprs IS NOT NULL \
         JOIN pg_class x ON x.oid = e.indexrelid AND x.relname = p.relname || '_entry_idx', \
         LATERAL (SELECT p.relname || '_user_id_cache_entry_digest_idx' AS name) new \
         WHERE i.inhparent = $1 AND x.relnamespace = $2 AND octet_length(new.name) < 64 \
           AND NOT EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = $2 AND c.relname = new.name) ORDER BY 1",
        &[table.into(), extension.namespace.into()],
        |rows| {
            rows.map(|rows, row| {
                (rows.get::<String>(row, 1).expect("a name"), rows.get::<String>(row, 2).expect("a name"))
            })
        },
    );
    for (old, new) in names {
        spi::execute(&format!("ALTER INDEX {}.{old} RENAME TO {new}", extension.schema));
    }
}

/// Gives columns the comments of the template, unless they have a comment of an operator.
pub fn renew_comments(extension: &Extension, name: &str, table: pg_sys::Oid, template: pg_sys::Oid) {
    let renewed = spi::run(
        Access::ReadLatest,
        "SELECT quote_ident(t.attname), quote_literal(wanted.comment) \
         FROM pg_attribute t JOIN pg_attribute w ON w.attname = t.attname, \
              LATERAL (SELECT col_description(w.attrelid, w.attnum) AS comment) wanted, \
              LATERAL (SELECT col_description(t.attrelid, t.attnum) AS comment) found \
         WHERE t.attrelid = $1 AND t.attnum > 0 AND NOT t.attisdropped AND w.attrelid = $2 AND w.attnum > 0 AND NOT w.attisdropped \
           AND wanted.comment <> coalesce(found.comment, '') AND (found.comment IS NULL OR found.comment = ANY ($3)) \
         ORDER BY t.attnum",
        &[table.into(), template.into(), OLD_COMMENTS.map(str::to_string).to_vec().into()],
        |rows| {
            rows.map(|rows, row| {
                (rows.get::<String>(row, 1).expect("a name"), rows.get::<String>(row, 2).expect("a comment"))
            })
        },
    );
    for (column, comment) in renewed {
        spi::execute(&format!("COMMENT ON COLUMN {}.{name}.{column} IS {comment}", extension.schema));
    }
}
