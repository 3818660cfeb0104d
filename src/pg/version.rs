//! Every difference between the versions of PostgreSQL.

use pgrx::pg_sys;
#[cfg(not(feature = "pg14"))]
use pgrx::prelude::*;

/// A signal's handler.
type Handler = unsafe extern "C-unwind" fn(signal: std::ffi::c_int);

mod handlers {
    // Declared here, since a handler must be the server's own function, not a wrapper around it.
    // SAFETY: the signatures are those of PostgreSQL 14 to 18.
    unsafe extern "C-unwind" {
        pub fn die(signal: std::ffi::c_int);
        pub fn SignalHandlerForConfigReload(signal: std::ffi::c_int);
    }
}

mod timeouts {
    /// STATEMENT_TIMEOUT, of the enum TimeoutId.
    pub const STATEMENT: std::ffi::c_int = 3;

    // Declared here, since pgrx does not. Neither raises.
    // SAFETY: the signatures, and the number, are those of PostgreSQL 14 to 18.
    unsafe extern "C-unwind" {
        pub fn enable_timeout_after(id: std::ffi::c_int, milliseconds: std::ffi::c_int);
        pub fn disable_timeout(id: std::ffi::c_int, keep_indicator: bool);
    }
}

/// Has what this process does be cancelled after a time, counted anew from each call. The setting
/// statement_timeout does nothing in a background worker.
pub fn limit_time(limit: std::time::Duration) {
    let milliseconds = limit.as_millis().try_into().unwrap_or(std::ffi::c_int::MAX);
    // SAFETY: every process that is connected to a database has this timeout, which cancels like a user would.
    unsafe { timeouts::enable_timeout_after(timeouts::STATEMENT, milliseconds) };
}

/// Ends the limit, and forgets a cancellation that came too late to find anything at work.
pub fn unlimit_time() {
    // SAFETY: as above; the flag is set by signal handlers only.
    unsafe {
        timeouts::disable_timeout(timeouts::STATEMENT, false);
        pg_sys::QueryCancelPending = 0;
    }
}

/// Has a background worker end at SIGTERM, also in the middle of a statement, and take note of SIGHUP.
pub fn handle_signals() {
    handle(pg_sys::SIGTERM as i32, handlers::die);
    handle(pg_sys::SIGHUP as i32, handlers::SignalHandlerForConfigReload);
}

#[cfg(not(feature = "pg18"))]
fn handle(signal: std::ffi::c_int, handler: Handler) {
    // SAFETY: the handler is one that the server itself uses for this signal.
    unsafe { pg_sys::pqsignal(signal, Some(handler)) };
}

#[cfg(feature = "pg18")]
fn handle(signal: std::ffi::c_int, handler: Handler) {
    // SAFETY: the handler is one that the server itself uses for this signal.
    unsafe { pg_sys::pqsignal_be(signal, Some(handler)) };
}

/// Timeouts that a server may be configured with, and that work in the background must not have.
#[cfg(not(any(feature = "pg17", feature = "pg18")))]
pub const TIMEOUTS: [&std::ffi::CStr; 3] =
    [c"statement_timeout", c"idle_in_transaction_session_timeout", c"idle_session_timeout"];
/// Timeouts that a server may be configured with, and that work in the background must not have.
#[cfg(any(feature = "pg17", feature = "pg18"))]
pub const TIMEOUTS: [&std::ffi::CStr; 4] =
    [c"statement_timeout", c"idle_in_transaction_session_timeout", c"idle_session_timeout", c"transaction_timeout"];

/// Has the server tell of settings with this prefix that nobody has defined, and since PostgreSQL 15 refuse them.
pub fn reserve_settings(prefix: &std::ffi::CStr) {
    // SAFETY: the prefix is copied by the call.
    unsafe {
        #[cfg(feature = "pg14")]
        pg_sys::EmitWarningsOnPlaceholders(prefix.as_ptr());
        #[cfg(not(feature = "pg14"))]
        pg_sys::MarkGUCPrefixReserved(prefix.as_ptr());
    }
}

