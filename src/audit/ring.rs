//! Keeps audit records of reads in a ring in shared memory until a flush stores them. When the ring is full the oldest
//! records give way and are counted, so no read waits for room or fails for its audit.

use crate::pg::backend::database;
use crate::pg::plain::plain;
use crate::pg::shared_memory::{Area, Guarded};
use crate::settings;
use crate::statistics::counters::{self, Count};
use pgrx::pg_sys;

plain! {
    /// The records lie between two positions. Positions only rise; the offset of a byte is its position modulo the size.
    struct Ends {
        first: u64,
        end: u64,
    }
}

static RING: Guarded<u8, Ends> = Guarded::new(|| settings::AUDIT_BUFFER_SIZE.get() as usize * 1024);

pub static AREA: Area = Area { name: c"infinite_pages_cache audit", parts: &[&RING] };

/// The header of a record. The ring does not interpret the body that follows.
#[derive(Clone, Copy)]
struct Head {
    /// Bytes to the next record, a multiple of 8.
    length: u32,
    /// InvalidOid if there is nothing to store: the record is stored already, or is the unused end of the buffer.
    database: pg_sys::Oid,
    /// The counters' slot that counts this record if it is lost.
    counted_at: u32,
    /// Bytes of the body.
    body: u32,
}

const HEAD: usize = 16;
/// The first two fields. The unused end of the buffer has room for these, but maybe for no more.
const MARK: usize = 8;

impl Head {
    fn mark(self) -> [u8; MARK] {
        (u64::from(self.length) | u64::from(self.database.to_u32()) << 32).to_le_bytes()
    }

    fn rest(self) -> [u8; HEAD - MARK] {
        (u64::from(self.counted_at) | u64::from(self.body) << 32).to_le_bytes()
    }
}

/// The ring, for a reader.
#[derive(Clone, Copy)]
struct Ring<'a> {
    ends: &'a Ends,
    bytes: &'a [u8],
}

impl<'a> Ring<'a> {
    fn head(self, position: u64) -> Head {
        let at = offset(position, self.bytes.len());
        let two_fields = |at: usize| {
            let fields = u64::from_le_bytes(self.bytes[at..at + MARK].try_into().expect("eight bytes"));
            (fields as u32, (fields >> 32) as u32)
        };
        let (length, database) = two_fields(at);
        let database = pg_sys::Oid::from(database);
        let (counted_at, body) = if database == pg_sys::InvalidOid { (0, 0) } else { two_fields(at + MARK) };
        Head { length, database, counted_at, body }
    }

    fn body(self, position: u64, head: Head) -> &'a [u8] {
        let at = offset(position, self.bytes.len()) + HEAD;
        &self.bytes[at..at + head.body as usize]
    }

    /// Visits the records from `from` on until `visit` returns false; returns the position of that record, or the end.
    fn each(self, from: u64, mut visit: impl FnMut(u64, Head) -> bool) -> u64 {
        let mut position = from.max(self.ends.first);
        while position < self.ends.end {
            let head = self.head(position);
            if head.database != pg_sys::InvalidOid && !visit(position, head) {
                break;
            }
            position += u64::from(head.length);
        }
        position
    }
}

fn offset(position: u64, size: usize) -> usize {
    (position % size as u64) as usize
}

/// The ring, for a writer.
struct RingMut<'a> {
    ends: &'a mut Ends,
    bytes: &'a mut [u8],
}

