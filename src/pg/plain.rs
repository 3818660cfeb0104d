//! Values that may lie in shared memory.

use pgrx::pg_sys;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64};

/// A value that may lie in shared memory, where every process sees it at the same address.
///
/// # Safety
/// All zeros is a valid value. There is no pointer in it to memory of a single process, and nothing to be dropped. What
/// changes behind a shared reference is atomic.
pub unsafe trait Plain: Sized + 'static {
    /// Returns the value that shared memory has when the server starts.
    fn zeroed() -> Self {
        // SAFETY: the promise of the trait.
        unsafe { std::mem::zeroed() }
    }

    /// Returns such a value on the heap, because some are too large for a stack.
    #[cfg(test)]
    fn zeroed_box() -> Box<Self> {
        // SAFETY: as above.
        unsafe { Box::<Self>::new_zeroed().assume_init() }
    }
}

macro_rules! plain_types {
    ($($type:ty),*) => {
        // SAFETY: numbers, of which 0 is one. An OID is a number.
        $(unsafe impl Plain for $type {})*
    };
}

plain_types!((), bool, u8, u16, u32, u64, usize, i32, i64, AtomicU32, AtomicU64, AtomicI64, pg_sys::Oid);

// SAFETY: its elements are plain, and there is nothing else.
unsafe impl<T: Plain, const LENGTH: usize> Plain for [T; LENGTH] {}

/// Declares a struct of plain fields, or an enum whose first variant, without a value of its own, is 0.
macro_rules! plain {
    (
        $(#[$attribute:meta])*
        $visibility:vis struct $name:ident {
            $($(#[$of_field:meta])* $visible:vis $field:ident: $type:ty),* $(,)?
        }
    ) => {
        $(#[$attribute])*
        $visibility struct $name {
            $($(#[$of_field])* $visible $field: $type),*
        }

        // SAFETY: every field is plain, and there are no others.
        #[allow(unsafe_code)]
        unsafe impl $crate::pg::plain::Plain for $name where $($type: $crate::pg::plain::Plain),* {}
    };
    (
        $(#[$attribute:meta])*
        $visibility:vis enum $name:ident {
            $($(#[$of_variant:meta])* $variant:ident),+ $(,)?
        }
    ) => {
        $(#[$attribute])*
        $visibility enum $name {
            $($(#[$of_variant])* $variant),+
        }

        // SAFETY: the first variant has the number 0, and none has fields.
        #[allow(unsafe_code)]
        unsafe impl $crate::pg::plain::Plain for $name {}
    };
}

pub(crate) use plain;
