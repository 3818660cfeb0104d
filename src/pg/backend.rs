//! Variables of this process and of its transaction. Reading them is sound because a PostgreSQL process has one thread:
//! nothing writes while we read. No function here allocates, and none raises but where it says so.

use pgrx::pg_sys;
use std::ffi::CStr;

/// The database that the process is connected to; `InvalidOid` for one in none.
pub fn database() -> pg_sys::Oid {
    // SAFETY: a plain variable.
    unsafe { pg_sys::MyDatabaseId }
}

pub fn process_id() -> i32 {
    // SAFETY: a plain variable.
    unsafe { pg_sys::MyProcPid }
}

/// The role whose rights count now.
pub fn current_user() -> pg_sys::Oid {
    // SAFETY: returns a variable.
    unsafe { pg_sys::GetUserId() }
}

/// The role that the session is of, whatever SET ROLE and SECURITY DEFINER have made of it.
pub fn session_user() -> pg_sys::Oid {
    // SAFETY: returns a variable.
    unsafe { pg_sys::GetSessionUserId() }
}

/// Whether a transaction is open, as in every function of a session.
pub fn is_in_transaction() -> bool {
    nest_level() > 0
}

/// How deep subtransactions are nested; 1 in a transaction without any.
pub fn nest_level() -> i32 {
    // SAFETY: returns a field of the transaction's state.
    unsafe { pg_sys::GetCurrentTransactionNestLevel() }
}

/// The id of the current subtransaction, if it has one; `InvalidTransactionId` before it has written.
pub fn transaction_id() -> pg_sys::TransactionId {
    // SAFETY: returns a field of the transaction's state.
    unsafe { pg_sys::GetCurrentTransactionIdIfAny() }
}

/// The 64-bit id of the top transaction, if it has one; 0 before it has written.
pub fn full_transaction_id() -> u64 {
    // SAFETY: returns a field of the transaction's state.
    unsafe { pg_sys::GetTopFullTransactionIdIfAny().value }
}

/// Whether an id is that of the current transaction or one of its subtransactions.
pub fn is_own_transaction(transaction: pg_sys::TransactionId) -> bool {
    // SAFETY: looks into the transaction's state.
    unsafe { pg_sys::TransactionIdIsCurrentTransactionId(transaction) }
}

/// Whether the server is a standby, or not yet done with crash recovery.
pub fn is_in_recovery() -> bool {
    // SAFETY: reads a variable, and shared memory until recovery has ended.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// Whether the transaction is read-only.
pub fn is_read_only() -> bool {
    // SAFETY: a plain variable.
    unsafe { pg_sys::XactReadOnly }
}

/// Refuses what writes before it waits for others.
///
/// # Errors
/// 25006 in a read-only transaction, and on a standby.
pub fn refuse_if_read_only(function: &CStr) {
    // SAFETY: the name is NUL-terminated, and lives as long as the call.
    unsafe { pg_sys::PreventCommandIfReadOnly(function.as_ptr()) };
}

/// Keeps stack traces out of the DETAIL of errors, even if the server was started with RUST_BACKTRACE.
pub fn keep_stack_traces_from_errors() {
    // SAFETY: the process has one thread.
    unsafe { std::env::set_var("RUST_LIB_BACKTRACE", "0") };
}

/// Whether the server is loading `shared_preload_libraries`.
pub fn is_preloading() -> bool {
    // SAFETY: a plain variable.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// Whether pg_upgrade runs the server.
pub fn is_binary_upgrade() -> bool {
    // SAFETY: a plain variable.
    unsafe { pg_sys::IsBinaryUpgrade }
}

/// Whether the script of an extension runs.
pub fn is_in_extension_script() -> bool {
    // SAFETY: a plain variable.
    unsafe { pg_sys::creating_extension }
}

/// Runs `f` as if no script of an extension ran: what it creates belongs to no extension.
pub fn outside_extension_script<T>(f: impl FnOnce() -> T) -> T {
    // SAFETY: a plain variable. If `f` raises, the end of CREATE or ALTER EXTENSION sets it.
    unsafe {
        let in_script = pg_sys::creating_extension;
        pg_sys::creating_extension = false;
        let result = f();
        pg_sys::creating_extension = in_script;
        result
    }
}

/// The setting row_security: when it is off, what policies hide is an error.
pub fn applies_row_security() -> bool {
    // SAFETY: a plain variable.
    unsafe { pg_sys::row_security }
}

/// Whether a check of a foreign key runs, which ignores FORCE ROW LEVEL SECURITY.
pub fn ignores_forced_row_security() -> bool {
    // SAFETY: reads a flag of the security context.
    unsafe { pg_sys::InNoForceRLSOperation() }
}

/// Whether another library adds policies to tables.
pub fn has_row_security_hook() -> bool {
    // SAFETY: plain variables, set when libraries are loaded.
    unsafe {
        { pg_sys::row_security_policy_hook_permissive }.is_some() || { pg_sys::row_security_policy_hook_restrictive }
            .is_some()
    }
}

/// Whether another library checks the permissions of statements.
pub fn has_permission_hook() -> bool {
    // SAFETY: a plain variable, set when libraries are loaded.
    unsafe { pg_sys::ExecutorCheckPerms_hook }.is_some()
}

/// The setting enable_indexscan.
pub fn uses_index_scans() -> bool {
    // SAFETY: a plain variable.
    unsafe { pg_sys::enable_indexscan }
}

/// The encoding of the database, by number and by name.
pub fn encoding() -> (u32, &'static str) {
    // SAFETY: the name is a constant of the server, in ASCII.
    unsafe {
        let name = CStr::from_ptr(pg_sys::GetDatabaseEncodingName());
        (pg_sys::GetDatabaseEncoding() as u32, name.to_str().unwrap_or("unknown"))
    }
}
