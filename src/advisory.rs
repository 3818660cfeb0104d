//! Advisory locks of the extension, held until the end of the transaction unless said otherwise. The first half of a lock's key
//! is its class, so that these and an application's own locks do not meet.

#![allow(unsafe_code)]

use pgrx::pg_sys;

/// What a lock is for.
#[derive(Clone, Copy)]
#[repr(i32)]
pub enum Class {
    /// A group of keys: see `entry/lock.rs`.
    KeyGroup = 0x4950_4301,
    /// A key.
    Key = 0x4950_4302,
    /// The creation of partitions of a table.
    CreatePartition = 0x4950_4303,
    /// A run of maintenance.
    Maintenance = 0x4950_4304,
    /// Set-up and grants.
    Setup = 0x4950_4305,
}

/// Locks an object; waits for whoever has it locked.
pub fn lock(class: Class, object: u32) {
    call::<()>(pg_sys::pg_advisory_xact_lock_int4, class, object);
}

/// Locks an object together with others who share it.
pub fn lock_shared(class: Class, object: u32) {
    call::<()>(pg_sys::pg_advisory_xact_lock_shared_int4, class, object);
}

/// Locks an object unless somebody has it locked; returns whether it did.
pub fn try_lock(class: Class, object: u32) -> bool {
    call(pg_sys::pg_try_advisory_xact_lock_int4, class, object).unwrap_or(false)
}

/// The same, until the process ends.
pub fn try_lock_session(class: Class, object: u32) -> bool {
    call(pg_sys::pg_try_advisory_lock_int4, class, object).unwrap_or(false)
}

fn call<T: pgrx::FromDatum>(
    function: unsafe fn(pg_sys::FunctionCallInfo) -> pg_sys::Datum,
    class: Class,
    object: u32,
) -> Option<T> {
    // SAFETY: the advisory lock functions take two int4, and return void or a boolean.
    unsafe { pgrx::direct_function_call(function, &[Some((class as i32).into()), Some((object as i32).into())]) }
}
