//! Advisory locks, held until the end of the transaction unless said otherwise.

use super::backend;
use pgrx::pg_sys;

/// What locks are for: the first half of their key.
#[derive(Clone, Copy)]
pub struct Class(i32);

impl Class {
    pub const fn new(number: i32) -> Self {
        Self(number)
    }
}

/// Locks an object. Waits for others that have it locked.
pub fn lock(class: Class, object: u32) {
    call::<()>(pg_sys::pg_advisory_xact_lock_int4, class, object);
}

/// Locks an object together with others that share it. Waits for one that does not.
pub fn lock_shared(class: Class, object: u32) {
    call::<()>(pg_sys::pg_advisory_xact_lock_shared_int4, class, object);
}

/// Locks an object if that is possible without waiting. Returns whether it did.
pub fn try_lock(class: Class, object: u32) -> bool {
    call(pg_sys::pg_try_advisory_xact_lock_int4, class, object).unwrap_or(false)
}

/// Locks an object until the process ends, if that is possible without waiting. Returns whether it did.
pub fn try_lock_session(class: Class, object: u32) -> bool {
    call(pg_sys::pg_try_advisory_lock_int4, class, object).unwrap_or(false)
}

/// A lock that is held for a part of a call. It has no destructor, because after an error the end of the transaction or
/// subtransaction releases it.
#[must_use = "it is held until it is released"]
pub struct Brief(pg_sys::LOCKTAG, pg_sys::LOCKMODE);

impl Brief {
    /// Locks an object as [`lock`] does.
    pub fn exclusive(class: Class, object: u32) -> Self {
        Self::new(class, object, pg_sys::ExclusiveLock).wait()
    }

    /// Locks an object as [`exclusive`](Self::exclusive) does; `None` where that means to wait.
    pub fn try_exclusive(class: Class, object: u32) -> Option<Self> {
        Self::new(class, object, pg_sys::ExclusiveLock).at_once()
    }

    /// Locks an object as [`lock_shared`] does.
    pub fn shared(class: Class, object: u32) -> Self {
        Self::new(class, object, pg_sys::ShareLock).wait()
    }

    /// Locks an object as [`shared`](Self::shared) does; `None` where that means to wait.
    pub fn try_shared(class: Class, object: u32) -> Option<Self> {
        Self::new(class, object, pg_sys::ShareLock).at_once()
    }

    /// Releases the lock.
    pub fn release(self) {
        // SAFETY: the lock was taken with the same resource owner, that of the call.
        unsafe { pg_sys::LockRelease(&self.0, self.1, false) };
    }

    /// Describes the lock that the server's own functions take for two int4.
    fn new(class: Class, object: u32, mode: u32) -> Self {
        let tag = pg_sys::LOCKTAG {
            locktag_field1: backend::database().to_u32(),
            locktag_field2: class.0 as u32,
            locktag_field3: object,
            locktag_field4: 2,
            locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
            locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
        };
        Self(tag, mode as pg_sys::LOCKMODE)
    }

    fn wait(self) -> Self {
        // SAFETY: every field of the tag is set, and the call copies it.
        unsafe { pg_sys::LockAcquire(&self.0, self.1, false, false) };
        self
    }

    fn at_once(self) -> Option<Self> {
        // SAFETY: as above.
        let result = unsafe { pg_sys::LockAcquire(&self.0, self.1, false, true) };
        (result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL).then_some(self)
    }
}

fn call<T: pgrx::FromDatum>(
    function: unsafe fn(pg_sys::FunctionCallInfo) -> pg_sys::Datum,
    class: Class,
    object: u32,
) -> Option<T> {
    // SAFETY: the advisory lock functions take two int4, and return void or a boolean.
    unsafe { pgrx::direct_function_call(function, &[Some(class.0.into()), Some((object as i32).into())]) }
}
