//! Decides whether an answer is stored: by the quality gate of its content type, and by its lease.

use super::content_policy::Policy;
use super::new_entry::NewEntry;
use super::quality_gate;
use crate::error::{Warning, shown};
use crate::lease::{self, Fill, LeaseId, Refused};
use crate::statistics::counters::Count;
use crate::statistics::{Call, counted_now, generated};
use pgrx::PgSqlErrorCode;
use std::time::Duration;

/// How long nobody is asked to generate an answer again after the quality gate has refused it.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// An answer that may be stored.
pub struct Admitted<'a> {
    /// That of its lease. The transaction's commit ends the lease.
    pub fill: Option<Fill<'a>>,
}

/// Decides about an entry, whose user the caller may write for. Sends a notice, and returns `None`, if the entry is not to be
/// stored.
///
/// # Errors
/// 22023 if the lease is one for another entry of the user, or for another foundation.
pub fn admit<'a>(call: &Call, entry: &'a NewEntry, policy: &Policy) -> Option<Admitted<'a>> {
    if let Some(accept_if) = &policy.accept_if
        && let Some(objection) = quality_gate::objection(accept_if, &entry.values)
    {
        counted_now(call.slot(entry.address.content_type, false), Count::RefusedByGate, 1);
        refused_by_gate(entry, &objection);
        return None;
    }
    let Some(lease) = entry.lease else { return Some(Admitted { fill: None }) };
    let fill = fill(entry, lease);
    match lease::begin_fill(&fill) {
        Ok(Ok(since_grant)) => {
            if let Some(since_grant) = since_grant {
                generated(entry.address.content_type, since_grant);
            }
            Some(Admitted { fill: Some(fill) })
        }
        Ok(Err(refused)) => {
            counted_now(call.slot(entry.address.content_type, false), Count::RefusedFills, 1);
            refused_by_fence(entry, refused);
            None
        }
        Err(refusal) => match entry.position {
            Some(position) => refusal.at_position(position).raise(),
            None => refusal.raise(),
        },
    }
}

fn fill<'a>(entry: &'a NewEntry, lease: LeaseId) -> Fill<'a> {
    Fill {
        lease,
        address: &entry.address,
        foundation: entry.values.foundation_dependency,
        // No invalidation by metadata finds an entry without.
        has_metadata: entry.values.metadata.is_some_and(|metadata| !metadata.is_empty()),
    }
}

fn refused_by_gate(entry: &NewEntry, objection: &str) {
    if let Some(lease) = entry.lease {
        lease::fail(lease, &entry.address, RETRY_AFTER);
    }
    let content_type = shown(&String::from_utf8_lossy(entry.address.content_type));
    notify(
        entry,
        format!("The accept_if of content type {content_type} is not true of it: {objection}."),
        "Generate it anew, or change accept_if in cache_content_policies.",
    );
}

fn refused_by_fence(entry: &NewEntry, refused: Refused) {
    let (detail, hint) = match refused {
        Refused::Ended => ("The lease is unknown or has ended.", "Call cache_fetch() again."),
        Refused::Outdated => (
            "What it was made from has been invalidated since its lease was granted.",
            "Generate it anew: call cache_fetch().",
        ),
        Refused::InUse => ("Another transaction is storing with this lease.", "Call cache_fetch() again."),
    };
    notify(entry, detail.into(), hint);
}

#[track_caller]
fn notify(entry: &NewEntry, detail: String, hint: &str) {
    let notice = Warning::new(PgSqlErrorCode::ERRCODE_WARNING, "the answer was not stored").detail(detail).hint(hint);
    match entry.position {
        Some(position) => notice.at_position(position),
        None => notice,
    }
    .send_as_notice();
}
