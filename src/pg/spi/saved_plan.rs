//! Saved plans (SPI_keepplan): a backend plans a statement once, and again when what the plan depends on has changed.

use super::{Access, Rows, connected, rows, split};
use crate::pg::guc::with_settings;
use crate::pg::invalidation::ROLES;
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::CString;

/// Runs a statement with the plan that the backend has saved under `name`. The statement that `sql` returns is planned again when
/// `generation` is another than the plan's, and when roles have changed.
pub fn run<T>(
    access: Access,
    name: &'static str,
    generation: u64,
    sql: impl FnOnce() -> String,
    args: &[DatumWithOid],
    f: impl FnOnce(&Rows) -> T,
) -> T {
    connected(access, || {
        let (mut types, mut values, nulls) = split(args);
        let plan = saved_plan(name, generation, sql, &mut types);
        let _executing = Executing::begin();
        // Without sequential scans, a plan made while a partition is empty still serves when it is full. Where no index serves,
        // the estimated cost is then so high that each execution would compile the plan, hence no JIT.
        let settings = [(c"enable_seqscan", c"off"), (c"jit", c"off")];
        // SAFETY: SPI is connected, and the plan was prepared for arguments of these types. Plans that are being executed are
        // not freed.
        let code = with_settings(&settings, || unsafe {
            pg_sys::SPI_execute_plan(plan, values.as_mut_ptr(), nulls.as_ptr(), access != Access::Write, 0)
        });
        f(&rows(code))
    })
}

/// The generations, of the caller and of roles, for which a plan was made. A plan holds the policies that its role had then,
/// and not every minor release of the server drops such a plan by itself.
type Generation = (u64, u64);

thread_local! {
    static PLANS: RefCell<HashMap<&'static str, (Generation, pg_sys::SPIPlanPtr)>> = RefCell::new(HashMap::new());
    static OUTDATED: RefCell<Vec<pg_sys::SPIPlanPtr>> = const { RefCell::new(Vec::new()) };
    static EXECUTING: Cell<u32> = const { Cell::new(0) };
}

fn saved_plan(
    name: &'static str,
    generation: u64,
    sql: impl FnOnce() -> String,
    types: &mut [pg_sys::Oid],
) -> pg_sys::SPIPlanPtr {
    // Read first, because a change that comes while the plan is made outdates it.
    let current = (generation, ROLES.current());
    match PLANS.with_borrow(|plans| plans.get(name).copied()) {
        Some((generation, plan)) if generation == current => return plan,
        Some((_, outdated)) => {
            PLANS.with_borrow_mut(|plans| plans.remove(name));
            OUTDATED.with_borrow_mut(|plans| plans.push(outdated));
        }
        None => {}
    }
    free_outdated();
    let sql = CString::new(sql()).expect("a statement has no NUL byte");
    // SAFETY: SPI is connected, and SPI_keepplan moves the plan out of the connection's memory.
    let plan = unsafe {
        // One generic plan from the first call on: the server would consider it at the sixth, which a pooled connection may
        // never reach.
        let options = pg_sys::CURSOR_OPT_GENERIC_PLAN as i32;
        let plan = pg_sys::SPI_prepare_cursor(sql.as_ptr(), types.len() as i32, types.as_mut_ptr(), options);
        assert!(!plan.is_null(), "could not prepare {name}");
        pg_sys::SPI_keepplan(plan);
        plan
    };
    PLANS.with_borrow_mut(|plans| plans.insert(name, (current, plan)));
    plan
}

/// Frees outdated plans, unless a plan is being executed: a trigger may have outdated the plan that fired it.
fn free_outdated() {
    if EXECUTING.get() > 0 {
        return;
    }
    while let Some(plan) = OUTDATED.with_borrow_mut(Vec::pop) {
        // SAFETY: a saved plan that is in no list any more and that is not being executed.
        unsafe { pg_sys::SPI_freeplan(plan) };
    }
}

/// Counts a saved plan as being executed until it ends, also by an error.
struct Executing;

impl Executing {
    fn begin() -> Self {
        EXECUTING.set(EXECUTING.get() + 1);
        Self
    }
}

impl Drop for Executing {
    fn drop(&mut self) {
        EXECUTING.set(EXECUTING.get() - 1);
    }
}
