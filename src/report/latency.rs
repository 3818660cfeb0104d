//! Latencies of a histogram.

use crate::error::Refusal;
use crate::statistics::histogram;
use pgrx::datum::AnyNumeric;
use pgrx::prelude::*;

/// Returns the latency in milliseconds that a share of the calls did not exceed; NULL if there were none.
///
/// # Errors
/// 22023 for a share that is not between 0 and 1, and for more buckets than a histogram has.
#[pg_extern(sql = false)]
fn cache_latency_ms(buckets: Option<Vec<Option<f64>>>, share: Option<f64>) -> Option<AnyNumeric> {
    let (buckets, share) = (buckets?, share?);
    if !(0.0..=1.0).contains(&share) {
        Refusal::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "share must be between 0 and 1")
            .detail(format!("It is {share}."))
            .hint("Pass 0.95 for the 95th percentile.")
            .raise();
    }
    if buckets.len() > histogram::BUCKETS {
        let (most, length) = (histogram::BUCKETS, buckets.len());
        Refusal::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "too many buckets")
            .detail(format!("A histogram has at most {most}; the array has {length}."))
            .hint("Pass lookup_us or upsert_us, or sums of them by position.")
            .raise();
    }
    // A value that is not finite or is negative counts as 0; one too large for any server is capped.
    let number = |count: f64| if count.is_finite() { count.clamp(0.0, 1e300) } else { 0.0 };
    let counts: Vec<f64> = buckets.into_iter().map(|count| count.map_or(0.0, number)).collect();
    histogram::quantile(&counts, share).map(|microseconds| {
        AnyNumeric::try_from(format!("{:.3}", microseconds / 1000.0).as_str()).expect("a decimal number")
    })
}
