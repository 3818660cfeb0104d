//! The shared memory of leases, and the visits to it.

use super::fence::{Changed, Fence, Me, STRIPES, stripe_of};
use super::pending::Row;
use super::table::{Header, Place};
use crate::pg::backend::{database, process_id};
use crate::pg::condition_variable::ConditionVariables;
use crate::pg::guc;
use crate::pg::shared_memory::{Area, Array};
use crate::pg::shared_tables::Tables;
use crate::settings;
use pgrx::pg_sys;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

static TABLES: Tables<Header, Place, Row> = Tables::new(|| (settings::MAX_LEASES.get() as usize, backends()));
/// How many fills and releases have ended, in each stripe.
static ENDED: Array<AtomicU64> = Array::new(|| STRIPES);
/// Where one sleeps until a fill or lease ends, in each stripe.
pub static SLEEP: ConditionVariables = ConditionVariables::new(STRIPES);

pub static AREA: Area = Area { name: c"infinite_pages_cache leases", parts: &[&TABLES, &ENDED, &SLEEP] };

/// Returns how many backends there can be, or more. `MaxBackends` is not known yet when PostgreSQL 14 preloads the library.
fn backends() -> usize {
    const OTHERS: usize = 16;
    let setting = |name| guc::value_of(name).and_then(|value| String::from_utf8(value).ok()?.parse::<usize>().ok());
    // In PostgreSQL 18 the number of workers may change while the server runs, up to that of slots.
    let autovacuum = setting(c"autovacuum_worker_slots").or_else(|| setting(c"autovacuum_max_workers"));
    let rest = [c"max_connections", c"max_worker_processes", c"max_wal_senders"].map(setting);
    rest.into_iter().chain([autovacuum]).map(Option::unwrap_or_default).sum::<usize>() + OTHERS
}

/// Returns this process as it takes a step outside of any transaction's list.
pub fn me(transaction: u64) -> Me {
    Me { transaction, database: database(), pid: process_id() }
}

/// Visits shared memory under the exclusive lock; `None` without it. `f` must neither allocate nor call the server.
pub fn visit<R>(f: impl FnOnce(&mut Fence) -> R) -> Option<R> {
    TABLES.exclusive(|header, places, rows| f(&mut Fence::new(header, places, rows)))
}

/// As [`visit`], and tells in the same visit what has ended, and afterwards those who sleep.
pub fn visit_and_wake<R>(f: impl FnOnce(&mut Fence) -> (R, Changed)) -> Option<R> {
    let (result, changed) = visit(|fence| {
        let (result, changed) = f(fence);
        for stripe in changed.ended.iter() {
            ENDED.elements()[stripe].fetch_add(1, SeqCst);
        }
        (result, changed)
    })?;
    changed.wake.iter().for_each(|stripe| SLEEP.wake(stripe));
    Some(result)
}

/// Looks at shared memory under the shared lock.
pub fn look<R>(f: impl FnOnce(&Header, &[Place], &[Row]) -> R) -> Option<R> {
    TABLES.shared(f)
}

/// Returns how many fills and releases have ended in the stripe of a key.
pub fn ended(digest: &[u8; 16]) -> u64 {
    ENDED.elements().get(stripe_of(digest) as usize).map_or(0, |ended| ended.load(SeqCst))
}

/// Frees what there is of databases that are gone.
pub fn forget_databases(is_gone: impl Fn(pg_sys::Oid) -> bool) {
    visit(|fence| {
        fence.table.forget_databases(&is_gone);
        super::pending::forget_databases(fence.rows, &is_gone);
    });
}
