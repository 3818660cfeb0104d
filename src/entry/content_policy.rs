//! Content policies: the defaults of a content type for what a call leaves out.

use crate::address::EVERY_OTHER_TYPE;
use crate::extension::{Extension, POLICIES, saved_plan};
use crate::pg::relation;
use crate::pg::spi::{self, Access};
use crate::ttl;
use pgrx::datum::{AnyNumeric, Interval};

/// Defaults for new entries of one content type.
#[derive(Clone)]
pub struct Policy {
    /// In microseconds, or [`ttl::INFINITE`].
    pub ttl: i64,
    /// What generating the answer costs, in the application's own unit.
    pub token_cost: AnyNumeric,
    /// 1 = high … 3 = low.
    pub priority_tier: i32,
    /// The condition, as jsonpath, that an answer must meet to be stored.
    pub accept_if: Option<String>,
}

impl Policy {
    /// Returns the policy of a content type: its own row, else the row `*`, else the values that row was installed with.
    pub fn of(content_type: &[u8]) -> Self {
        Self::stored(content_type).or_else(|| Self::stored(EVERY_OTHER_TYPE)).unwrap_or_else(|| Self {
            ttl: 7 * crate::calendar::DAY,
            token_cost: AnyNumeric::from(1),
            priority_tier: 3,
            accept_if: None,
        })
    }

    fn stored(content_type: &[u8]) -> Option<Self> {
        // The table of a dump of an earlier version lacks the column until cache_setup().
        let has_gate = relation::has_column(Extension::current().table(POLICIES), c"accept_if");
        let (plan, accept_if) =
            if has_gate { ("policy", "accept_if::text") } else { ("policy of 0.2.0", "NULL::text") };
        let sql = |schema: &str| {
            format!(
                "SELECT ttl, token_cost, priority_tier, {accept_if} FROM {schema}.{POLICIES} WHERE content_type = $1"
            )
        };
        saved_plan::run(Access::Read, plan, sql, &[spi::text(content_type)], |rows| {
            (rows.count() > 0).then(|| Self {
                ttl: rows.get::<Interval>(0, 1).map_or(ttl::INFINITE, |ttl| ttl::microseconds(&ttl)),
                token_cost: rows.get(0, 2).expect("token_cost is NOT NULL"),
                priority_tier: rows.get(0, 3).expect("priority_tier is NOT NULL"),
                accept_if: rows.get(0, 4),
            })
        })
    }
}
