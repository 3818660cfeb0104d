//! Stale times: how long entries are kept after their expiry, by `stale_ttl` of their content policies. An entry that is past
//! both is over: maintenance may delete it, and reports count it as expired.

use crate::address::EVERY_OTHER_TYPE;
use crate::extension::{CACHE, Extension, POLICIES, saved_plan};
use crate::pg::clock::now;
use crate::pg::privileges;
use crate::pg::spi::{self, Access};
use crate::ttl;
use pgrx::datum::{DatumWithOid, Interval, TimestampWithTimeZone};
use pgrx::spi::quote_literal;
use std::collections::BTreeMap;

/// The expiry of an entry as the index on content type and expiry has it.
pub const EXPIRY_OF_TYPE: &str = "(expires_at AT TIME ZONE 'UTC')";

/// The stale times of all content types, in microseconds, or [`ttl::INFINITE`].
#[derive(Default)]
pub struct StaleTimes {
    listed: BTreeMap<Vec<u8>, i64>,
    /// Of types without a content policy of their own.
    others: i64,
}

impl StaleTimes {
    /// Reads the content policies with the rights of their owner, because reports are also for roles that may not read them.
    /// What deletes by them checks that row security hides none.
    pub fn read(extension: &Extension) -> Self {
        let Some(table) = extension.find_table(POLICIES) else { return Self::default() };
        let sql = format!("SELECT content_type::text, stale_ttl FROM {}.{POLICIES}", extension.schema);
        let policies = privileges::as_owner_of(table, || {
            spi::run(Access::ReadLatest, &sql, &[], |rows| {
                rows.map(|rows, row| {
                    let time = rows.get::<Interval>(row, 2).as_ref().and_then(ttl::microseconds_of);
                    (rows.text(row, 1).unwrap_or_default(), time.unwrap_or(0))
                })
            })
        });
        let mut listed: BTreeMap<_, _> = policies.into_iter().collect();
        let others = listed.remove(EVERY_OTHER_TYPE).unwrap_or(0);
        Self { listed, others }
    }

    /// Whether any entry is kept after its expiry.
    pub fn are_used(&self) -> bool {
        self.others > 0 || self.listed.values().any(|time| *time > 0)
    }

    /// Returns the latest expiry, in microseconds since 2000-01-01 UTC, with which entries of a content type are over;
    /// `i64::MIN`, which is `-infinity`, where none ever is.
    pub fn over_until(&self, content_type: &[u8], now: i64) -> i64 {
        before(now, self.listed.get(content_type).copied().unwrap_or(self.others))
    }

    /// As [`StaleTimes::over_until`], of the content types that are kept longest: what has expired later is not over, unless
    /// its type is kept for a shorter time.
    pub fn all_over_until(&self, now: i64) -> i64 {
        before(now, self.listed.values().copied().fold(self.others, i64::max))
    }

    /// Returns the SQL condition that an entry is over. `table` is empty, or the alias of the table with a dot.
    pub fn is_over(&self, table: &str, now: i64) -> String {
        self.is_over_of(table, now, |content_type| quote_literal(String::from_utf8_lossy(content_type)))
    }

    /// As [`StaleTimes::is_over`]; `quoted` makes a literal, which needs a server.
    fn is_over_of(&self, table: &str, now: i64, quoted: impl Fn(&[u8]) -> String) -> String {
        let mut types: BTreeMap<i64, Vec<String>> = BTreeMap::new();
        for (content_type, time) in self.listed.iter().filter(|(_, time)| **time != self.others) {
            types.entry(*time).or_default().push(quoted(content_type));
        }
        let until = |time| timestamp(before(now, time));
        let of_others = until(self.others);
        if types.is_empty() {
            return format!("({table}expires_at <= {of_others})");
        }
        let cases: Vec<String> = types
            .iter()
            .map(|(time, types)| format!("WHEN {table}content_type IN ({}) THEN {}", types.join(", "), until(*time)))
            .collect();
        format!("({table}expires_at <= CASE {} ELSE {of_others} END)", cases.join(" "))
    }
}

/// Replaces `@is_over@` in a query by [`StaleTimes::is_over`].
pub fn with_is_over(extension: &Extension, query: &str, table: &str) -> String {
    const PLACE: &str = "@is_over@";
    if query.contains(PLACE) {
        query.replace(PLACE, &StaleTimes::read(extension).is_over(table, now()))
    } else {
        query.to_string()
    }
}

/// Subtracts a stale time, where the result is a timestamp of PostgreSQL.
fn before(now: i64, time: i64) -> i64 {
    // The first timestamp, in the year 4714 BC.
    const BEGINNING_OF_TIME: i64 = -211_813_488_000_000_000;
    now.checked_sub(time).filter(|limit| *limit >= BEGINNING_OF_TIME).unwrap_or(i64::MIN)
}

