//! infinite_pages_cache: a production cache for AI-generated content inside PostgreSQL.
//!
//! This file holds what the library does when it is loaded. SQL declarations stand in `sql/schema/functions.sql` and
//! `sql/schema/views.sql`. Each names the Rust function that serves it; the queries of reports stand in `sql/reports`.

// Only pg/ has unsafe code. A room that does not forbid it uses a macro of pg/ that makes a C function, or a type of shared
// memory; tests/lint/unsafe_wall.py reads the files of such a room.
#[forbid(unsafe_code)]
mod access;
#[forbid(unsafe_code)]
mod address;
#[forbid(unsafe_code)]
mod arguments;
mod audit;
#[forbid(unsafe_code)]
mod calendar;
mod entry;
#[forbid(unsafe_code)]
mod error;
#[forbid(unsafe_code)]
mod extension;
#[forbid(unsafe_code)]
mod install;
mod lease;
#[forbid(unsafe_code)]
mod maintenance;
#[forbid(unsafe_code)]
mod partition;
mod pg;
mod report;
#[forbid(unsafe_code)]
mod settings;
#[forbid(unsafe_code)]
mod stale;
mod statistics;
#[cfg(any(test, feature = "pg_test"))]
mod tests;
#[forbid(unsafe_code)]
mod ttl;
mod worker;

use pg::backend;
use pg::shared_memory::Area;
use pg::transaction_end::{self, Owner};
use pgrx::prelude::*;

::pgrx::pg_module_magic!(name, version);

extension_sql_file!("../sql/schema/functions.sql", name = "functions");
extension_sql_file!("../sql/schema/views.sql", name = "views", requires = ["functions"]);
extension_sql!("SELECT @extschema@.cache_setup();", name = "setup", requires = ["views"], finalize);

/// Areas of shared memory.
static AREAS: [&Area; 6] = [
    &statistics::counters::AREA,
    &statistics::hits::AREA,
    &statistics::prepared::AREA,
    &audit::ring::AREA,
    &lease::AREA,
    &worker::databases::AREA,
];

/// Owners of what a transaction leaves to do at its commit. Leases are the last, because nothing of ours may raise once a fill
/// is sure to be stored.
static AT_COMMIT: [&dyn Owner; 4] =
    [&partition::dump_check::DROPPED, &statistics::at_commit::CHANGES, &audit::reads::CHANGES, &lease::ENDS];

/// Runs once in each backend that loads the library, or at the start of the server if the library is preloaded.
#[allow(non_snake_case)]
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    backend::keep_stack_traces_from_errors();
    settings::define(backend::is_preloading(), &maintenance::steps::NAMES);
    pg::invalidation::watch();
    transaction_end::watch(&AT_COMMIT);
    if backend::is_preloading() && !backend::is_binary_upgrade() {
        pg::clock::start();
        lease::start();
        pg::shared_memory::reserve(&AREAS);
        worker::register_launcher();
    }
}

/// What `cargo pgrx test` needs.
#[cfg(test)]
pub mod pg_test {
    pub fn setup(_options: Vec<&str>) {}

    #[must_use]
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec!["shared_preload_libraries = 'infinite_pages_cache'"]
    }
}