/// Has `request` called when shared memory may be requested: since PostgreSQL 15 in a hook, before that at
/// once. Called while the server preloads the library.
#[cfg(feature = "pg14")]
pub fn on_shared_memory_request(request: fn()) {
    request();
}

/// Has `request` called when shared memory may be requested: since PostgreSQL 15 in a hook, before that at
/// once. Called while the server preloads the library.
#[cfg(not(feature = "pg14"))]
pub fn on_shared_memory_request(request: fn()) {
    static mut EARLIER: pg_sys::shmem_request_hook_type = None;
    static mut REQUEST: Option<fn()> = None;

    #[pg_guard]
    unsafe extern "C-unwind" fn hook() {
        // SAFETY: the postmaster has one thread; both are set before the hook is.
        unsafe {
            if let Some(earlier) = EARLIER {
                earlier();
            }
            if let Some(request) = REQUEST {
                request();
            }
        }
    }

    // SAFETY: the postmaster, which has one thread, loads the library once.
    unsafe {
        REQUEST = Some(request);
        EARLIER = pg_sys::shmem_request_hook;
        pg_sys::shmem_request_hook = Some(hook);
    }
}

/// The privilege to read a table. Since PostgreSQL 16 a set of privileges has 64 bits.
#[allow(clippy::unnecessary_cast)]
pub const SELECT: pg_sys::AclMode = pg_sys::ACL_SELECT as pg_sys::AclMode;
/// The privilege to delete from a table.
#[allow(clippy::unnecessary_cast)]
pub const DELETE: pg_sys::AclMode = pg_sys::ACL_DELETE as pg_sys::AclMode;
/// The privilege to use a schema.
#[allow(clippy::unnecessary_cast)]
const USAGE: pg_sys::AclMode = pg_sys::ACL_USAGE as pg_sys::AclMode;

/// Whether a role may use a schema.
#[cfg(any(feature = "pg14", feature = "pg15"))]
pub fn may_use_schema(schema: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    // SAFETY: a lookup in the system caches, for a schema that exists.
    unsafe { pg_sys::pg_namespace_aclcheck(schema, role, USAGE) == pg_sys::AclResult::ACLCHECK_OK }
}

/// Whether a role may use a schema.
#[cfg(not(any(feature = "pg14", feature = "pg15")))]
pub fn may_use_schema(schema: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    // SAFETY: a lookup in the system caches, for a schema that exists.
    unsafe {
        pg_sys::object_aclcheck(pg_sys::NamespaceRelationId, schema, role, USAGE) == pg_sys::AclResult::ACLCHECK_OK
    }
}

/// Begins a scan of an index on so many of its columns.
///
/// # Safety
/// Both relations must be open, and the snapshot registered or active, until the scan ends.
pub unsafe fn begin_index_scan(
    table: pg_sys::Relation,
    index: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    columns: i32,
) -> pg_sys::IndexScanDesc {
    // SAFETY: the caller's duty.
    #[cfg(not(feature = "pg18"))]
    return unsafe { pg_sys::index_beginscan(table, index, snapshot, columns, 0) };
    // SAFETY: the caller's duty. Nobody asks for figures of the scan.
    #[cfg(feature = "pg18")]
    return unsafe { pg_sys::index_beginscan(table, index, snapshot, std::ptr::null_mut(), columns, 0) };
}

/// The description of a column of a row (the first is 0).
///
/// # Safety
/// The description has the column.
#[inline]
pub unsafe fn attribute(description: pg_sys::TupleDesc, column: usize) -> *const pg_sys::FormData_pg_attribute {
    // SAFETY: the caller's duty; an array of them is part of the description.
    #[cfg(not(feature = "pg18"))]
    return unsafe { (*description).attrs.as_ptr().add(column) };
    // SAFETY: the caller's duty; the array of them follows that of the compact ones.
    #[cfg(feature = "pg18")]
    return unsafe {
        let columns = (*description).natts as usize;
        (*description).compact_attrs.as_ptr().add(columns).cast::<pg_sys::FormData_pg_attribute>().add(column)
    };
}