/// Returns a timestamp in microseconds since 2000-01-01 UTC as SQL, which no setting of the session reads in another way.
fn timestamp(microseconds: i64) -> String {
    if microseconds == i64::MIN {
        return "timestamptz '-infinity'".into();
    }
    let sign = if microseconds < 0 { "-" } else { "" };
    let (seconds, rest) = (microseconds.unsigned_abs() / 1_000_000, microseconds.unsigned_abs() % 1_000_000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("(timestamptz '2000-01-01 00:00:00+00' + interval '{sign}{hours}:{minutes:02}:{seconds:02}.{rest:06}')")
}

/// Entries that are over at the same time after their expiry.
pub enum Group {
    /// Those of a content type.
    Type(Vec<u8>),
    /// Those of content types that come after one in the order of the index, and have no content policy.
    UnlistedAfter(Vec<u8>),
}

/// Content types without a content policy that have a group of their own. A tenant can store entries of as many as it likes.
const MOST_UNLISTED: usize = 100;

impl StaleTimes {
    /// Returns the groups of the entries of a range of time, and that of the empty content type, which no entry should have. Each
    /// costs a probe of the index on content type and expiry: a recursive query could not read a distributed table.
    pub fn groups(&self, from: i64, to: i64) -> Vec<Group> {
        let (mut types, mut unlisted) = (vec![Vec::new()], 0);
        while let Some(next) = next_type(types.last().expect("there is one"), from, to) {
            pgrx::check_for_interrupts!();
            unlisted += usize::from(!self.listed.contains_key(&next));
            if unlisted > MOST_UNLISTED {
                let last = types.last().expect("there is one").clone();
                let others: Vec<_> = self.listed.keys().filter(|name| !types.contains(name)).cloned().collect();
                let groups = types.into_iter().chain(others).map(Group::Type);
                return groups.chain([Group::UnlistedAfter(last)]).collect();
            }
            types.push(next);
        }
        types.into_iter().map(Group::Type).collect()
    }

    /// Returns the latest expiry with which entries of a group are over.
    pub fn group_over_until(&self, group: &Group, now: i64) -> i64 {
        match group {
            Group::Type(content_type) => self.over_until(content_type, now),
            Group::UnlistedAfter(_) => before(now, self.others),
        }
    }

    /// Returns the content types that have a content policy.
    pub fn listed(&self) -> Vec<String> {
        self.listed.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }
}

fn next_type(after: &[u8], from: i64, to: i64) -> Option<Vec<u8>> {
    let sql = |schema: &str| {
        format!(
            "SELECT content_type::text FROM {schema}.{CACHE} \
             WHERE created_at >= $1 AND created_at < $2 AND content_type > $3 ORDER BY content_type LIMIT 1"
        )
    };
    let args = [spi::timestamptz(from), spi::timestamptz(to), spi::text(after)];
    saved_plan::run(Access::ReadLatest, "next content type", sql, &args, |rows| {
        if rows.count() > 0 { rows.text(0, 1) } else { None }
    })
}

/// Returns the expiry of the entry that has been over for longest.
pub fn oldest_over(extension: &Extension) -> Option<TimestampWithTimeZone> {
    let (stale_times, now) = (StaleTimes::read(extension), now());
    let microseconds = |expiry: &TimestampWithTimeZone| i64::from(*expiry);
    if !stale_times.are_used() {
        return first_expiry(extension, ("", "expires_at"), &[]).filter(|expiry| microseconds(expiry) <= now);
    }
    let over = stale_times.groups(i64::MIN, i64::MAX).into_iter().filter_map(|group| {
        let until = stale_times.group_over_until(&group, now);
        let first = match &group {
            Group::Type(name) => {
                first_expiry(extension, ("WHERE content_type = $1", EXPIRY_OF_TYPE), &[spi::text(name)])
            }
            Group::UnlistedAfter(name) => {
                let args = [spi::text(name), stale_times.listed().into()];
                first_expiry(extension, ("WHERE content_type > $1 AND content_type <> ALL ($2)", "expires_at"), &args)
            }
        };
        first.filter(|expiry| microseconds(expiry) <= until)
    });
    over.min_by_key(microseconds)
}

/// Returns the first expiry of entries that meet a condition, by an index in whose order they are. A condition on the expiry
/// might make the planner sort every expired entry.
fn first_expiry(
    extension: &Extension,
    (condition, order): (&str, &str),
    args: &[DatumWithOid],
) -> Option<TimestampWithTimeZone> {
    let sql = format!("SELECT expires_at FROM {}.{CACHE} {condition} ORDER BY {order} LIMIT 1", extension.schema);
    spi::run(Access::Read, &sql, args, |rows| if rows.count() > 0 { rows.get(0, 1) } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000;

    fn times(listed: &[(&str, i64)], others: i64) -> StaleTimes {
        StaleTimes { listed: listed.iter().map(|(name, time)| (name.as_bytes().to_vec(), *time)).collect(), others }
    }

    #[test]
    fn what_is_never_over_has_no_limit() {
        let times = times(&[("a", HOUR), ("b", ttl::INFINITE), ("c", 0)], 2 * HOUR);
        let until: Vec<i64> = [&b"a"[..], b"b", b"c", b"d"].map(|name| times.over_until(name, 10 * HOUR)).to_vec();
        assert_eq!(until, [9 * HOUR, i64::MIN, 10 * HOUR, 8 * HOUR]);
        assert_eq!(times.all_over_until(10 * HOUR), i64::MIN);
        assert!(times.are_used());
    }

    #[test]
    fn a_type_that_is_kept_as_long_as_others_needs_no_case() {
        assert_eq!(
            times(&[("a", HOUR), ("b", HOUR)], HOUR).is_over_of("o.", HOUR + 1, |_| String::new()),
            "(o.expires_at <= (timestamptz '2000-01-01 00:00:00+00' + interval '0:00:00.000001'))"
        );
    }
}
