//! Random bytes that nobody can guess.

use pgrx::pg_sys;

/// Fills an array; `None` if the server's source of random bytes fails.
pub fn bytes<const LENGTH: usize>() -> Option<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    // SAFETY: the array has as many bytes.
    let filled = unsafe { pg_sys::pg_strong_random(bytes.as_mut_ptr().cast(), LENGTH) };
    filled.then_some(bytes)
}
