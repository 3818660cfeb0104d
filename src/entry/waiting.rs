//! Whether a call may wait for another session's answer.

use crate::extension::{CACHE, Extension, POLICIES, saved_plan};
use crate::lease;
use crate::pg::backend;
use crate::pg::guc::with_setting;
use crate::pg::spi::{self, Access};

/// Whether there is a place, and nobody can wait for the caller while it waits: its transaction has written and invalidated
/// nothing, has no lease, and holds no lock but those of reading the cache. At REPEATABLE READ and SERIALIZABLE it would not see
/// the answer.
pub fn is_allowed() -> bool {
    // The question of locks is the last, because it keeps everybody from the server's lock table.
    !spi::uses_transaction_snapshot()
        && backend::full_transaction_id() == 0
        && !lease::is_awaited()
        && lease::has_place()
        && holds_only_locks_of_reading()
}

fn holds_only_locks_of_reading() -> bool {
    // No lock on a table of the catalog is of interest: a change of it needs a transaction id.
    let sql = |_: &str| {
        "WITH RECURSIVE below AS ( \
             SELECT oid FROM unnest($1) AS t (oid) \
             UNION SELECT i.inhrelid FROM pg_inherits i JOIN below b ON i.inhparent = b.oid), \
         with_toast AS ( \
             SELECT oid FROM below UNION ALL SELECT c.reltoastrelid FROM pg_class c JOIN below b ON b.oid = c.oid), \
         own AS ( \
             SELECT oid FROM with_toast UNION ALL SELECT i.indexrelid FROM pg_index i JOIN with_toast t ON i.indrelid = t.oid) \
         SELECT NOT EXISTS ( \
             SELECT FROM pg_locks l WHERE l.pid = pg_backend_pid() AND l.locktype <> 'virtualxid' \
                AND NOT (l.locktype = 'relation' AND l.mode = 'AccessShareLock' \
                         AND (l.relation < 16384 OR l.relation IN (SELECT oid FROM own))))"
            .to_string()
    };
    let extension = Extension::current();
    let tables = vec![extension.table(CACHE), extension.table(POLICIES)];
    with_setting(c"search_path", "pg_catalog, pg_temp", || {
        saved_plan::run(Access::ReadLatest, "locks held", sql, &[tables.into()], |rows| rows.get(0, 1).unwrap_or(false))
    })
}
