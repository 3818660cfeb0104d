//! What content policies say about cache_fetch(). A backend keeps all of them, because a statement for each miss would take
//! longer than the rest of the call. It reads them again after a minute, so that long a change may take.

use crate::address::EVERY_OTHER_TYPE;
use crate::extension::{Extension, POLICIES};
use crate::pg::privileges;
use crate::pg::relation::has_column;
use crate::pg::spi::{self, Access};
use crate::ttl;
use pgrx::datum::Interval;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CStr;
use std::time::{Duration, Instant};

/// Content policies that a backend keeps: as many as can have counters of their own.
const MOST: usize = 10_000;
/// Time until a backend reads the content policies again.
const NEWS_AFTER: Duration = Duration::from_secs(60);

/// The shortest time of a lease.
pub const SHORTEST: Duration = Duration::from_secs(1);
/// The longest time of a lease.
pub const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// What a content policy says about fetches.
#[derive(Clone, Copy)]
pub struct FetchPolicy {
    /// How long an answer is served after its expiry, in microseconds, or [`ttl::INFINITE`].
    pub stale_ttl: i64,
    /// How long a lease lasts.
    pub lease_ttl: Duration,
}

/// What the columns are installed with.
const INSTALLED: FetchPolicy = FetchPolicy { stale_ttl: 0, lease_ttl: Duration::from_secs(120) };

#[derive(Default)]
struct Known {
    policies: HashMap<Vec<u8>, FetchPolicy>,
    read_at: Option<Instant>,
}

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::new(Known::default());
}

impl FetchPolicy {
    /// Returns the policy of a content type: its own, else that of `*`, else the defaults of the columns.
    pub fn of(content_type: &[u8]) -> Self {
        renew();
        Self::known(content_type)
    }

    /// As [`Self::of`], as of the last [`renew`]. Calls nothing of the server's.
    pub fn known(content_type: &[u8]) -> Self {
        KNOWN.with_borrow(|known| {
            let find = |name| known.policies.get(name).copied();
            find(content_type).or_else(|| find(EVERY_OTHER_TYPE)).unwrap_or(INSTALLED)
        })
    }
}

/// Reads the content policies if what is known of them is old.
pub fn renew() {
    if KNOWN.with_borrow(|known| known.read_at.is_some_and(|at| at.elapsed() < NEWS_AFTER)) {
        return;
    }
    if let Some(policies) = read() {
        KNOWN.set(Known { policies, read_at: Some(Instant::now()) });
    }
}

/// Reads the content policies; `None` when another session has locked the table, because a lookup waits for nobody. Reads with
/// the rights of the table's owner, so that what is known does not depend on the role.
fn read() -> Option<HashMap<Vec<u8>, FetchPolicy>> {
    let extension = Extension::current();
    let table = extension.try_lock_to_read(POLICIES)?;
    // cache_setup() adds the columns to the table of an earlier version.
    let column = |name: &'static CStr| {
        if has_column(table, name) { name.to_str().expect("ASCII") } else { "CAST(NULL AS pg_catalog.interval)" }
    };
    // `*` comes first, so that it is read however many policies there are.
    let sql = format!(
        "SELECT CAST(content_type AS pg_catalog.text), {}, {} FROM {}.{POLICIES} \
         ORDER BY content_type OPERATOR(pg_catalog.<>) '*' LIMIT {MOST}",
        column(c"stale_ttl"),
        column(c"lease_ttl"),
        extension.schema
    );
    let policies = privileges::as_owner_of(table, || {
        spi::run(Access::ReadLatest, &sql, &[], |rows| {
            rows.map(|rows, row| {
                let interval =
                    |column| rows.get::<Interval>(row, column).and_then(|value| ttl::microseconds_of(&value));
                let lease_ttl = |micros: i64| Duration::from_micros(micros.unsigned_abs()).clamp(SHORTEST, LONGEST);
                let policy = FetchPolicy {
                    stale_ttl: interval(2).unwrap_or(INSTALLED.stale_ttl),
                    lease_ttl: interval(3).map_or(INSTALLED.lease_ttl, lease_ttl),
                };
                rows.text(row, 1).map(|name| (name, policy))
            })
        })
    });
    Some(policies.into_iter().flatten().collect())
}
