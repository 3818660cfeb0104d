//! Whether the worker may maintain a cache: it must not while a restore builds the cache.

use crate::extension::{AUDIT_LOG, CACHE, Extension, TABLES};
use crate::partition::dump_check;
use crate::pg::spi::{self, Access};

/// Whether every table exists and has its primary key, and no pg_restore is connected. The key of a partitioned table becomes
/// valid with that of its last partition. A dump creates keys after the rows, so a half restored cache is not ready. A
/// pg_restore with several jobs builds several keys at once, so no cache is ready while one is connected.
pub fn is_ready(extension: &Extension) -> bool {
    let tables: Vec<String> = TABLES.map(str::to_string).to_vec();
    let wanted = tables.len() as i64;
    let keys = spi::run(
        Access::ReadLatest,
        "SELECT count(*) FROM pg_class c JOIN pg_index x ON x.indrelid = c.oid \
         WHERE c.relnamespace = $1 AND c.relname = ANY ($2) AND x.indisprimary AND x.indisvalid",
        &[extension.namespace.into(), tables.into()],
        |rows| rows.get::<i64>(0, 1),
    );
    keys == Some(wanted) && !dump_check::is_connected(extension, &["pg_restore"])
}

/// Whether partitions may be dropped: no dump or restore is connected, and an earlier restore has brought everything, the
/// indexes and row security last. Called with the worker's own rights, because other roles do not see who is connected.
pub fn may_drop(extension: &Extension) -> bool {
    let tables: Vec<String> = [CACHE, AUDIT_LOG].map(str::to_string).to_vec();
    let complete = spi::run(
        Access::ReadLatest,
        "SELECT bool_and(c.relrowsecurity AND NOT EXISTS ( \
             SELECT 1 FROM pg_index x WHERE x.indrelid = c.oid AND NOT x.indisvalid)) \
         FROM pg_class c WHERE c.relnamespace = $1 AND c.relname = ANY ($2)",
        &[extension.namespace.into(), tables.into()],
        |rows| rows.get::<bool>(0, 1),
    );
    complete == Some(true) && !dump_check::is_at_work(extension)
}
