//! The end of transactions: what is done when a transaction commits. It is not done if the transaction is rolled back, or the
//! subtransaction that asked for it.
//!
//! An owner keeps what it will do in a [`Queue`] of this backend. The queue follows subtransactions, and a rollback empties it.
//! An owner may refuse that a transaction is prepared, because another session decides how a prepared transaction ends. Nothing
//! that runs after a commit may raise. The queue is not borrowed while `before_commit`, `committed` or `prepared` runs.

use super::backend;
use crate::error::Refusal;
use pgrx::prelude::*;
use std::cell::RefCell;
use std::sync::OnceLock;
use std::thread::LocalKey;

/// Something to be done when the transaction commits.
pub trait AtCommit: Sized + 'static {
    /// Runs before the commit, which an ERROR still prevents. Runs once, however much is in the queue.
    fn before_commit() {}

    /// Returns why the transaction cannot be prepared.
    fn refuses_prepare(&self) -> Option<Refusal> {
        None
    }

    /// Runs after the commit.
    fn committed(self);

    /// Runs when the transaction has been prepared.
    fn prepared(self) {}
}

/// What an owner will do. Each has the nesting level of the subtransaction that asked for it.
pub struct Queue<T>(RefCell<Vec<(i32, T)>>);

impl<T: AtCommit> Queue<T> {
    pub const fn new() -> Self {
        Self(RefCell::new(Vec::new()))
    }

    /// Adds something, unless `merge` can add it to one of the last few of the same subtransaction.
    pub fn push(&self, new: T, merge: impl Fn(&mut T, &T) -> bool) {
        const LAST: usize = 8;
        let level = backend::nest_level();
        let mut pending = self.0.borrow_mut();
        let mut last = pending.iter_mut().rev().take(LAST).filter(|(of, _)| *of == level);
        if !last.any(|(_, earlier)| merge(earlier, &new)) {
            pending.push((level, new));
        }
    }

    /// Shows `look` everything, the newest first, until it returns something. `look` must not call the queue.
    pub fn find<R>(&self, mut look: impl FnMut(&T) -> Option<R>) -> Option<R> {
        self.0.borrow().iter().rev().find_map(|(_, pending)| look(pending))
    }
}

/// What happens to a transaction, or to a subtransaction of a nesting level.
#[derive(Clone, Copy)]
pub enum End {
    BeforeCommit,
    BeforePrepare,
    Committed,
    Prepared,
    RolledBack,
    SubtransactionCommitted(i32),
    SubtransactionRolledBack(i32),
}

/// The owner of a queue, whatever the queue holds.
pub trait Owner: Sync {
    fn ends(&'static self, end: End);
}

impl<T: AtCommit> Owner for LocalKey<Queue<T>> {
    fn ends(&'static self, end: End) {
        self.with(|queue| match end {
            End::BeforeCommit => {
                let is_empty = queue.0.borrow().is_empty();
                if !is_empty {
                    T::before_commit();
                }
            }
            End::BeforePrepare => {
                if let Some(refusal) = queue.find(T::refuses_prepare) {
                    refusal.raise();
                }
            }
            End::Committed => queue.0.take().into_iter().for_each(|(_, pending)| pending.committed()),
            End::Prepared => queue.0.take().into_iter().for_each(|(_, pending)| pending.prepared()),
            End::RolledBack => queue.0.borrow_mut().clear(),
            End::SubtransactionCommitted(level) => {
                queue.0.borrow_mut().iter_mut().for_each(|(of, _)| *of = (*of).min(level - 1));
            }
            End::SubtransactionRolledBack(level) => queue.0.borrow_mut().retain(|(of, _)| *of < level),
        });
    }
}

static OWNERS: OnceLock<&[&dyn Owner]> = OnceLock::new();

fn tell(end: End) {
    OWNERS.get().into_iter().flat_map(|owners| owners.iter()).for_each(|owner| owner.ends(end));
}

/// Tells the owners, in their order, of the ends of transactions from now on. Called once, when the library is loaded.
pub fn watch(owners: &'static [&'static dyn Owner]) {
    OWNERS.get_or_init(|| owners);
    // SAFETY: the callbacks live as long as the library, which the server never unloads. They raise only before a transaction
    // commits or is prepared, when an ERROR still rolls it back.
    unsafe {
        pg_sys::RegisterXactCallback(Some(transaction_ended), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(subtransaction_ended), std::ptr::null_mut());
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn transaction_ended(event: pg_sys::XactEvent::Type, _argument: *mut std::ffi::c_void) {
    use pg_sys::XactEvent::{
        XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PARALLEL_ABORT, XACT_EVENT_PARALLEL_COMMIT,
        XACT_EVENT_PRE_COMMIT, XACT_EVENT_PRE_PREPARE, XACT_EVENT_PREPARE,
    };
    match event {
        XACT_EVENT_PRE_COMMIT => tell(End::BeforeCommit),
        XACT_EVENT_PRE_PREPARE => tell(End::BeforePrepare),
        XACT_EVENT_COMMIT => tell(End::Committed),
        XACT_EVENT_PREPARE => tell(End::Prepared),
        // A parallel worker commits nothing. It comes here with something to do only if a function that calls the cache was
        // declared PARALLEL SAFE.
        XACT_EVENT_ABORT | XACT_EVENT_PARALLEL_ABORT | XACT_EVENT_PARALLEL_COMMIT => tell(End::RolledBack),
        _ => {}
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn subtransaction_ended(
    event: pg_sys::SubXactEvent::Type,
    _id: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _argument: *mut std::ffi::c_void,
) {
    // The server calls this while the level is still that of the subtransaction.
    let level = backend::nest_level();
    match event {
        pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => tell(End::SubtransactionCommitted(level)),
        pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => tell(End::SubtransactionRolledBack(level)),
        _ => {}
    }
}
