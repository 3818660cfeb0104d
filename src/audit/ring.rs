//! Audit records of reads, between the read and the worker that stores them: a ring of bytes in shared
//! memory. When it is full the oldest records give way and are counted, so no read ever waits or fails for
//! its audit.

#![allow(unsafe_code)]

use crate::pg::backend::database;
use crate::pg::shared_memory::{Area, Lock};
use crate::settings;
use crate::statistics::counters::{self, Count};
use pgrx::pg_sys;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

/// The beginning of a record; what follows is the record's own affair.
#[repr(C)]
#[derive(Clone, Copy)]
struct Head {
    /// Bytes to the next record, a multiple of 8.
    length: u32,
    /// InvalidOid when there is nothing to store: stored already, or the unused end of the buffer.
    database: pg_sys::Oid,
    /// The place that counts this record if it is lost.
    place: u32,
    /// Bytes of the body.
    body: u32,
}

const HEAD: usize = size_of::<Head>();

/// The ring: positions rise for ever, and a byte's offset is its position modulo the size.
#[repr(C)]
struct Ring {
    first: u64,
    end: u64,
}

static RING: AtomicPtr<Ring> = AtomicPtr::new(std::ptr::null_mut());
static LOCK: AtomicPtr<pg_sys::LWLockPadded> = AtomicPtr::new(std::ptr::null_mut());

pub const AREA: Area = Area {
    name: c"infinite_pages_cache audit",
    bytes: || size_of::<Ring>() + size(),
    locks: || 1,
    start: |memory, locks| {
        RING.store(memory.cast(), Relaxed);
        LOCK.store(locks, Relaxed);
    },
};

fn size() -> usize {
    settings::AUDIT_BUFFER_SIZE.get() as usize * 1024
}

/// Whether there is a ring.
pub fn is_on() -> bool {
    !RING.load(Relaxed).is_null()
}

fn lock() -> Lock {
    // SAFETY: the area has one lock.
    unsafe { Lock::of(LOCK.load(Relaxed), 0) }
}

/// The ring, under its lock.
struct Locked {
    ring: *mut Ring,
    size: u64,
}

impl Locked {
    fn get() -> Self {
        Self { ring: RING.load(Relaxed), size: size() as u64 }
    }

    fn first(&self) -> u64 {
        // SAFETY: the ring lives in shared memory, and its lock is held.
        unsafe { (*self.ring).first }
    }

    fn end(&self) -> u64 {
        // SAFETY: as in first().
        unsafe { (*self.ring).end }
    }

    fn at(&self, position: u64) -> *mut u8 {
        // SAFETY: the bytes follow the ring in the area; the offset is less than their number.
        unsafe { self.ring.add(1).cast::<u8>().add((position % self.size) as usize) }
    }

    fn head(&self, position: u64) -> Head {
        // SAFETY: a record begins here, at a multiple of 8. The last 8 bytes of the buffer may be all that is
        // there of an unused end, so only those are read of it.
        unsafe {
            let at = self.at(position).cast::<u32>();
            let (length, database) = (*at, pg_sys::Oid::from(*at.add(1)));
            if database == pg_sys::InvalidOid {
                return Head { length, database, place: 0, body: 0 };
            }
            *at.cast::<Head>()
        }
    }

    fn body(&self, position: u64, head: Head) -> &[u8] {
        // SAFETY: the body follows the head; nobody writes it while the lock is held.
        unsafe { std::slice::from_raw_parts(self.at(position).add(HEAD), head.body as usize) }
    }

    /// Writes the two fields that every record has.
    fn mark(&self, position: u64, length: u32, database: pg_sys::Oid) {
        // SAFETY: as in head(); the lock is exclusive.
        unsafe {
            let at = self.at(position).cast::<u32>();
            *at = length;
            *at.add(1) = database.to_u32();
        }
    }

    /// Makes room: the oldest records give way.
    fn give_way(&self, bytes: u64) {
        while self.end() + bytes - self.first() > self.size {
            let head = self.head(self.first());
            if head.database != pg_sys::InvalidOid {
                counters::place(head.place).add(Count::AuditLost, 1);
            }
            self.advance(head.length);
        }
    }

    fn advance(&self, bytes: u32) {
        // SAFETY: the lock is exclusive.
        unsafe { (*self.ring).first += u64::from(bytes) };
    }

    fn append(&self, bytes: u64) -> u64 {
        let position = self.end();
        // SAFETY: the lock is exclusive.
        unsafe { (*self.ring).end += bytes };
        position
    }

