//! The columns of the counters: the one table of what SQL calls them. `cache_statistics()` returns these columns, after
//! content_type and in this order, and `cache_statistics_hourly` has a column of each name.

use super::counters::{Count, Latency, MOST, Values, buckets_of, histogram};
use super::tokens::Tokens;
use pgrx::datum::DatumWithOid;
use std::ffi::CStr;

/// What a column holds.
pub enum Holds {
    Number(Count),
    /// A cost in whole units and millionths.
    Cost(Count, Count),
    Histogram(Latency),
}
use Holds::{Cost, Histogram, Number};

pub struct Column {
    pub name: &'static CStr,
    pub holds: Holds,
}

const fn column(name: &'static CStr, holds: Holds) -> Column {
    Column { name, holds }
}

pub static COLUMNS: [Column; 25] = [
    column(c"hits", Number(Count::Hits)),
    column(c"misses", Number(Count::Misses)),
    column(c"stale", Number(Count::Stale)),
    column(c"upserts", Number(Count::Upserts)),
    column(c"invalidations", Number(Count::Invalidations)),
    column(c"expirations", Number(Count::Expirations)),
    column(c"tokens_spent", Cost(Count::TokensSpent, Count::MillionthsSpent)),
    column(c"tokens_saved", Cost(Count::TokensSaved, Count::MillionthsSaved)),
    column(c"untracked_hits", Number(Count::UntrackedHits)),
    column(c"audit_lost", Number(Count::AuditLost)),
    column(c"lookup_us", Histogram(Latency::Lookup)),
    column(c"upsert_us", Histogram(Latency::Upsert)),
    column(c"evictions", Number(Count::Evictions)),
    column(c"leases_granted", Number(Count::LeasesGranted)),
    column(c"leases_denied", Number(Count::LeasesDenied)),
    column(c"leases_expired", Number(Count::LeasesExpired)),
    column(c"waits", Number(Count::Waits)),
    column(c"waits_hit", Number(Count::WaitsHit)),
    column(c"stale_served", Number(Count::StaleServed)),
    column(c"refused_fills", Number(Count::RefusedFills)),
    column(c"refused_by_gate", Number(Count::RefusedByGate)),
    column(c"failures", Number(Count::Failures)),
    column(c"generations", Number(Count::Generations)),
    column(c"generation_total_ms", Number(Count::GenerationMs)),
    column(c"generation_ms", Histogram(Latency::Generation)),
];

impl Column {
    pub fn name(&self) -> &'static str {
        self.name.to_str().expect("a name is ASCII")
    }

    /// Returns the value of the column for these counters.
    pub fn value(&self, counters: &Values) -> DatumWithOid<'static> {
        match self.holds {
            Number(count) => (counters[count as usize].min(MOST) as i64).into(),
            Cost(units, millionths) => {
                let tokens = Tokens { units: counters[units as usize], millionths: counters[millionths as usize] };
                tokens.numeric().into()
            }
            Histogram(latency) => histogram(counters, latency).into(),
        }
    }

    /// Returns the places, among the counters, of those that the column shows.
    pub fn places(&self) -> Vec<usize> {
        match self.holds {
            Number(count) => vec![count as usize],
            Cost(units, millionths) => vec![units as usize, millionths as usize],
            Histogram(latency) => buckets_of(latency).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::counters::COUNTERS;

    #[test]
    fn each_counter_has_one_column() {
        let mut places: Vec<usize> = COLUMNS.iter().flat_map(Column::places).collect();
        places.sort_unstable();
        assert_eq!(places, (0..COUNTERS).collect::<Vec<_>>());
    }
}
