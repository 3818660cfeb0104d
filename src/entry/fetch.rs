//! cache_fetch(): a lookup that also says who generates an answer that is missing or old.
//!
//! A call looks for the entry first. A live one is returned at once, and nothing is locked for it. For any other the call asks for
//! the lease of the key, and the holder of the lease generates. The look before the grant has a snapshot that is taken after
//! [`lease::ends`] was read: if no lease of the key has ended since, no answer has been stored with one since, and the look need
//! not be repeated.

use super::fetch_policy::FetchPolicy;
use super::freshness::{is_due_early, random};
use super::served_version::{Newest, Served};
use super::waiting;
use super::write_rights::Writer;
use crate::address::Address;
use crate::arguments::or_raise;
use crate::audit::reads;
use crate::error::Refusal;
use crate::lease::{self, Grant, LeaseId, Wanted, Woken};
use crate::pg::datetime::{duration_of, interval_of, interval_of_microseconds};
use crate::pg::memory::Memory;
use crate::pg::row::{Column, returning_row};
use crate::pg::{backend, clock, spi};
use crate::settings;
use crate::statistics::counters::{Count, Latency};
use crate::statistics::{Call, Found, counted_now, mean_generation};
use pgrx::datum::{DatumWithOid, Interval};
use pgrx::prelude::*;
use pgrx::{Uuid, pg_sys};
use std::time::{Duration, Instant};

returning_row!(cache_fetch_wrapper => fetch(user_id, content_type, cache_key, wait, foundation_dependency) -> COLUMNS);

const COLUMNS: [Column; 6] = [
    (c"state", pg_sys::TEXTOID),
    (c"content", pg_sys::JSONBOID),
    (c"lease", pg_sys::UUIDOID),
    (c"retry_after", pg_sys::INTERVALOID),
    (c"expires_at", pg_sys::TIMESTAMPTZOID),
    (c"age", pg_sys::INTERVALOID),
];

/// What a caller is told.
#[derive(Clone, Copy)]
enum Answer<'a> {
    /// A live answer.
    Hit(Served<'a>),
    /// A live or stale answer, which the caller generates anew.
    Refresh(Served<'a>, LeaseId),
    /// An answer that has expired. Somebody else generates it anew, if a lease can be had.
    Stale(Served<'a>),
    /// The caller generates; without a lease where none can be had.
    Generate(Option<LeaseId>),
    /// Somebody else generates.
    Wait { retry_after: Duration },
    /// The last generation has failed.
    Failed { retry_after: Duration },
}

fn fetch<'fcx>(
    memory: Memory<'fcx>,
    user_id: Option<Uuid>,
    content_type: Option<&'fcx [u8]>,
    cache_key: Option<&'fcx [u8]>,
    wait: Option<Interval>,
    foundation_dependency: Option<&'fcx [u8]>,
) -> [DatumWithOid<'fcx>; 6] {
    let call = Call::begins(Latency::Lookup);
    let address = or_raise(Address::to_write(user_id, content_type, cache_key));
    let patience = checked_wait(wait);
    if !settings::ENABLED.get() {
        return Answer::Generate(None).row();
    }
    let writer = Writer::current();
    // Before the look, so that what a tenant is told of another user's entry does not depend on whether there is one.
    writer.refuse_foreign(&address.user_id);
    let policy = FetchPolicy::of(address.content_type);
    let may_write = writer.may_write(&address.user_id);
    let mut fetch = Fetch {
        call: &call,
        address: &address,
        foundation: foundation_dependency,
        policy,
        may_write,
        memory,
        newest: Newest::Nothing,
        counted_at: None,
    };
    let mut answer = fetch.ask();
    let has_waited = fetch.wait(&mut answer, patience);
    fetch.count(answer, has_waited);
    answer.row()
}

/// A call that has checked its arguments.
struct Fetch<'c, 'm> {
    call: &'c Call,
    address: &'c Address<'c>,
    foundation: Option<&'c [u8]>,
    policy: FetchPolicy,
    /// Whether the caller may store the answer. If not, it gets no lease.
    may_write: bool,
    memory: Memory<'m>,
    /// What the last look has found.
    newest: Newest<'m>,
    /// The slot that counts the content type.
    counted_at: Option<u32>,
}

impl<'c, 'm> Fetch<'c, 'm> {
    fn look(&mut self) -> Option<Served<'m>> {
        self.newest = Newest::of(self.address, self.policy.stale_ttl, self.memory);
        self.counted_at = self.call.slot(self.address.content_type, !matches!(self.newest, Newest::Nothing));
        self.newest.served()
    }

    /// Looks for the entry and, unless it is live, asks for the lease.
    fn ask(&mut self) -> Answer<'m> {
        let seen = lease::ends(self.address);
        let found = self.look();
        if let Some(version) = found.filter(|version| version.is_live())
            && !self.is_due_early(&version)
        {
            return Answer::Hit(version);
        }
        let granted = if self.may_write { lease::grant(&self.wanted(), seen) } else { Grant::Unavailable };
        if let Grant::NoRoom = granted {
            counted_now(self.counted_at, Count::LeasesDenied, 1);
        }
        match (granted, found) {
            (Grant::Lease { lease, look_again }, _) => self.granted(lease, look_again, found),
            (_, Some(version)) if version.is_live() => Answer::Hit(version),
            (_, Some(version)) => Answer::Stale(version),
            (Grant::Held { ends_in }, None) => Answer::Wait { retry_after: retry_after(ends_in) },
            (Grant::Failed { retry_after }, None) => Answer::Failed { retry_after },
            (Grant::Pending | Grant::NoRoom | Grant::Unavailable, None) => Answer::Generate(None),
        }
    }

    fn wanted(&self) -> Wanted<'c> {
        Wanted {
            address: self.address,
            foundation: self.foundation,
            ttl: self.policy.lease_ttl,
            counted_at: self.counted_at,
        }
    }

    fn granted(&mut self, lease: LeaseId, look_again: bool, before: Option<Served<'m>>) -> Answer<'m> {
        let found = if look_again { self.look() } else { before };
        let is_new = |version: &Served| {
            before
                .is_none_or(|before| (before.created_at, before.expires_at) != (version.created_at, version.expires_at))
        };
        if let Some(version) = found.filter(|version| version.is_live() && is_new(version)) {
            // Somebody has stored it between the look and the grant.
            lease::release(lease, |_| true, None);
            return Answer::Hit(version);
        }
        counted_now(self.counted_at, Count::LeasesGranted, 1);
        found.map_or(Answer::Generate(Some(lease)), |version| Answer::Refresh(version, lease))
    }

    /// While somebody else generates, sleeps until the lease has ended, and asks again. Returns whether it has slept.
    fn wait(&mut self, answer: &mut Answer<'m>, patience: Duration) -> bool {
        let must_wait = |answer: &Answer| matches!(answer, Answer::Wait { .. });
        if patience.is_zero() || !must_wait(answer) || !waiting::is_allowed() {
            return false;
        }
        let begun = Instant::now();
        let mut has_slept = false;
        while must_wait(answer) {
            let left = patience.saturating_sub(begun.elapsed());
            if left.is_zero() || lease::sleep_until_end(self.address, left) == Woken::NoPlace {
                break;
            }
            has_slept = true;
            *answer = self.ask();
        }
        has_slept
    }

    /// Whether a live answer is to be generated anew before it expires.
    fn is_due_early(&self, version: &Served) -> bool {
        let beta = settings::EARLY_REFRESH.get();
        let Some(generation) = mean_generation(self.counted_at).filter(|_| beta > 0.0) else { return false };
        let now = clock::now();
        let seed = || u64::from_ne_bytes(now.to_ne_bytes()) ^ (u64::from(backend::process_id().unsigned_abs()) << 40);
        is_due_early(version.expires_at, now, generation.as_micros() as f64, beta, || random(seed()))
    }

    /// Counts and audits the call as one lookup, whatever it has found in between. A call that has slept is not timed.
    fn count(&self, answer: Answer, has_slept: bool) {
        let served = match answer {
            Answer::Hit(version) | Answer::Refresh(version, _) | Answer::Stale(version) => Some(version),
            Answer::Generate(_) | Answer::Wait { .. } | Answer::Failed { .. } => None,
        };
        let found = match (served, self.newest) {
            (Some(version), _) => Found::Live((), version.hit),
            (None, Newest::Nothing) => Found::Nothing,
            (None, _) => Found::Expired,
        };
        let counts = [
            (Count::StaleServed, matches!(answer, Answer::Stale(_))),
            (Count::Waits, has_slept),
            (Count::WaitsHit, has_slept && matches!(answer, Answer::Hit(_))),
        ];
        for (count, _) in counts.into_iter().filter(|(_, is_so)| *is_so) {
            counted_now(self.counted_at, count, 1);
        }
        reads::record(self.address, found.is_live());
        self.call.looked_up(self.counted_at, self.address, &found);
        if !has_slept {
            self.call.ends(self.counted_at);
        }
    }
}