    /// The positions of this database's records from `from` on, with their heads.
    fn each(&self, from: u64, mut visit: impl FnMut(u64, Head) -> bool) -> u64 {
        let mut position = from.max(self.first());
        while position < self.end() {
            let head = self.head(position);
            if head.database != pg_sys::InvalidOid && !visit(position, head) {
                break;
            }
            position += u64::from(head.length);
        }
        position
    }
}

/// Puts a record of this database into the ring. `place` counts it if it is lost.
pub fn write(place: u32, body: &[u8]) {
    let length = (HEAD + body.len()).next_multiple_of(8) as u64;
    if length > size() as u64 / 2 {
        counters::place(place).add(Count::AuditLost, 1);
        return;
    }
    let head = Head { length: length as u32, database: database(), place, body: body.len() as u32 };
    lock().exclusive(|| {
        let ring = Locked::get();
        let left = ring.size - ring.end() % ring.size;
        if left < length {
            ring.give_way(left);
            let unused = ring.append(left);
            ring.mark(unused, left as u32, pg_sys::InvalidOid);
        }
        ring.give_way(length);
        let at = ring.at(ring.append(length));
        // SAFETY: room for head and body was made; the lock is exclusive.
        unsafe {
            at.cast::<Head>().write(head);
            std::ptr::copy_nonoverlapping(body.as_ptr(), at.add(HEAD), body.len());
        }
    });
}

/// Records of this database from a position on.
pub struct Records {
    /// Where to go on.
    pub next: u64,
    pub positions: Vec<u64>,
    /// The bodies, one after the other.
    bytes: Vec<u8>,
    lengths: Vec<usize>,
}

impl Records {
    pub fn bodies(&self) -> impl Iterator<Item = &[u8]> {
        let mut from = 0;
        self.lengths.iter().map(move |length| {
            from += length;
            &self.bytes[from - length..from]
        })
    }
}

/// Reads some records of this database; none when there are no more.
pub fn read(from: u64) -> Records {
    const BYTES: usize = 256 * 1024;
    const RECORDS: usize = 1000;
    // Room first: nothing is allocated under the lock.
    let mut records = Records {
        next: from,
        positions: Vec::with_capacity(RECORDS),
        bytes: Vec::with_capacity(BYTES),
        lengths: Vec::with_capacity(RECORDS),
    };
    if !is_on() {
        return records;
    }
    let database = database();
    lock().shared(|| {
        let ring = Locked::get();
        records.next = ring.each(from, |position, head| {
            if head.database != database {
                return true;
            }
            let length = head.body as usize;
            if records.positions.len() == RECORDS || records.bytes.len() + length > BYTES {
                return false;
            }
            records.bytes.extend_from_slice(ring.body(position, head));
            records.positions.push(position);
            records.lengths.push(length);
            true
        });
    });
    records
}

/// Removes records that have been stored. Those that have given way meanwhile were counted as lost, and are
/// not.
pub fn drained(positions: &[u64]) {
    let given_way = lock().exclusive(|| {
        let ring = Locked::get();
        let given_way = positions.iter().filter(|position| **position < ring.first()).count();
        for position in positions.iter().filter(|position| **position >= ring.first()) {
            ring.mark(*position, ring.head(*position).length, pg_sys::InvalidOid);
        }
        drop_first(&ring);
        given_way
    });
    if let Some(place) = counters::place_of_others() {
        counters::place(place).take_back(Count::AuditLost, given_way as u64);
    }
}

/// Removes the records of databases that are gone.
pub fn forget_databases(is_gone: impl Fn(pg_sys::Oid) -> bool) {
    remove(|head, _| is_gone(head.database));
}

/// Removes the records of this database whose body is to be forgotten.
pub fn forget(is_forgotten: impl Fn(&[u8]) -> bool) {
    let database = database();
    remove(|head, body| head.database == database && is_forgotten(body));
}

fn remove(is_wanted: impl Fn(Head, &[u8]) -> bool) {
    if !is_on() {
        return;
    }
    lock().exclusive(|| {
        let ring = Locked::get();
        ring.each(0, |position, head| {
            if is_wanted(head, ring.body(position, head)) {
                ring.mark(position, head.length, pg_sys::InvalidOid);
            }
            true
        });
        drop_first(&ring);
    });
}

/// Gives up the room of the oldest records as far as there is nothing to store.
fn drop_first(ring: &Locked) {
    while ring.first() < ring.end() {
        let head = ring.head(ring.first());
        if head.database != pg_sys::InvalidOid {
            break;
        }
        ring.advance(head.length);
    }
}
