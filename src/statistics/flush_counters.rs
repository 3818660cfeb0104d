//! The flush of counters: adds them to the current hour's rows of `cache_statistics_hourly`. They count as stored when the
//! transaction commits.

use super::at_commit::{Change, at_commit, counted};
use super::columns::{COLUMNS, Column, Holds};
use super::counters::{COUNTERS, Counted};
use crate::access::all_rows::must_change_all;
use crate::extension::{Extension, STATISTICS, saved_plan};
use crate::pg::spi::{self, Access};
use crate::pg::{clock, relation};

/// Adds the counters to the current hour's rows. Returns the number of content types.
pub fn flush_counters(extension: &Extension) -> i64 {
    const HOUR: i64 = 3_600_000_000;
    let hour = clock::now().div_euclid(HOUR) * HOUR;
    let table = extension.table(STATISTICS);
    let (known, unknown): (Vec<&Column>, Vec<&Column>) =
        COLUMNS.iter().partition(|column| relation::has_column(table, column.name));
    let mut counted = counted();
    for counted in &mut counted {
        keep(counted, &unknown);
    }
    counted.retain(|counted| counted.pending != [0; COUNTERS]);
    if !counted.is_empty() {
        must_change_all(extension, &[STATISTICS]);
    }
    for counted in &counted {
        store(extension, hour, counted, &known);
        at_commit(Change::CountersStored(counted.number, Box::new(counted.now)));
    }
    counted.len() as i64
}

/// Keeps counters in memory until the table has columns for them. A table of an earlier version gets these by the extension's
/// update, or after the restore of a dump by `cache_setup()`.
fn keep(counted: &mut Counted, unknown: &[&Column]) {
    for place in unknown.iter().flat_map(|column| column.places()) {
        counted.now[place] -= counted.pending[place];
        counted.pending[place] = 0;
    }
}

fn store(extension: &Extension, hour: i64, counted: &Counted, columns: &[&Column]) {
    let mut args = vec![spi::timestamptz(hour), spi::text(&counted.content_type)];
    args.extend(columns.iter().map(|column| column.value(&counted.pending)));
    // The plan that is saved is that of a table with all columns.
    if columns.len() == COLUMNS.len() {
        saved_plan::run(Access::Write, "flush counters", |schema| statement(schema, columns), &args, |_| ());
    } else {
        spi::run(Access::Write, &statement(&extension.schema, columns), &args, |_| ());
    }
}

fn statement(schema: &str, columns: &[&Column]) -> String {
    let (mut names, mut values, mut sums) = (String::new(), String::new(), Vec::new());
    for (position, column) in columns.iter().enumerate() {
        names += &format!(", {}", column.name());
        values += &format!(", ${}", position + 3);
        sums.push(sum(column));
    }
    format!(
        "INSERT INTO {schema}.{STATISTICS} AS h (hour, content_type{names}) VALUES ($1, $2{values}) \
         ON CONFLICT (hour, content_type) DO UPDATE SET {}",
        sums.join(", ")
    )
}

/// Returns the SQL that adds the new value of a column to that of the row.
fn sum(column: &Column) -> String {
    let name = column.name();
    match column.holds {
        Holds::Number(_) => {
            format!("{name} = least(h.{name}::numeric + excluded.{name}, 9223372036854775807)::bigint")
        }
        Holds::Cost(..) => format!("{name} = h.{name} + excluded.{name}"),
        Holds::Histogram(_) => format!(
            "{name} = ARRAY(SELECT least(coalesce(a, 0)::numeric + coalesce(b, 0), 9223372036854775807)::bigint \
             FROM unnest(h.{name}, excluded.{name}) WITH ORDINALITY AS u (a, b, n) ORDER BY n)"
        ),
    }
}
