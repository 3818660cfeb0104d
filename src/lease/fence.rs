//! Fencing: an answer is not stored when what it was made from has been invalidated since its lease was granted.
//!
//! # The promise
//! A fill counts as if its entry had been stored when its lease was granted: every invalidation that commits after that, and
//! would have removed the entry, keeps it out. So whoever reads, on the primary, by a snapshot taken after a grant, and stores
//! with that lease, never leaves an answer that is older than a committed edit whose transaction has invalidated it.
//! (`tests/lease/fencing_model.py` tries every order of the steps below, and finds a counterexample for each rule that is left
//! out.) The statement that calls cache_fetch() has an older snapshot.
//!
//! # Words
//! A *lease* is the right to generate the answer of one key; it has a slot in shared memory ([`super::table`]), and a uuid that
//! names the slot and cannot be guessed. A *grant* gives one out (cache_fetch). A *fill* stores an answer with one (cache_upsert).
//! An *invalidation* has a [`Subject`]: a key, a content type, a foundation, metadata, a user, or a content type of all users. It
//! is *pending* from its call to the end of its transaction. It *concerns* a lease if it would remove what the lease is filled
//! with. A lease that a committed invalidation concerns is *outdated*. A fill is *committing* from its last check to the end of
//! its transaction.
//!
//! # Shared memory
//! One lock guards the slots, the pending invalidations of each backend, and a counter, `order`, which grants and invalidations
//! number themselves by. Every line below that begins with a letter and a number is one visit under that lock. So no order of
//! stores and loads within a visit matters; the order of the visits does.
//!
//! Grant
//! - G1 Refuse while an invalidation of another transaction that concerns the key is pending: nobody shall pay for an answer that
//!   will be refused. Refuse while another lease of the key is held: it is exclusive until its time is over, or it is outdated.
//!   Else take a slot, and the next `order`.
//! - Look for the entry once more, by a new snapshot: a fill may have committed between the first look and G1.
//!
//! Invalidation
//! - I1 Write the subject, with the next `order`, into the backend's list. This comes before anything is deleted, because a fill
//!   that commits after the deletion must find it.
//! - I2 See whether a fill of another transaction is committing in a slot that the subject concerns; sleep until none is. Such a
//!   fill has passed its last check before I1. It becomes visible soon, or never: it waits for no session's statement.
//! - Delete, by a snapshot taken after I2, which shows what such a fill has stored. A transaction snapshot (REPEATABLE READ,
//!   SERIALIZABLE) may hide it: then 40001.
//!
//! Fill
//! - F1 Refuse when the slot is not the lease's any more, when another transaction is filling it, when it is outdated, when an
//!   invalidation of another transaction that concerns it is pending, or when one of its own transaction is, unless this
//!   transaction was granted the lease after it. Else the slot is *filling*: it does not end by time.
//! - Write the entry.
//! - F2 In XACT_EVENT_PRE_COMMIT, ask all of F1 again for each slot that the transaction fills, but for its own invalidations:
//!   these came after F1, and have deleted what they concern of what was written. If all may be filled, they are committing.
//!   Else raise 40001. Question and answer are one visit, because an invalidation that comes between them would see nothing
//!   committing at I2, and delete before the fill is visible. Nothing of ours raises after F2.
//!
//! Commit (XACT_EVENT_COMMIT, which PostgreSQL calls after ProcArrayEndTransaction: others see the rows, and the edit, already)
//! - C1 In one visit: outdate each lease that a pending invalidation of the transaction concerns; take these invalidations off
//!   the list; end the slots that it has filled. Outdating comes first, because a fill that finds nothing pending must find its
//!   lease outdated; all of it comes after the commit is visible, because a lease that is granted after C1 must read the edit,
//!   and an invalidation that sees nothing committing must see the entry. Leases that the transaction itself was granted after
//!   its invalidation stay good: they read what it has written.
//! - Wake who waits for these slots.
//!
//! Rollback (XACT_EVENT_ABORT; SUBXACT_EVENT_ABORT_SUB for the part that is rolled back)
//! - A1 In one visit: take the invalidations off the list; give the slots back that were filling or committing, with what is left
//!   of their time; end the slots that this transaction, or this part, was granted, because their holder may have read what was
//!   never committed, or never got them. Wake who waits. A subtransaction that commits hands all of it to its parent.
//!
//! # What concerns what
//! A key concerns its lease; a content type, a user and a content type of all users the leases they name. A foundation concerns a
//! lease that has named it, and, if a lease has named none, the fill that names it. Metadata concern fills that have metadata:
//! which, is not known before. Comparison is exact, by 128-bit digests. Nothing is hashed into places that users share, because
//! then a tenant could keep others' answers out, by invalidating many keys of its own.
//!
//! A backend's list has 16 places. When it is full, the subjects of a user that has several become that user, and if that
//! makes no room, all become the whole database. Only who may delete every user's entries reaches that: others get 54000. A merged one has the latest `order`, and the
//! outermost nesting level: it may refuse too much and never too little.
//!
//! # Transactions of all kinds
//! - PREPARE TRANSACTION: F2 is asked in XACT_EVENT_PRE_PREPARE, and C1 done in XACT_EVENT_PREPARE. What is prepared is not fenced
//!   from then on, because nobody tells how it ends. For the same reason the leases that it was granted end there, as at A1.
//! - A transaction that generates itself edits first, then invalidates, then is granted its lease. An invalidation before the
//!   edit fences everybody else as well, but not its own later lease.
//! - With `infinite_pages_cache.enabled = off` no lease is granted and nothing is stored; invalidations are fenced all the same.
//! - cache_forget_user() is an invalidation of the user, before it takes the lock of erasure; in C1 the user's slots end.
//! - kill -9 and a crash empty shared memory. Leases from before name no slot, and are refused.
//! - A backend that is terminated rolls back as any other.
//!
//! # Who waits for whom
//! I2 is the only wait. It waits for a transaction that is past its last statement and deferred trigger, so for nothing that the
//! waiter holds; on a primary that waits for a synchronous standby it takes as long as every commit there. It can be cancelled.
//! A fill never waits for an invalidation, a grant for nobody. Row locks are PostgreSQL's own: an invalidation that deletes a row
//! that an open transaction has replaced waits for it, as any DELETE does.

