//! The elements of the server's lists. (PgList calls C functions that pgrx compiles with the headers of the server: a
//! library that is built without them would not load.)

#![allow(unsafe_code)]

use pgrx::pg_sys;

/// # Safety
/// The list is null or whole, and stays as it is while its cells are looked at.
unsafe fn cells<'a>(list: *const pg_sys::List) -> &'a [pg_sys::ListCell] {
    if list.is_null() {
        return &[];
    }
    // SAFETY: a list is an array with so many cells.
    unsafe { std::slice::from_raw_parts((*list).elements, (*list).length as usize) }
}

/// The pointers in a list of nodes.
///
/// # Safety
/// The list is null or one of pointers to T, and stays as it is while they are used.
pub unsafe fn pointers<T>(list: *const pg_sys::List) -> impl ExactSizeIterator<Item = *mut T> + Clone {
    // SAFETY: the caller's duty.
    unsafe { cells(list).iter().map(|cell| cell.ptr_value.cast()) }
}

/// The numbers in a list of OIDs.
///
/// # Safety
/// The list is null or one of OIDs, and stays as it is while they are used.
pub unsafe fn oids(list: *const pg_sys::List) -> impl ExactSizeIterator<Item = pg_sys::Oid> {
    // SAFETY: the caller's duty.
    unsafe { cells(list).iter().map(|cell| cell.oid_value) }
}
