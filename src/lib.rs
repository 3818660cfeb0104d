//! infinite_pages_cache: a production cache for AI-generated content inside PostgreSQL.
//!
//! This file says what the library does when it is loaded. SQL declarations stand in `sql/functions.sql`
//! and `sql/views.sql`; each names the Rust function behind it, or the report in `sql/reports`.

mod advisory;
mod audit;
mod catch;
mod clock;
mod compat;
mod denied;
mod entry;
mod error;
mod home;
mod jsonb;
mod kept;
mod list;
mod maintenance;
mod materialize;
mod operate;
mod owner;
mod partition;
mod policy;
mod setting_scope;
mod settings;
mod shared_memory;
mod spi;
mod statistics;
mod tenant;
#[cfg(any(test, feature = "pg_test"))]
mod tests;
mod ttl;
mod watch;
mod worker;

use pgrx::pg_sys;
use pgrx::prelude::*;

::pgrx::pg_module_magic!(name, version);

extension_sql_file!("../sql/functions.sql", name = "functions");
extension_sql_file!("../sql/views.sql", name = "views", requires = ["functions"]);
extension_sql!("SELECT @extschema@.cache_setup();", name = "setup", requires = ["views"], finalize);

/// Called once in each backend that uses the extension, or in the server if it is preloaded.
#[allow(non_snake_case)]
#[pg_guard]
#[allow(unsafe_code)]
pub extern "C-unwind" fn _PG_init() {
    // An error is for its reader: no stack trace in its DETAIL, whatever the server was started with.
    // SAFETY: a server process that loads a library has one thread.
    unsafe { std::env::set_var("RUST_LIB_BACKTRACE", "0") };
    // SAFETY: reads variables of the server.
    let (preloading, upgrading) =
        unsafe { (pg_sys::process_shared_preload_libraries_in_progress, pg_sys::IsBinaryUpgrade) };
    settings::define(preloading);
    home::watch_for_changes();
    partition::entry_index::watch_for_changes();
    statistics::at_commit::watch();
    if preloading && !upgrading {
        shared_memory::reserve();
        worker::register_launcher();
    }
}

/// What `cargo pgrx test` asks for.
#[cfg(test)]
pub mod pg_test {
    pub fn setup(_options: Vec<&str>) {}

    #[must_use]
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec!["shared_preload_libraries = 'infinite_pages_cache'"]
    }
}
