//! Variables of this process and of its transaction. Reading them is sound because a PostgreSQL process has one thread, so
//! that nothing writes while we read. No function here allocates or raises unless its comment says so.

use pgrx::pg_sys;
use std::ffi::CStr;

/// Returns the database that the process is connected to; `InvalidOid` = none.
pub fn database() -> pg_sys::Oid {
    // SAFETY: a plain variable.
    unsafe { pg_sys::MyDatabaseId }
}

pub fn process_id() -> i32 {
    // SAFETY: a plain variable.
    unsafe { pg_sys::MyProcPid }
}

/// Returns the role whose rights count now.
pub fn current_user() -> pg_sys::Oid {
    // SAFETY: returns a variable.
    unsafe { pg_sys::GetUserId() }
}

/// Returns the role of the session, which SET ROLE and SECURITY DEFINER do not change.
pub fn session_user() -> pg_sys::Oid {
    // SAFETY: returns a variable.
    unsafe { pg_sys::GetSessionUserId() }
}

/// Whether a transaction is open. In a function that SQL calls one always is.
pub fn is_in_transaction() -> bool {
    nest_level() > 0
}

/// Returns how deep subtransactions are nested: 0 outside of transactions, 1 in a transaction without a subtransaction.
pub fn nest_level() -> i32 {
    // SAFETY: returns a field of the transaction's state.
    unsafe { pg_sys::GetCurrentTransactionNestLevel() }
}

/// Returns the id of the current subtransaction; `InvalidTransactionId` before it has written.
pub fn transaction_id() -> pg_sys::TransactionId {
    // SAFETY: returns a field of the transaction's state.
    unsafe { pg_sys::GetCurrentTransactionIdIfAny() }
}

/// Returns the 64-bit id of the top transaction; 0 before it has written.
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

/// Refuses to write, before the caller waits for anything.
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

/// Runs `f` as if no script of an extension ran, so that what `f` creates belongs to no extension.
pub fn outside_extension_script<T>(f: impl FnOnce() -> T) -> T {
    // SAFETY: a plain variable. If `f` raises, the error handler of CREATE or ALTER EXTENSION resets it.
    unsafe {
        let in_script = pg_sys::creating_extension;
        pg_sys::creating_extension = false;
        let result = f();
        pg_sys::creating_extension = in_script;
        result
    }
}

/// Whether the setting row_security is on. When it is off, a query whose rows a policy would hide is an error.
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

/// Whether the setting enable_indexscan is on.
pub fn uses_index_scans() -> bool {
    // SAFETY: a plain variable.
    unsafe { pg_sys::enable_indexscan }
}

/// Returns the encoding of the database, its number and its name.
pub fn encoding() -> (u32, &'static str) {
    // SAFETY: the name is a constant of the server, in ASCII.
    unsafe {
        let name = CStr::from_ptr(pg_sys::GetDatabaseEncodingName());
        (pg_sys::GetDatabaseEncoding() as u32, name.to_str().unwrap_or("unknown"))
    }
}