use super::pending::{self, Pending, Row};
use super::slot::{Slot, State};
use super::subject::{Bytes, Concern, Filled, Lease, Stored};
use super::table::{self, Header, Place, Table};
use super::types::{Id, Nonce, Refused};
use crate::pg::plain::Plain;
use pgrx::pg_sys;

/// Keys share this many condition variables, and counters of what has ended.
pub const STRIPES: usize = 256;

/// A set of stripes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Stripes([u64; STRIPES / 64]);

impl Stripes {
    pub fn add(&mut self, stripe: u8) {
        self.0[stripe as usize / 64] |= 1 << (stripe % 64);
    }

    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..STRIPES).filter(move |stripe| self.0[stripe / 64] >> (stripe % 64) & 1 == 1)
    }
}

/// Returns the stripe of a key by its digest, which is evenly spread.
pub fn stripe_of(digest: &[u8; 16]) -> u8 {
    digest[0]
}

/// A lease, and the stripe of its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hold {
    pub id: Id,
    pub stripe: u8,
}

/// The transaction that takes a step, by its number.
#[derive(Clone, Copy)]
pub struct Me {
    pub transaction: u64,
    pub database: pg_sys::Oid,
    pub pid: i32,
}

/// How G1 ends; times in milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Granted {
    /// `over`: who counts a lease that gave way because its time was over.
    Lease {
        number: u32,
        over: Option<u32>,
    },
    Held(u64),
    Failed(u64),
    Pending,
    NoRoom,
}

/// How F1 ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Begun {
    /// `since`: milliseconds since the grant. `is_first`: the transaction has not stored with it before.
    Filling {
        hold: Hold,
        since: u64,
        is_first: bool,
    },
    Refused(Refused),
    OtherEntry,
    OtherFoundation,
}

