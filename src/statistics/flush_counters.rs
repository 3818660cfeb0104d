//! The flush of counters: adds them to the current hour's rows of `cache_statistics_hourly`. They count as stored when the
//! transaction commits.

use super::at_commit::{Change, at_commit, counted};
use super::counters::{self, COUNTERS, Count, Counted};
use crate::access::all_rows::must_change_all;
use crate::extension::{Extension, STATISTICS, saved_plan};
use crate::pg::spi::{self, Access};
use crate::pg::{clock, relation};
use pgrx::datum::DatumWithOid;

/// Adds the counters to the current hour's rows. Returns the number of content types.
pub fn flush_counters(extension: &Extension) -> i64 {
    const HOUR: i64 = 3_600_000_000;
    let hour = clock::now().div_euclid(HOUR) * HOUR;
    let mut counted = counted();
    let knows_evictions = knows_evictions(extension);
    if !knows_evictions {
        // Evictions stay in memory until the table has the column.
        for counted in &mut counted {
            counted.now[Count::Evictions as usize] -= counted.pending[Count::Evictions as usize];
            counted.pending[Count::Evictions as usize] = 0;
        }
    }
    counted.retain(|counted| counted.pending != [0; COUNTERS]);
    if !counted.is_empty() {
        must_change_all(extension, &[STATISTICS]);
    }
    for counted in &counted {
        store(hour, counted, knows_evictions);
        at_commit(Change::CountersStored(counted.number, Box::new(counted.now)));
    }
    counted.len() as i64
}

/// Whether the table has a column for evictions. A table of 0.2.0 gets it by the extension's update, or after the restore of a
/// dump by `cache_setup()`.
fn knows_evictions(extension: &Extension) -> bool {
    relation::has_column(extension.table(STATISTICS), c"evictions")
}

fn store(hour: i64, counted: &Counted, knows_evictions: bool) {
    let number = |count: Count| DatumWithOid::from(counted.pending[count as usize] as i64);
    let mut args = vec![
        spi::timestamptz(hour),
        spi::text(&counted.content_type),
        number(Count::Hits),
        number(Count::Misses),
        number(Count::Stale),
        number(Count::Upserts),
        number(Count::Invalidations),
        number(Count::Expirations),
        number(Count::UntrackedHits),
        number(Count::AuditLost),
        number(Count::TokensSpent),
        number(Count::MillionthsSpent),
        number(Count::TokensSaved),
        number(Count::MillionthsSaved),
        counters::histogram(&counted.pending, 0).into(),
        counters::histogram(&counted.pending, 1).into(),
    ];
    let mut columns =
        vec!["hits", "misses", "stale", "upserts", "invalidations", "expirations", "untracked_hits", "audit_lost"];
    let (name, column, value) = if knows_evictions {
        args.push(number(Count::Evictions));
        columns.push("evictions");
        ("flush counters", ", evictions", ", $17")
    } else {
        ("flush counters of 0.2.0", "", "")
    };
    let sums: Vec<String> = columns
        .iter()
        .map(|column| format!("{column} = least(h.{column}::numeric + excluded.{column}, 9223372036854775807)::bigint"))
        .collect();
    let histograms = ["lookup_us", "upsert_us"].map(|column| {
        format!(
            "{column} = ARRAY(SELECT least(coalesce(a, 0)::numeric + coalesce(b, 0), 9223372036854775807)::bigint \
             FROM unnest(h.{column}, excluded.{column}) WITH ORDINALITY AS u (a, b, n) ORDER BY n)"
        )
    });
    saved_plan::run(
        Access::Write,
        name,
        |schema| {
            format!(
                "INSERT INTO {schema}.{STATISTICS} AS h \
                     (hour, content_type, hits, misses, stale, upserts, invalidations, expirations, untracked_hits, \
                      audit_lost, tokens_spent, tokens_saved, lookup_us, upsert_us{column}) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, \
                         trim_scale($11 + $12 * 0.000001), trim_scale($13 + $14 * 0.000001), $15, $16{value}) \
                 ON CONFLICT (hour, content_type) DO UPDATE SET {}, {}, \
                     tokens_spent = h.tokens_spent + excluded.tokens_spent, \
                     tokens_saved = h.tokens_saved + excluded.tokens_saved",
                sums.join(", "),
                histograms.join(", ")
            )
        },
        &args,
        |_| (),
    );
}