/// Returns when to ask again for an answer that somebody else generates: after a tenth of the time that it may still take.
fn retry_after(ends_in: Duration) -> Duration {
    (ends_in / 10).clamp(Duration::from_millis(100), Duration::from_secs(2))
}

impl Answer<'_> {
    fn row<'m>(self) -> [DatumWithOid<'m>; 6]
    where
        Self: 'm,
    {
        let (state, served, lease, retry_after) = match self {
            Answer::Hit(version) => ("hit", Some(version), None, None),
            Answer::Refresh(version, lease) => ("refresh", Some(version), Some(lease), None),
            Answer::Stale(version) => ("stale", Some(version), None, None),
            Answer::Generate(lease) => ("generate", None, lease, None),
            Answer::Wait { retry_after } => ("wait", None, None, Some(retry_after)),
            Answer::Failed { retry_after } => ("failed", None, None, Some(retry_after)),
        };
        let age =
            served.and_then(|version| version.created_at).filter(|created| ![i64::MIN, i64::MAX].contains(created));
        [
            spi::text(state.as_bytes()),
            served.map(|version| version.content).into(),
            lease.map(|lease| lease.0).into(),
            retry_after.map(interval_of).into(),
            served.map_or_else(DatumWithOid::null::<TimestampWithTimeZone>, |version| {
                spi::timestamptz(version.expires_at)
            }),
            age.map(|created| interval_of_microseconds(clock::now().saturating_sub(created))).into(),
        ]
    }
}

/// Returns how long a call may wait: what its caller says, and at most `max_fetch_wait`. NULL is not to wait.
///
/// # Errors
/// 22023 for a negative time.
fn checked_wait(wait: Option<Interval>) -> Duration {
    let Some(wait) = wait else { return Duration::ZERO };
    let Some(asked) = duration_of(&wait) else {
        Refusal::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "wait must not be negative")
            .detail(format!("It is {wait}."))
            .hint("Leave it out not to wait.")
            .raise();
    };
    let longest = Duration::from_millis(settings::MAX_FETCH_WAIT.get().unsigned_abs().into());
    asked.min(longest)
}