/// How I1 ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Announced {
    /// The transaction's row, and a fill that commits.
    Row(u32, Option<Hold>),
    /// The row is full, and the caller may not reach the whole database.
    TooMany,
    NoRow,
}

/// What has changed for those who sleep.
#[derive(Clone, Copy, Default)]
pub struct Changed {
    pub wake: Stripes,
    /// Where fills or releases have ended.
    pub ended: Stripes,
}

/// All that the lock guards, under the lock.
pub struct Fence<'a> {
    pub table: Table<'a>,
    pub rows: &'a mut [Row],
}

impl<'a> Fence<'a> {
    pub fn new(header: &'a mut Header, places: &'a mut [Place], rows: &'a mut [Row]) -> Self {
        Self { table: Table { header, places }, rows }
    }

    fn used_rows(&self) -> &[Row] {
        &self.rows[..self.table.header.rows_end as usize]
    }

    pub fn find(&self, me: Me, id: &Id) -> Option<u32> {
        table::find(self.table.places, me.database, id.number, &id.nonce)
    }

    /// Returns the slot of a lease that the transaction stores with.
    fn find_filled(&self, me: Me, hold: &Hold) -> Option<u32> {
        let filler = |number: &u32| self.table.places[*number as usize - 1].slot.filler;
        self.find(me, &hold.id).filter(|number| filler(number) == me.transaction)
    }

    pub fn hold(&mut self, number: u32) -> Hold {
        let slot = self.table.slot(number);
        Hold { id: Id { number, nonce: slot.nonce }, stripe: stripe_of(&slot.lease.digest) }
    }

    /// G1. `ttl` in milliseconds.
    pub fn grant(&mut self, me: Me, lease: &Lease, nonce: &Nonce, now: u64, ttl: u64) -> Granted {
        if pending::others_concern_all(self.used_rows(), me.transaction, lease) {
            return Granted::Pending;
        }
        let left = |table: &mut Table, number| {
            let slot = table.slot(number);
            slot.is_exclusive(now).then(|| slot.left(now))
        };
        if let Some(left) = self.table.find_of_key(lease, left) {
            return Granted::Held(left);
        }
        let mut failed = 0;
        self.table.find_of_key(lease, |table, number| {
            let Slot { state, ends, .. } = *table.slot(number);
            match state {
                State::Failed if now >= ends => table.free(number),
                State::Failed => failed = failed.max(ends - now),
                _ => {}
            }
            None::<()>
        });
        if failed > 0 {
            return Granted::Failed(failed);
        }
        let Some(taken) = self.table.take_if_room(lease, nonce, now, now.saturating_add(ttl)) else {
            return Granted::NoRoom;
        };
        self.table.slot(taken.number).granter = me.transaction;
        Granted::Lease { number: taken.number, over: taken.over }
    }

    /// F1. `lease` is what the fill is of; its foundation is that of the fill.
    pub fn begin_fill(&mut self, me: Me, id: &Id, lease: &Lease, has_metadata: bool, now: u64) -> Begun {
        let ended = Begun::Refused(Refused::Ended);
        let Some(number) = self.find(me, id) else { return ended };
        let slot = *self.table.slot(number);
        if slot.lease.user != lease.user {
            return ended;
        }
        if slot.lease.digest != lease.digest {
            return Begun::OtherEntry;
        }
        let is_first = slot.filler != me.transaction;
        let named = if is_first { slot.lease.foundation } else { slot.filled.foundation };
        if named.is_named && named != lease.foundation {
            return Begun::OtherFoundation;
        }
        let has_metadata = has_metadata || !is_first && slot.filled.has_metadata;
        let filled = Filled { foundation: lease.foundation, has_metadata };
        if let Some(refused) = refusal(self.table.places, self.used_rows(), me, number, &filled) {
            return Begun::Refused(refused);
        }
        let hold = self.hold(number);
        let keeps = if is_first { slot.is_exclusive(now) || !self.is_held(lease, now) } else { slot.keeps };
        self.table.change(number, |slot| {
            slot.state = State::Filling;
            slot.filler = me.transaction;
            slot.filler_pid = me.pid;
            slot.filled = filled;
            slot.keeps = keeps;
        });
        Begun::Filling { hold, since: now.saturating_sub(slot.granted), is_first }
    }