impl RingMut<'_> {
    fn read(&self) -> Ring<'_> {
        Ring { ends: self.ends, bytes: self.bytes }
    }

    fn put(&mut self, position: u64, bytes: &[u8]) {
        let at = offset(position, self.bytes.len());
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Marks a record as having nothing to store.
    fn mark_empty(&mut self, position: u64, length: u32) {
        let head = Head { length, database: pg_sys::InvalidOid, counted_at: 0, body: 0 };
        self.put(position, &head.mark());
    }

    /// Makes room at the end, and returns its position. The oldest records give way.
    fn append(&mut self, bytes: u64) -> u64 {
        while self.ends.end + bytes - self.ends.first > self.bytes.len() as u64 {
            let head = self.read().head(self.ends.first);
            if head.database != pg_sys::InvalidOid {
                counters::slot(head.counted_at).add(Count::AuditLost, 1);
            }
            self.ends.first += u64::from(head.length);
        }
        let position = self.ends.end;
        self.ends.end += bytes;
        position
    }

    /// Frees the room of the oldest records, as far as they have nothing to store.
    fn drop_first(&mut self) {
        while self.ends.first < self.ends.end {
            let head = self.read().head(self.ends.first);
            if head.database != pg_sys::InvalidOid {
                break;
            }
            self.ends.first += u64::from(head.length);
        }
    }
}

/// Writes a record of this database. `counted_at` is the counters' slot that counts it if it is lost.
pub fn write(counted_at: u32, body: &[u8]) {
    let length = (HEAD + body.len()).next_multiple_of(8) as u64;
    if length > RING.length() as u64 / 2 {
        counters::slot(counted_at).add(Count::AuditLost, 1);
        return;
    }
    let head = Head { length: length as u32, database: database(), counted_at, body: body.len() as u32 };
    RING.exclusive(|ends, bytes| {
        let mut ring = RingMut { ends, bytes };
        let size = ring.bytes.len() as u64;
        let left = size - ring.ends.end % size;
        if left < length {
            let unused = ring.append(left);
            ring.mark_empty(unused, left as u32);
        }
        let position = ring.append(length);
        ring.put(position, &head.mark());
        ring.put(position + MARK as u64, &head.rest());
        ring.put(position + HEAD as u64, body);
    });
}

/// Records of this database from a position on.
pub struct Records {
    /// The position to read on from.
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

/// Reads some records of this database; none if there are no more.
pub fn read(from: u64) -> Records {
    const BYTES: usize = 256 * 1024;
    const RECORDS: usize = 1000;
    // Room first, because nothing may be allocated under the lock.
    let mut records = Records {
        next: from,
        positions: Vec::with_capacity(RECORDS),
        bytes: Vec::with_capacity(BYTES),
        lengths: Vec::with_capacity(RECORDS),
    };
    let database = database();
    RING.shared(|ends, bytes| {
        let ring = Ring { ends, bytes };
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

/// Removes stored records. Those that have given way meanwhile were counted as lost, which is taken back.
pub fn remove_stored(positions: &[u64]) {
    let given_way = RING.exclusive(|ends, bytes| {
        let mut ring = RingMut { ends, bytes };
        let first = ring.ends.first;
        for position in positions.iter().filter(|position| **position >= first) {
            ring.mark_empty(*position, ring.read().head(*position).length);
        }
        ring.drop_first();
        positions.iter().filter(|position| **position < first).count()
    });
    if let (Some(given_way), Some(counted_at)) = (given_way, counters::overflow_slot()) {
        counters::slot(counted_at).take_back(Count::AuditLost, given_way as u64);
    }
}

/// Removes the records of dropped databases.
pub fn forget_databases(is_gone: impl Fn(pg_sys::Oid) -> bool) {
    remove(|head, _| is_gone(head.database));
}

/// Removes the records of this database whose body `is_forgotten`.
pub fn forget(is_forgotten: impl Fn(&[u8]) -> bool) {
    let database = database();
    remove(|head, body| head.database == database && is_forgotten(body));
}

fn remove(is_wanted: impl Fn(Head, &[u8]) -> bool) {
    RING.exclusive(|ends, bytes| {
        let mut ring = RingMut { ends, bytes };
        let mut position = 0;
        loop {
            // The next record to be removed.
            let mut wanted = None;
            position = ring.read().each(position, |position, head| {
                if is_wanted(head, ring.read().body(position, head)) {
                    wanted = Some(head);
                }
                wanted.is_none()
            });
            let Some(head) = wanted else { break };
            ring.mark_empty(position, head.length);
        }
        ring.drop_first();
    });
}
