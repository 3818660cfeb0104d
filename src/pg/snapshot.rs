//! Snapshots: which versions of rows are shown.

use pgrx::pg_sys;
use std::marker::PhantomData;

/// A snapshot that stays what it is.
#[derive(Clone, Copy)]
pub struct Snapshot<'a>(pg_sys::Snapshot, PhantomData<&'a ()>);

impl Snapshot<'_> {
    #[inline]
    pub(super) fn raw(self) -> pg_sys::Snapshot {
        self.0
    }
}

/// Runs `f` with the snapshot of the statement that calls.
#[inline]
pub fn with_active<T>(f: impl FnOnce(Snapshot<'_>) -> T) -> T {
    // SAFETY: a statement that calls a function has a snapshot until the function returns.
    f(Snapshot(unsafe { pg_sys::GetActiveSnapshot() }, PhantomData))
}

/// Runs `f` with a snapshot of now, whatever the isolation level, which is the active one meanwhile.
pub fn with_latest<T>(f: impl FnOnce(Snapshot<'_>) -> T) -> T {
    // SAFETY: the snapshot is given back at the end; when `f` raises, the end of the transaction or subtransaction does that.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
        let result = with_active(f);
        pg_sys::PopActiveSnapshot();
        result
    }
}

/// Runs `f` with the snapshot that a statement would have now.
pub fn with_next<T>(f: impl FnOnce(Snapshot<'_>) -> T) -> T {
    // SAFETY: as above.
    unsafe {
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetTransactionSnapshot());
        let result = f(Snapshot(snapshot, PhantomData));
        pg_sys::UnregisterSnapshot(snapshot);
        result
    }
}

/// The one that shows every version, whoever wrote it, and whether that is committed or not.
pub fn any() -> Snapshot<'static> {
    Snapshot(&raw mut pg_sys::SnapshotAnyData, PhantomData)
}