    pub fn is_held(&mut self, lease: &Lease, now: u64) -> bool {
        self.table.find_of_key(lease, |table, number| table.slot(number).is_exclusive(now).then_some(())).is_some()
    }

    /// F2. Returns whether all may be filled, and then they are committing. Calls `count` with the slot that counts each refused
    /// one.
    pub fn begin_commit(
        &mut self,
        me: Me,
        fills: impl Iterator<Item = Hold> + Clone,
        count: impl Fn(u32) + Copy,
    ) -> bool {
        let mut may_all = true;
        for hold in fills.clone() {
            let Some(number) = self.find_filled(me, &hold) else {
                may_all = false;
                continue;
            };
            let slot = &self.table.places[number as usize - 1].slot;
            if refusal_of_commit(self.table.places, self.used_rows(), me, number, &slot.filled).is_some() {
                slot.counted_at.checked_sub(1).into_iter().for_each(count);
                may_all = false;
            }
        }
        if may_all {
            fills.for_each(|hold| self.table.change(hold.id.number, |slot| slot.state = State::Committing));
        }
        may_all
    }

    /// I1, and the first look of I2. `may_reach_all`: whether the caller may delete the entries of every user.
    pub fn announce(
        &mut self,
        me: Me,
        row: Option<u32>,
        subject: Stored,
        level: i32,
        now: u64,
        may_reach_all: bool,
    ) -> Announced {
        let end = &mut self.table.header.rows_end;
        let row = row.or_else(|| pending::take(self.rows, end, me.transaction, me.pid));
        let Some(row) = row else { return Announced::NoRow };
        let new = Pending { subject, order: self.table.next_order(), level, since: now };
        if !may_reach_all && self.rows[row as usize].would_reach_all(&new) {
            return Announced::TooMany;
        }
        self.rows[row as usize].add(new);
        Announced::Row(row, self.committing(me, &subject))
    }

    /// I2: returns a fill of another transaction that the subject concerns and that commits.
    pub fn committing(&mut self, me: Me, subject: &Stored) -> Option<Hold> {
        if self.table.header.committing == 0 {
            return None;
        }
        let number = self.table.find_of_subject(subject, |table, number| {
            let slot = table.slot(number);
            let is_committing = slot.state == State::Committing && slot.filler != me.transaction;
            (is_committing && subject.concerns(&slot.lease, &slot.filled)).then_some(number)
        })?;
        Some(self.hold(number))
    }

    /// C1. `erased`: users whose slots end.
    pub fn committed(
        &mut self,
        me: Me,
        row: Option<u32>,
        fills: impl Iterator<Item = Hold>,
        erased: impl Iterator<Item = Bytes>,
    ) -> Changed {
        let mut changed = Changed::default();
        for hold in fills {
            if let Some(number) = self.find_filled(me, &hold) {
                self.table.free(number);
                changed.wake.add(hold.stripe);
                changed.ended.add(hold.stripe);
            }
        }
        if let Some(row) = row {
            let mine = self.rows[row as usize];
            for pending in mine.pending() {
                self.outdate(me, pending, &mut changed);
            }
            pending::give_back(self.rows, &mut self.table.header.rows_end, row);
        }
        erased.for_each(|user| self.forget_user(&Stored::of_user(me.database, user), &mut changed));
        changed
    }

    fn outdate(&mut self, me: Me, pending: &Pending, changed: &mut Changed) {
        self.table.find_of_subject(&pending.subject, |table, number| {
            let slot = table.slot(number);
            // The transaction was granted this one afterwards, and so has read what it has written itself.
            let is_later = slot.granter == me.transaction && slot.order > pending.order;
            let concern = pending.subject.concern(&slot.lease);
            if !is_later && concern != Concern::NONE {
                outdate(table, number, concern, changed);
            }
            None::<()>
        });
    }

