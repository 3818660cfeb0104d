//! The settings of the extension, each with its unit, range, default and reason.

use crate::pg::{guc, version};
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use std::ffi::{CStr, CString};
use std::sync::OnceLock;

/// What the audit log records.
#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub enum Audit {
    #[name = c"off"]
    Off,
    #[name = c"write"]
    Write,
    #[name = c"all"]
    All,
}

/// Emergency switch: lookups miss and writes do nothing.
pub static ENABLED: GucSetting<bool> = GucSetting::<bool>::new(true);
/// User of a session that has no claims.
pub static USER_ID: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
/// What the audit log records.
pub static AUDIT: GucSetting<Audit> = GucSetting::<Audit>::new(Audit::Write);
/// Largest content of an entry, in bytes of jsonb.
pub static MAX_CONTENT_BYTES: GucSetting<i32> = GucSetting::<i32>::new(16 * 1024 * 1024);
/// Partitions kept ready after the current month's.
pub static PREMAKE: GucSetting<i32> = GucSetting::<i32>::new(3);
/// Longest wait of maintenance for a lock, in milliseconds.
pub static LOCK_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(500);
/// Rows that one statement of cleanup deletes at most.
pub static CLEANUP_BATCH_SIZE: GucSetting<i32> = GucSetting::<i32>::new(1000);
/// Months of the audit log that maintenance keeps, the current one included; 0 = all.
pub static AUDIT_RETENTION_MONTHS: GucSetting<i32> = GucSetting::<i32>::new(12);
/// Age at which rows of the maintenance log are deleted, in minutes; 0 = never.
pub static MAINTENANCE_LOG_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(30 * 24 * 60);
/// Months of entries that maintenance keeps, the current one included; 0 = those in which anything is live.
pub static RETENTION_MONTHS: GucSetting<i32> = GucSetting::<i32>::new(0);
/// Time between two ticks of the worker in a database, in milliseconds; 0 = the worker is off.
pub static NAPTIME: GucSetting<i32> = GucSetting::<i32>::new(30_000);
/// Steps of maintenance that the worker leaves out; see [`skipped_steps`].
static SKIP_STEPS: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
/// Role that the worker acts as; empty = the owners of the tables.
pub static MAINTENANCE_ROLE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

/// Entries whose hits shared memory counts until they are flushed.
pub static MAX_TRACKED_ENTRIES: GucSetting<i32> = GucSetting::<i32>::new(65_536);
/// Content types, of all databases together, that have counters of their own in shared memory.
pub static MAX_TRACKED_CONTENT_TYPES: GucSetting<i32> = GucSetting::<i32>::new(256);
/// Size of the ring of audited lookups in shared memory, in kB.
pub static AUDIT_BUFFER_SIZE: GucSetting<i32> = GucSetting::<i32>::new(4096);
/// Age at which rows of the hourly statistics are deleted, in minutes; 0 = never.
pub static STATISTICS_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(400 * 24 * 60);
/// Size of the cache up to which reports count its entries, in kB.
pub static EXACT_REPORT_SIZE: GucSetting<i32> = GucSetting::<i32>::new(32 * 1024);

/// Leases that there can be at a time, of all databases together.
pub static MAX_LEASES: GucSetting<i32> = GucSetting::<i32>::new(8192);
/// Longest wait of cache_fetch(), in milliseconds.
pub static MAX_FETCH_WAIT: GucSetting<i32> = GucSetting::<i32>::new(10_000);
/// Sessions that may wait in cache_fetch() at a time; -1 = a tenth of max_connections.
pub static MAX_FETCH_WAITERS: GucSetting<i32> = GucSetting::<i32>::new(-1);
/// How early a live entry is generated anew: the factor beta of XFetch; 0 = not before it expires.
pub static EARLY_REFRESH: GucSetting<f64> = GucSetting::<f64>::new(1.0);

/// The names that [`SKIP_STEPS`] may have.
static STEPS: OnceLock<&[&str]> = OnceLock::new();

