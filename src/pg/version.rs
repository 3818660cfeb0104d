//! Every difference between the versions of PostgreSQL.

use pgrx::pg_sys;
#[cfg(not(feature = "pg14"))]
use pgrx::prelude::*;

/// A handler of a signal.
type Handler = unsafe extern "C-unwind" fn(signal: std::ffi::c_int);

mod handlers {
    // Declared here, because a handler must be the server's own function, and not pgrx's wrapper of it.
    // SAFETY: the signatures are those of PostgreSQL 14 to 18.
    unsafe extern "C-unwind" {
        pub fn die(signal: std::ffi::c_int);
        pub fn SignalHandlerForConfigReload(signal: std::ffi::c_int);
    }
}

/// Sets a background worker's handlers: SIGTERM ends it, also in the middle of a statement, and SIGHUP asks for a reload.
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

/// Timeouts that a server may set for clients, and that background work must not have.
#[cfg(not(any(feature = "pg17", feature = "pg18")))]
pub const TIMEOUTS: [&std::ffi::CStr; 3] =
    [c"statement_timeout", c"idle_in_transaction_session_timeout", c"idle_session_timeout"];
/// Timeouts that a server may set for clients, and that background work must not have.
#[cfg(any(feature = "pg17", feature = "pg18"))]
pub const TIMEOUTS: [&std::ffi::CStr; 4] =
    [c"statement_timeout", c"idle_in_transaction_session_timeout", c"idle_session_timeout", c"transaction_timeout"];

/// Reserves a prefix of settings: the server warns of a setting with the prefix that is not defined, and since PostgreSQL 15
/// also refuses to set one.
pub fn reserve_settings(prefix: &std::ffi::CStr) {
    // SAFETY: the prefix is NUL-terminated, and the server copies what it keeps.
    unsafe {
        #[cfg(feature = "pg14")]
        pg_sys::EmitWarningsOnPlaceholders(prefix.as_ptr());
        #[cfg(not(feature = "pg14"))]
        pg_sys::MarkGUCPrefixReserved(prefix.as_ptr());
    }
}

/// Calls `request` when shared memory may be requested: in PostgreSQL 14 at once, since 15 in a hook. Called while the server
/// preloads the library.
#[cfg(feature = "pg14")]
pub fn on_shared_memory_request(request: fn()) {
    request();
}

/// Calls `request` when shared memory may be requested: in PostgreSQL 14 at once, since 15 in a hook. Called while the server
/// preloads the library.
#[cfg(not(feature = "pg14"))]
pub fn on_shared_memory_request(request: fn()) {
    static mut EARLIER: pg_sys::shmem_request_hook_type = None;
    static mut REQUEST: Option<fn()> = None;

    #[pg_guard]
    unsafe extern "C-unwind" fn hook() {
        // SAFETY: the postmaster has one thread, and both variables are set before the hook.
        unsafe {
            if let Some(earlier) = EARLIER {
                earlier();
            }
            if let Some(request) = REQUEST {
                request();
            }
        }
    }

    // SAFETY: the postmaster, which has one thread, loads the library once. Our hook calls the earlier one.
    unsafe {
        REQUEST = Some(request);
        EARLIER = pg_sys::shmem_request_hook;
        pg_sys::shmem_request_hook = Some(hook);
    }
}

/// The privilege to read a table. Since PostgreSQL 16 a set of privileges has 64 bits.
#[allow(clippy::unnecessary_cast)]
pub const SELECT: pg_sys::AclMode = pg_sys::ACL_SELECT as pg_sys::AclMode;
/// The privilege to insert into a table.
#[allow(clippy::unnecessary_cast)]
pub const INSERT: pg_sys::AclMode = pg_sys::ACL_INSERT as pg_sys::AclMode;
/// The privilege to update a table.
#[allow(clippy::unnecessary_cast)]
pub const UPDATE: pg_sys::AclMode = pg_sys::ACL_UPDATE as pg_sys::AclMode;
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

/// Begins a scan of an index with keys on its first `columns` columns.
///
/// # Safety
/// Both relations are open, and the snapshot is registered or active, until the scan ends.
pub unsafe fn begin_index_scan(
    table: pg_sys::Relation,
    index: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    columns: i32,
) -> pg_sys::IndexScanDesc {
    // SAFETY: the caller's duty.
    #[cfg(not(feature = "pg18"))]
    return unsafe { pg_sys::index_beginscan(table, index, snapshot, columns, 0) };
    // SAFETY: the caller's duty. NULL asks for no figures of the scan.
    #[cfg(feature = "pg18")]
    return unsafe { pg_sys::index_beginscan(table, index, snapshot, std::ptr::null_mut(), columns, 0) };
}

/// Returns the description of a column of a row (the first is 0).
///
/// # Safety
/// The description has the column.
#[inline]
pub unsafe fn attribute(description: pg_sys::TupleDesc, column: usize) -> *const pg_sys::FormData_pg_attribute {
    // SAFETY: the caller's duty. The array of columns is part of the description.
    #[cfg(not(feature = "pg18"))]
    return unsafe { (*description).attrs.as_ptr().add(column) };
    // SAFETY: the caller's duty. The array of columns follows that of compact columns.
    #[cfg(feature = "pg18")]
    return unsafe {
        let columns = (*description).natts as usize;
        (*description).compact_attrs.as_ptr().add(columns).cast::<pg_sys::FormData_pg_attribute>().add(column)
    };
}

/// Returns the number of a new wait event; before PostgreSQL 17 that of all extensions.
#[cfg(not(any(feature = "pg17", feature = "pg18")))]
pub fn new_wait_event(_name: &std::ffi::CStr) -> u32 {
    pg_sys::PG_WAIT_EXTENSION
}

/// Returns the number of a new wait event, or that of an earlier call with the same name.
#[cfg(any(feature = "pg17", feature = "pg18"))]
pub fn new_wait_event(name: &std::ffi::CStr) -> u32 {
    // SAFETY: the name is NUL-terminated, and the server copies it.
    unsafe { pg_sys::WaitEventExtensionNew(name.as_ptr()) }
}
