//! Reads what a writer must know of an entry: its rows, also those that other transactions have not committed yet. All rows
//! decide whom the writer waits for. It learns only the versions that its caller may see.

use super::user_rows::{Row, Scan, scan_tables};
use crate::access::row_security::Visible;
use crate::access::tenant;
use crate::address::{Address, matching};
use crate::extension::{CACHE, Extension, saved_plan};
use crate::lease::{self, Fill};
use crate::pg::other_transaction::Other;
use crate::pg::snapshot::{self, Snapshot};
use crate::pg::spi::{Access, Rows};
use crate::statistics::content_types::slot_of;
use crate::statistics::counted_now;
use crate::statistics::counters::Count;
use pgrx::Uuid;
use pgrx::datum::TimestampWithTimeZone;

/// What there is of an entry.
#[derive(Clone, PartialEq, Eq)]
pub struct Found {
    /// The created_at of each version that is committed now, or written by this transaction, and that the caller may see;
    /// `None` if only a statement can tell.
    pub versions: Option<Vec<i64>>,
    /// Whether there is any version, visible to the caller or not.
    pub exists: bool,
}

/// Looks at an entry until no other transaction is inserting a version; waits for each that is. `fill`: of the lease that the
/// entry is stored with.
///
/// # Errors
/// 40001 if an invalidation keeps the fill out by now.
pub fn settled(address: &Address, fill: Option<&Fill>) -> Found {
    loop {
        let seen = look(address);
        // The transaction that has invalidated the entry may stay open for long, and this one would wait for it, here or for
        // a row, to be refused at the end.
        if fill.is_some_and(lease::would_be_refused) {
            counted_now(slot_of(address.content_type, false), Count::RefusedFills, 1);
            lease::overtaken().raise();
        }
        match seen {
            (_, Some(inserter)) => inserter.wait(),
            (found, None) => return found,
        }
    }
}

/// Looks at an entry. Returns also another transaction that has inserted a row of it, by INSERT or UPDATE, and has not
/// ended.
fn look(address: &Address) -> (Found, Option<Other>) {
    loop {
        let (mut exists, mut inserter) = (false, None);
        let mut versions = Vec::new();
        let mut changed = false;
        let visible = each_row(Some(address), &address.user_id, |row, latest| {
            let is_seen = row.tuple.is_shown_by(latest);
            let state = row.tuple.state();
            if !(is_seen || state.is_there) || !row.is_of(address) {
                return true;
            }
            exists |= state.is_there;
            inserter = inserter.or(state.inserter);
            // A scan that begins again shows rows twice.
            if is_seen && !versions.contains(&row.created_at()) {
                versions.push(row.created_at());
            }
            // A transaction has ended since the snapshot was taken, so the scan may have missed the row that replaced this
            // one.
            let is_settled = state.inserter.is_none() && state.deleter.is_none();
            changed |= is_settled && is_seen != state.is_there && !row.tuple.is_of_this_transaction();
            true
        });
        if changed {
            continue;
        }
        let versions = match visible {
            Visible::All => Some(versions),
            Visible::OwnEntries if tenant::cache_current_user_id() == Some(address.user_id) => Some(versions),
            Visible::OwnEntries => Some(Vec::new()),
            Visible::AskSql => None,
        };
        return (Found { versions, exists }, inserter);
    }
}

/// Returns the versions of [`Found`], read by a statement.
pub fn versions_by_statement(address: &Address) -> Vec<i64> {
    let sql = |schema: &str| format!("SELECT created_at FROM {schema}.{CACHE} WHERE {}", matching(schema));
    saved_plan::run(Access::ReadLatest, "upsert: versions", sql, &address.args(), |rows| {
        let moment = |rows: &Rows, row| rows.get::<TimestampWithTimeZone>(row, 1).expect("it is NOT NULL").into();
        rows.map(moment)
    })
}

/// Whether this transaction has written, deleted or locked a version of an entry.
pub fn has_own(address: &Address) -> bool {
    let mut has = false;
    each_row(Some(address), &address.user_id, |row, _| {
        has = row.tuple.is_of_this_transaction() && row.is_of(address);
        !has
    });
    has
}

/// Whether this transaction has written, deleted or locked any entry of a user.
pub fn has_own_of(user: &Uuid) -> bool {
    let mut has = false;
    each_row(None, user, |row, _| {
        has = row.tuple.is_of_this_transaction();
        !has
    });
    has
}

/// What is left of a user's entries.
#[derive(Clone, Copy)]
pub enum Left {
    Nothing,
    /// A row that another transaction is inserting or deleting.
    Written(Other),
    /// A row that the snapshot shows.
    Old,
    /// A row that was committed after the snapshot.
    New,
}

/// Looks for rows that are left of a user's entries; `snapshot` tells old ones from new.
pub fn left_of(user: &Uuid, snapshot: Snapshot<'_>) -> Left {
    let mut left = Left::Nothing;
    each_row(None, user, |row, _| {
        let state = row.tuple.state();
        if let Some(other) = state.inserter.or(state.deleter) {
            left = Left::Written(other);
            return false;
        }
        if state.is_there && !matches!(left, Left::Old) {
            left = if row.tuple.is_shown_by(snapshot) { Left::Old } else { Left::New };
        }
        true
    });
    left
}

/// Shows `look` every row of an entry, or of a user, in the known tables, until it returns false. These include dead rows,
/// rows of other transactions, and all that have the digest; after a change of the table rows are shown again. `look` also
/// gets a snapshot of now. Returns what the caller may see without a statement.
fn each_row(address: Option<&Address>, user: &Uuid, mut look: impl FnMut(&Row, Snapshot<'_>) -> bool) -> Visible {
    let digest = address.map(|address| &address.digest);
    let entries = snapshot::with_latest(|latest| {
        let visit = |scan: &Scan| {
            let mut wants_more = true;
            scan.each(user, digest, |row| {
                wants_more = look(row, latest);
                wants_more
            });
            wants_more
        };
        scan_tables(snapshot::any(), digest.is_some(), |_, entries| Some(entries.tables()), visit)
    });
    let entries = entries.expect("all tables are chosen");
    entries.partitions(&Extension::current()).map_or(Visible::AskSql, |(_, visible)| visible)
}
