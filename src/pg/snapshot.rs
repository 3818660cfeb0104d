//! Snapshots, which decide the versions of rows that a scan shows.

use super::scope::Scope;
use pgrx::pg_sys;
use std::marker::PhantomData;

/// A snapshot that is active or registered, and so stays valid.
#[derive(Clone, Copy)]
pub struct Snapshot<'a>(pg_sys::Snapshot, PhantomData<&'a ()>);

impl Snapshot<'_> {
    #[inline]
    pub(super) fn raw(self) -> pg_sys::Snapshot {
        self.0
    }
}

/// Runs `f` with the snapshot of the calling statement.
#[inline]
pub fn with_active<T>(f: impl FnOnce(Snapshot<'_>) -> T) -> T {
    // SAFETY: whoever has made the snapshot active keeps it so until this code returns to it: a statement that calls a function
    // until the function returns.
    let snapshot = unsafe {
        assert!(pg_sys::ActiveSnapshotSet(), "no snapshot is active");
        pg_sys::GetActiveSnapshot()
    };
    let _scope = Scope::begin();
    f(Snapshot(snapshot, PhantomData))
}

/// Runs `f` with a snapshot of now, whatever the isolation level, and makes it the active one meanwhile.
pub fn with_latest<T>(f: impl FnOnce(Snapshot<'_>) -> T) -> T {
    // SAFETY: the snapshot is popped at the end. If `f` raises, the end of the transaction or subtransaction pops it.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
        let result = with_active(f);
        pg_sys::PopActiveSnapshot();
        result
    }
}

/// Runs `f` with the snapshot that a new statement would have.
pub fn with_next<T>(f: impl FnOnce(Snapshot<'_>) -> T) -> T {
    // SAFETY: the snapshot is unregistered at the end. If `f` raises, the resource owner does that.
    unsafe {
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetTransactionSnapshot());
        let scope = Scope::begin();
        let result = f(Snapshot(snapshot, PhantomData));
        drop(scope);
        pg_sys::UnregisterSnapshot(snapshot);
        result
    }
}

/// Returns the snapshot that shows every version of every row, committed or not.
pub fn any() -> Snapshot<'static> {
    Snapshot(&raw mut pg_sys::SnapshotAnyData, PhantomData)
}
