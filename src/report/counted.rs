//! Functions that show the counters and pending hits in shared memory.

use crate::access::{monitor, tenant};
use crate::extension::{CACHE, Extension};
use crate::pg::srf::{Call, Stored, set_returning};
use crate::pg::{numeric, privileges, spi};
use crate::statistics::at_commit;
use crate::statistics::columns::COLUMNS;
use crate::statistics::counters::{self, PLAIN};
use crate::statistics::hits::Hits;
use pgrx::Uuid;
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use std::collections::HashMap;

// The symbols that 0.2.0 declares, and that this version declares with more columns.
set_returning!(cache_statistics_wrapper => statistics(pending));
set_returning!(cache_statistics_with_leases_wrapper => statistics(pending));

/// Returns the counters of each type since the server started or, if `pending` is true, those not stored yet.
fn statistics(call: Call, pending: Option<bool>) -> Stored {
    let pending = pending.unwrap_or(false);
    let mut all: Vec<_> = at_commit::counted()
        .into_iter()
        .map(|counted| (counted.content_type, if pending { counted.pending } else { counted.now }))
        .filter(|(_, values)| values[..PLAIN].iter().any(|value| *value > 0))
        .collect();
    all.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    call.values::<{ 1 + COLUMNS.len() }>(|deliver| {
        for (content_type, values) in all {
            let mut row = vec![String::from_utf8_lossy(&content_type).into_owned().into()];
            row.extend(COLUMNS.iter().map(|column| column.value(&values)));
            deliver(row.try_into().unwrap_or_else(|_| unreachable!("a value for each column")));
        }
    })
}

set_returning!(infinite_pages_cache_pending_hits => pending_hits(per));

/// What pending hits are summed up by. Reports need only sums, and there may be very many hits.
#[derive(Clone, Copy, PartialEq)]
enum Per {
    Entry,
    User,
    ContentType,
}

impl Per {
    /// # Errors
    /// 22004 for NULL, 22023 for any other word.
    fn read(per: Option<&str>) -> Self {
        match per {
            Some("entry") => Self::Entry,
            Some("user") => Self::User,
            Some("content_type") => Self::ContentType,
            other => {
                let code = match other {
                    None => PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
                    Some(_) => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                };
                crate::error::Refusal::new(code, "per must be entry, user or content_type")
                    .detail(format!("It is {}.", other.map_or_else(|| "NULL".into(), crate::error::shown)))
                    .hint("Call cache_pending_hits() for a row for each entry.")
                    .raise()
            }
        }
    }

    /// Sums the hits that belong together. A field in which they differ has the value of any of them.
    fn sum(self, pending: impl Iterator<Item = Hits>) -> Vec<Hits> {
        if self == Self::Entry {
            return pending.collect();
        }
        let mut sums: HashMap<(Option<Uuid>, Option<u32>), Hits> = HashMap::new();
        for hits in pending {
            let key = match self {
                Self::ContentType => (None, Some(hits.counted_at)),
                _ => (Some(hits.entry.user_id), None),
            };
            sums.entry(key).and_modify(|sum| sum.add(&hits)).or_insert(hits);
        }
        sums.into_values().collect()
    }
}

/// Returns the hits that no entry's row has yet. A caller that may not see every user's statistics gets those of its own
/// user, and so does a monitor that asks for single entries. A caller that may not read the table gets none, because its
/// claims prove nothing.
fn pending_hits(call: Call, per: Option<&str>) -> Stored {
    // Two SQL functions share this one. The one without an argument returns a row for each entry.
    let per = if call.has_arguments() { Per::read(per) } else { Per::Entry };
    let extension = Extension::current();
    // A digest would tell a monitor whether an entry with a guessed key exists.
    let all = monitor::may_see_all_users(&extension) && !(per == Per::Entry && monitor::only_watches(&extension));
    let only = (!all).then(|| tenant::cache_current_user_id().filter(|_| may_read_entries()));
    let mine = |hits: &Hits| only.is_none_or(|user| user == Some(hits.entry.user_id));
    let sums = per.sum(at_commit::pending_hits().into_iter().filter(mine));
    // One datum for each content type, not for each entry.
    let mut names: HashMap<u32, DatumWithOid> = HashMap::new();
    call.values(|deliver| {
        for hits in sums {
            let name = names
                .entry(hits.counted_at)
                .or_insert_with(|| String::from_utf8_lossy(&counters::name_of(hits.counted_at)).into_owned().into());
            let tokens = match i64::try_from(hits.tokens.total()) {
                Ok(millionths) => numeric::of_millionths(millionths),
                Err(_) => hits.tokens.numeric().into(),
            };
            deliver([
                if per == Per::ContentType { DatumWithOid::null::<Uuid>() } else { spi::uuid(&hits.entry.user_id) },
                if per == Per::User { DatumWithOid::null::<String>() } else { spi::again(name) },
                if per == Per::Entry { spi::uuid(&hits.entry.digest) } else { DatumWithOid::null::<Uuid>() },
                (hits.hits.min(counters::MOST) as i64).into(),
                tokens,
                spi::timestamptz(hits.last),
            ]);
        }
    })
}

fn may_read_entries() -> bool {
    Extension::current().find_table(CACHE).is_some_and(privileges::may_read)
}
