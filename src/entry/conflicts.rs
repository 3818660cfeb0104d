//! What writers know of an entry before they write: its rows, also those that another transaction has written and not yet
//! committed. Who waits is decided by all rows; of versions a writer learns only those that its caller may see.

#![allow(unsafe_code)]

use super::index_scan::{Row, Scan, scan_tables};
use crate::access::row_security::Visible;
use crate::access::tenant;
use crate::address::{Address, matching};
use crate::extension::{Extension, saved_plan};
use crate::pg::backend;
use crate::pg::spi::{Access, Rows};
use pgrx::datum::TimestampWithTimeZone;
use pgrx::{Uuid, pg_sys};

/// A transaction in progress, other than this one.
#[derive(Clone, Copy)]
pub struct Other {
    transaction: pg_sys::TransactionId,
    /// Of an insertion that is not yet sure of its row, and may take it back before the transaction ends; else 0.
    token: u32,
}

impl Other {
    /// Waits until it has ended, or has taken back what it was not sure of.
    pub fn wait(self) {
        // SAFETY: the transaction was in progress a moment ago; that it has ended since does no harm.
        unsafe {
            if self.token != 0 {
                pg_sys::SpeculativeInsertionWait(self.transaction, self.token);
            } else {
                let (no_table, no_row) = (std::ptr::null_mut(), std::ptr::null_mut());
                pg_sys::XactLockTableWait(self.transaction, no_table, no_row, pg_sys::XLTW_Oper::XLTW_None);
            }
        }
    }
}

/// What there is of an entry.
#[derive(Clone, PartialEq, Eq)]
pub struct Found {
    /// When each version was made that is committed now, or written by this transaction, and that the caller may see;
    /// `None` when only a statement can tell.
    pub versions: Option<Vec<i64>>,
    /// Whether there is any version, whoever may see it.
    pub exists: bool,
}

/// Looks at an entry until nobody is inserting a version of it; waits for whoever is.
pub fn settled(address: &Address) -> Found {
    loop {
        match look(address) {
            (_, Some(inserter)) => inserter.wait(),
            (found, None) => return found,
        }
    }
}