/// Defines the settings. Called once when the library is loaded; `preloading` is true when the server loads it at its start.
/// `steps` are the names of the steps of maintenance.
pub fn define(preloading: bool, steps: &'static [&'static str]) {
    STEPS.get_or_init(|| steps);
    GucRegistry::define_bool_guc(
        c"infinite_pages_cache.enabled",
        c"Switches the cache on.",
        c"When off, every lookup is a miss and every write does nothing, so that an application can go on without its cache in an emergency.",
        &ENABLED,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"infinite_pages_cache.user_id",
        c"User (uuid) that the session acts for when request.jwt.claims is empty.",
        c"For clients that do not come through PostgREST; set it with SET LOCAL when connections are pooled. A malformed value is nobody.",
        &USER_ID,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"infinite_pages_cache.audit",
        c"What the audit log records: off, write (every upsert, touch and invalidation), or all (lookups, too).",
        c"Only a superuser may change it, so that nobody works unseen.",
        &AUDIT,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"infinite_pages_cache.max_content_bytes",
        c"Largest content of an entry, in bytes of jsonb before compression.",
        c"A runaway answer is refused before it fills the disk. A jsonb value can hold 255 MB at most.",
        &MAX_CONTENT_BYTES,
        1,
        255 * 1024 * 1024,
        GucContext::Suset,
        GucFlags::UNIT_BYTE,
    );
    GucRegistry::define_int_guc(
        c"infinite_pages_cache.premake",
        c"Monthly partitions kept ready after the current month's.",
        c"With 3, no partition is missing even if maintenance does not run for a quarter.",
        &PREMAKE,
        0,
        60,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"infinite_pages_cache.lock_timeout",
        c"Longest time that maintenance waits for a lock.",
        c"Lookups and upserts queue behind a waiting DDL statement; this setting bounds how long. The next run tries again what could not be locked.",
        &LOCK_TIMEOUT,
        1,
        60_000,
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"infinite_pages_cache.cleanup_batch_size",
        c"Expired entries that one statement of cleanup deletes at most.",
        c"Small batches hold row locks briefly, and cleanup can be cancelled between two batches.",
        &CLEANUP_BATCH_SIZE,
        1,
        100_000,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"infinite_pages_cache.audit_retention_months",
        c"Months of the audit log that maintenance keeps, the current one included; 0 keeps all.",
        c"Older partitions of the log are dropped. Months that archive_audit_logs() has moved are never touched.",
        &AUDIT_RETENTION_MONTHS,
        0,
        1200,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"infinite_pages_cache.maintenance_log_retention",
        c"Age at which rows of cache_maintenance_log are deleted; 0 keeps all.",
        c"The log of a server that is never looked at must not grow for ever.",
        &MAINTENANCE_LOG_RETENTION,
        0,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_MIN,
    );
    GucRegistry::define_int_guc(
        c"infinite_pages_cache.statistics_retention",
        c"Age at which rows of cache_statistics_hourly are deleted; 0 keeps all.",
        c"Maintenance deletes them.",
        &STATISTICS_RETENTION,
        0,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_MIN,
    );
    GucRegistry::define_int_guc(
        c"infinite_pages_cache.exact_report_size",
        c"Size of the cache's partitions, without TOAST, up to which reports count the entries themselves.",
        c"Reports on a larger cache show the last count of maintenance, and the hits counted since.",
        &EXACT_REPORT_SIZE,
        0,
        i32::MAX,
        GucContext::Userset,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_int_guc(
        c"infinite_pages_cache.retention_months",
        c"Months of entries that maintenance keeps, the current one included; 0 keeps each as long as anything in it is live.",
        c"Older partitions are dropped, whatever is still live in them.",
        &RETENTION_MONTHS,
        0,
        1200,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"infinite_pages_cache.naptime",
        c"Time between two ticks of the background worker in a database; 0 switches the worker off.",
        c"A tick runs the steps that are due. The worker is not connected to the database between two ticks.",
        &NAPTIME,
        0,
        24 * 60 * 60 * 1000,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"infinite_pages_cache.max_fetch_wait",
        c"Longest time that cache_fetch() waits for another session's answer.",
        c"A pooled connection is held meanwhile. A longer wait argument counts as this one.",
        &MAX_FETCH_WAIT,
        0,
        600_000,
        GucContext::Suset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"infinite_pages_cache.max_fetch_waiters",
        c"Sessions that may wait in cache_fetch() at a time; -1 = a tenth of max_connections; 0 = none.",
        c"Keep it below the size of the connection pool, because the session that generates needs a connection, too.",
        &MAX_FETCH_WAITERS,
        -1,
        262_143,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_float_guc(
        c"infinite_pages_cache.early_refresh",
        c"How early cache_fetch() has a live entry generated anew, in multiples of the mean generation time; 0 = not before it expires.",
        c"One caller in many gets the state refresh, so that an entry that is often read never expires.",
        &EARLY_REFRESH,
        0.0,
        10.0,
        GucContext::Suset,
        GucFlags::default(),
    );
    guc::define_checked_string::<StepNames>(
        c"infinite_pages_cache.skip_steps",
        c"Steps of maintenance that the background worker leaves out, separated by commas.",
        c"ALTER DATABASE ... SET leaves them out in one database. cache_run_maintenance() runs them nevertheless.",
        &SKIP_STEPS,
        GucContext::Suset,
    );
    GucRegistry::define_string_guc(
        c"infinite_pages_cache.maintenance_role",
        c"Role that the background worker acts as; empty = the owners of the tables.",
        c"The role needs the rights of the owners. Triggers, index expressions and policies run with its rights.",
        &MAINTENANCE_ROLE,
        GucContext::Sighup,
        GucFlags::default(),
    );
    // The server refuses to define a setting of context postmaster after its start. From here on every setting is known, so
    // any other name with this prefix is misspelt.
    if preloading {
        define_sizes();
        version::reserve_settings(c"infinite_pages_cache");
    }
}

/// Defines the settings that size shared memory.
fn define_sizes() {
    GucRegistry::define_int_guc(
        c"infinite_pages_cache.max_tracked_entries",
        c"Entries whose hits are counted in shared memory until they are stored, 100 bytes each.",
        c"Hits of further entries are counted by content type only.",
        &MAX_TRACKED_ENTRIES,
        64,
        16 * 1024 * 1024,
        GucContext::Postmaster,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"infinite_pages_cache.max_tracked_content_types",
        c"Content types that have counters of their own, of all databases together, 5 kB each.",
        c"Half of the slots are for types without a content policy. All types without a slot are counted together.",
        &MAX_TRACKED_CONTENT_TYPES,
        8,
        10_000,
        GucContext::Postmaster,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"infinite_pages_cache.audit_buffer_size",
        c"Shared memory for the audit of lookups, until it is stored.",
        c"When it is full, the oldest records give way to new ones, and are counted as lost.",
        &AUDIT_BUFFER_SIZE,
        64,
        1024 * 1024,
        GucContext::Postmaster,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_int_guc(
        c"infinite_pages_cache.max_leases",
        c"Leases of cache_fetch() that there can be at a time, of all databases together, 520 bytes each.",
        c"When there is no room, a caller generates without a lease.",
        &MAX_LEASES,
        64,
        1_000_000,
        GucContext::Postmaster,
        GucFlags::default(),
    );
}

/// Returns the names of the steps that the worker leaves out.
pub fn skipped_steps() -> Vec<Vec<u8>> {
    SKIP_STEPS.get().map_or_else(Vec::new, |list| names_in(list.to_bytes()).map(<[u8]>::to_vec).collect())
}

fn names_in(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty())
}

/// A list of names that steps have.
struct StepNames;

impl guc::Check for StepNames {
    fn refusal(list: &CStr) -> Option<String> {
        let known = STEPS.get().copied().unwrap_or_default();
        let is_known = |name: &[u8]| known.iter().any(|step| step.as_bytes() == name);
        let unknown = names_in(list.to_bytes()).find(|name| !is_known(name))?;
        let unknown = String::from_utf8_lossy(unknown);
        Some(format!("There is no step \"{unknown}\". The steps are: {}.", known.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::names_in;

    #[test]
    fn a_list_of_steps_is_read_with_its_blanks() {
        let names = |list: &'static str| names_in(list.as_bytes()).collect::<Vec<_>>();
        assert_eq!(names(" analyze ,enforce limits,"), [&b"analyze"[..], b"enforce limits"]);
        assert!(names("  ").is_empty());
    }
}
