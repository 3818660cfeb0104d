//! Functions that have the arguments of a released version. A dump of that version grants rights on a function by its
//! arguments: where those have changed, one that has the old ones takes the grants, and cache_setup() hands them over to the
//! one that is called now. Nobody calls a former one, and this version grants nobody rights on it.

use crate::home::Home;
use crate::spi::{self, Access};
use pgrx::pg_sys;

/// Each with the function that is called now. A former one has no names of arguments, so that no call by name finds it.
pub fn former(home: &Home) -> Vec<(pg_sys::Oid, pg_sys::Oid)> {
    const FORMER: &str = "\
        SELECT former.oid, now.oid FROM pg_proc former \
        JOIN pg_proc now ON now.pronamespace = former.pronamespace AND now.proname = former.proname \
        WHERE former.pronamespace = $1 AND former.proname = 'cache_upsert' \
          AND former.proargnames IS NULL AND now.proargnames IS NOT NULL";
    spi::run(Access::ReadLatest, FORMER, &[home.namespace.into()], |rows| {
        rows.map(|rows, row| (rows.get(row, 1).expect("an OID"), rows.get(row, 2).expect("an OID")))
    })
}