/// Looks at an entry; returns also who is inserting a version: one of its own, or a new row in the place of another.
fn look(address: &Address) -> (Found, Option<Other>) {
    loop {
        let (mut exists, mut inserter) = (false, None);
        let mut versions = Vec::new();
        let mut changed = false;
        let visible = each_row(Some(address), &address.user_id, |row, latest| {
            let state = State::of(row, latest);
            if !(state.is_seen || state.is_there) || !row.is_of(address) {
                return true;
            }
            exists |= state.is_there;
            inserter = inserter.or(state.inserter);
            // A partition may be walked over twice.
            if state.is_seen && !versions.contains(&row.created_at()) {
                versions.push(row.created_at());
            }
            // Another transaction has ended since the snapshot was taken, and the row that took the place of this one
            // may have been passed over.
            let is_settled = state.inserter.is_none() && state.deleter.is_none();
            changed |= is_settled && state.is_seen != state.is_there && !is_own(row);
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

/// The versions of [`Found`], as a statement tells them.
pub fn versions_by_statement(address: &Address) -> Vec<i64> {
    let sql = |schema: &str| {
        format!("SELECT created_at FROM {schema}.infinite_pages_cache_partitioned WHERE {}", matching(schema))
    };
    saved_plan::run(Access::ReadLatest, "upsert: versions", sql, &address.args(), |rows| {
        let moment = |rows: &Rows, row| rows.get::<TimestampWithTimeZone>(row, 1).expect("it is NOT NULL").into();
        rows.map(moment)
    })
}

/// Whether this transaction has written, deleted or locked a version of an entry.
pub fn has_own(address: &Address) -> bool {
    let mut has = false;
    each_row(Some(address), &address.user_id, |row, _| {
        has = is_own(row) && row.is_of(address);
        !has
    });
    has
}

/// Whether this transaction has written, deleted or locked any entry of a user.
pub fn has_own_of(user: &Uuid) -> bool {
    let mut has = false;
    each_row(None, user, |row, _| {
        has = is_own(row);
        !has
    });
    has
}

/// What is left of a user's entries.
#[derive(Clone, Copy)]
pub enum Left {
    Nothing,
    /// Something that another transaction is writing.
    Written(Other),
    /// Something that a snapshot shows.
    Old,
    /// Something that it does not show, as it was committed later.
    New,
}

/// Looks for what is left of a user's entries; `snapshot` tells the old ones from the new.
pub fn left_of(user: &Uuid, snapshot: pg_sys::Snapshot) -> Left {
    let mut left = Left::Nothing;
    each_row(None, user, |row, latest| {
        let state = State::of(row, latest);
        if let Some(other) = state.inserter.or(state.deleter) {
            left = Left::Written(other);
            return false;
        }
        if state.is_there && !matches!(left, Left::Old) {
            // SAFETY: known tables are heaps, and the snapshot is registered.
            let is_old = unsafe { row.is_shown_by(snapshot) };
            left = if is_old { Left::Old } else { Left::New };
        }
        true
    });
    left
}

/// What a row is.
struct State {
    /// Whether the snapshot shows it.
    is_seen: bool,
    /// Whether it is there now, committed or not, and not deleted by this or an ended transaction.
    is_there: bool,
    inserter: Option<Other>,
    deleter: Option<Other>,
}

impl State {
    fn of(row: &Row, latest: pg_sys::Snapshot) -> Self {
        let mut dirty =
            pg_sys::SnapshotData { snapshot_type: pg_sys::SnapshotType::SNAPSHOT_DIRTY, ..Default::default() };
        // SAFETY: known tables are heaps; the server writes into the second snapshot who is at the row.
        let (is_seen, is_there) = unsafe { (row.is_shown_by(latest), row.is_shown_by(&mut dirty)) };
        let other = |transaction: pg_sys::TransactionId, token| {
            (is_there && transaction != pg_sys::InvalidTransactionId).then_some(Other { transaction, token })
        };
        let inserter = other(dirty.xmin, dirty.speculativeToken);
        Self { is_seen, is_there, inserter, deleter: other(dirty.xmax, 0) }
    }
}

/// Whether this transaction has inserted, deleted or locked a row, as the row's header tells.
fn is_own(row: &Row) -> bool {
    // SAFETY: known tables are heaps. Nothing raises while the header is read.
    let (header, flags) = unsafe {
        row.in_buffer(|tuple, _| ((*(*tuple).t_data).t_choice.t_heap, u32::from((*(*tuple).t_data).t_infomask)))
    };
    let has_inserted = flags & (pg_sys::HEAP_XMIN_COMMITTED | pg_sys::HEAP_XMIN_INVALID) == 0
        && backend::is_own_transaction(header.t_xmin);
    let has_changed = || {
        if flags & (pg_sys::HEAP_XMAX_COMMITTED | pg_sys::HEAP_XMAX_INVALID) != 0 {
            false
        } else if flags & pg_sys::HEAP_XMAX_IS_MULTI != 0 {
            let is_lock = flags & pg_sys::HEAP_XMAX_LOCK_ONLY != 0;
            members(header.t_xmax, is_lock).into_iter().any(backend::is_own_transaction)
        } else {
            backend::is_own_transaction(header.t_xmax)
        }
    };
    has_inserted || has_changed()
}

/// The transactions that have locked or changed a row together.
fn members(multixact: pg_sys::MultiXactId, is_lock: bool) -> Vec<pg_sys::TransactionId> {
    let mut members = std::ptr::null_mut();
    // SAFETY: the server allocates so many members, or none.
    unsafe {
        let number = pg_sys::GetMultiXactIdMembers(multixact, &mut members, false, is_lock);
        (0..number.max(0) as usize).map(|index| (*members.add(index)).xid).collect()
    }
}

/// Shows every row of an entry, or of a user, in the tables that are known, to `look` until it wants no more: also rows of
/// ended and of other transactions, and all that have the digest. The snapshot is one of now. Returns what the caller may
/// see by itself. After a change of the table rows are shown again.
fn each_row(address: Option<&Address>, user: &Uuid, mut look: impl FnMut(&Row, pg_sys::Snapshot) -> bool) -> Visible {
    let digest = address.map(|address| &address.digest);
    // SAFETY: the snapshot is given back at the end; when something raises, the end of the transaction or
    // subtransaction does that. The server's own one that shows everything stays what it is.
    let entries = unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
        let latest = pg_sys::GetActiveSnapshot();
        let visit = |scan: &Scan| {
            let mut wants_more = true;
            scan.each(user, digest, |row| {
                wants_more = look(row, latest);
                wants_more
            });
            wants_more
        };
        let any = &raw mut pg_sys::SnapshotAnyData;
        let entries = scan_tables(any, digest.is_some(), |_, entries| Some(entries.tables()), visit);
        pg_sys::PopActiveSnapshot();
        entries
    };
    let entries = entries.expect("all tables are chosen");
    entries.partitions(&Extension::current()).map_or(Visible::AskSql, |(_, visible)| visible)
}