    /// Ends leases that the transaction was granted, because its end is not a commit.
    pub fn void(&mut self, me: Me, grants: impl Iterator<Item = Hold>, changed: &mut Changed) {
        for hold in grants {
            let Some(number) = self.find(me, &hold.id) else { continue };
            match self.table.slot(number).state {
                State::Held => {
                    self.table.free(number);
                    changed.wake.add(hold.stripe);
                    changed.ended.add(hold.stripe);
                }
                // Another transaction stores with it: it is refused unless it is past its last check.
                State::Filling => outdate(&mut self.table, number, ALL, changed),
                _ => {}
            }
        }
    }

    /// A1, of subtransactions of `level` and below or, with level 1, of the transaction.
    pub fn rolled_back(
        &mut self,
        me: Me,
        row: Option<u32>,
        level: i32,
        fills: impl Iterator<Item = Hold>,
        grants: impl Iterator<Item = Hold>,
    ) -> Changed {
        let mut changed = Changed::default();
        if let Some(row) = row {
            self.rows[row as usize].take_back(level);
            if level <= 1 {
                pending::give_back(self.rows, &mut self.table.header.rows_end, row);
            }
        }
        for hold in fills {
            if let Some(number) = self.find_filled(me, &hold) {
                self.table.change(number, |slot| {
                    slot.state = State::Held;
                    slot.filler = 0;
                    slot.filler_pid = 0;
                    slot.filled = Filled::zeroed();
                    slot.keeps = false;
                });
                changed.wake.add(hold.stripe);
            }
        }
        self.void(me, grants, &mut changed);
        changed
    }

    /// A subtransaction commits: what it has called is its parent's.
    pub fn hand_up(&mut self, row: u32, level: i32) {
        self.rows[row as usize].hand_up(level);
    }
}

pub const ALL: Concern = Concern { all: true, ..Concern::NONE };

/// Outdates a lease, and ends a failure. A fill that commits is past its last check; an invalidation that concerns it waits.
pub fn outdate(table: &mut Table, number: u32, concern: Concern, changed: &mut Changed) {
    let Slot { state, lease, .. } = *table.slot(number);
    match state {
        State::Failed if concern.all => {
            table.free(number);
            changed.wake.add(stripe_of(&lease.digest));
        }
        State::Held | State::Filling => {
            table.change(number, |slot| slot.outdated.add(concern));
            if concern.all {
                changed.wake.add(stripe_of(&lease.digest));
            }
        }
        _ => {}
    }
}

/// Returns why a lease must not be filled now: the questions of F1.
pub fn refusal(places: &[Place], rows: &[Row], me: Me, number: u32, filled: &Filled) -> Option<Refused> {
    let Slot { order, granter, lease, .. } = &places[number as usize - 1].slot;
    // Whoever was granted a lease in another transaction has not read what this one has written.
    let granted = if *granter == me.transaction { *order } else { 0 };
    let is_outdated = || pending::own_concern(rows, me.transaction, granted, lease, filled);
    refusal_of_commit(places, rows, me, number, filled).or_else(|| is_outdated().then_some(Refused::Outdated))
}

/// As [`refusal`], the questions of F2.
fn refusal_of_commit(places: &[Place], rows: &[Row], me: Me, number: u32, filled: &Filled) -> Option<Refused> {
    let slot = &places[number as usize - 1].slot;
    if slot.filler != 0 && slot.filler != me.transaction {
        return Some(Refused::InUse);
    }
    let is_outdated = slot.outdated.has(filled) || pending::others_concern(rows, me.transaction, &slot.lease, filled);
    is_outdated.then_some(Refused::Outdated)
}

/// Whether a fill still commits.
pub fn is_committing(places: &[Place], database: pg_sys::Oid, id: &Id) -> bool {
    let number = table::find(places, database, id.number, &id.nonce);
    number.is_some_and(|number| places[number as usize - 1].slot.state == State::Committing)
}
