//! cache_refresh_candidates(): what to generate before it is asked for.

use super::run::answer;
use crate::arguments::{missing, or_raise};
use crate::error::{Refusal, shown};
use crate::extension::grant_hint::Grant;
use crate::pg::srf::{Call, Stored, set_returning};
use crate::ttl;
use pgrx::PgSqlErrorCode;
use pgrx::datum::Interval;

/// Most entries of one call.
const MAX_RESULTS: i32 = 10_000;

set_returning!(infinite_pages_cache_refresh_candidates => candidates(within, max_results));

/// Row security decides which entries the caller sees.
fn candidates(call: Call, within: Option<Interval>, max_results: Option<i32>) -> Stored {
    let within = or_raise(checked_within(within));
    let max_results = or_raise(checked_max_results(max_results));
    let query = include_str!("../../sql/reports/cache_refresh_candidates.sql");
    answer(call, query, &[within.into(), i64::from(max_results).into()], Grant::Tenant)
}

/// # Errors
/// 22004 for NULL, 22023 unless positive.
fn checked_within(within: Option<Interval>) -> Result<Interval, Refusal> {
    let hint = "Leave it out for what expires within a day.";
    let within = within.ok_or_else(|| missing("within").hint(hint))?;
    if ttl::microseconds_of(&within).is_none() {
        return Err(Refusal::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "within must be positive")
            .detail(format!("It is {}.", shown(&within.to_string())))
            .hint(hint));
    }
    Ok(within)
}

/// # Errors
/// 22004 for NULL, 22023 for a number out of range.
fn checked_max_results(max_results: Option<i32>) -> Result<i32, Refusal> {
    let hint = "Leave it out for the best 100.";
    let max_results = max_results.ok_or_else(|| missing("max_results").hint(hint))?;
    if !(1..=MAX_RESULTS).contains(&max_results) {
        let message = format!("max_results must be between 1 and {MAX_RESULTS}");
        return Err(Refusal::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, message)
            .detail(format!("It is {max_results}."))
            .hint(hint));
    }
    Ok(max_results)
}
