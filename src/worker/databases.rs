//! The slots of databases in shared memory: what the launcher, the workers and the views know of each database. A restart of
//! the server loses it, and the first ticks find it again.

use super::slot::Slot;
use crate::pg::clock::now;
use crate::pg::database::DatabaseList;
use crate::pg::latch::SharedLatch;
use crate::pg::plain::{Plain, plain};
use crate::pg::shared_memory::{Area, Guarded};
use pgrx::pg_sys;

/// Databases that can have a slot.
pub const SLOTS: usize = 2048;

static DATABASES: Guarded<Databases> = Guarded::new(|| 1);

pub static AREA: Area = Area { name: c"infinite_pages_cache databases", parts: &[&DATABASES] };

plain! {
    /// The launcher, and the slots.
    pub struct Databases {
        /// Process id of the launcher; 0 = there is none.
        pub launcher: i32,
        /// When the launcher was started or switched on; `i64::MAX` = it is off.
        pub since: i64,
        latch: SharedLatch,
        /// The slots from this number on are free.
        end: usize,
        slots: [Slot; SLOTS],
    }
}

impl Databases {
    /// Returns the slots that are taken.
    pub fn taken(&self) -> impl Iterator<Item = &Slot> {
        self.slots[..self.end].iter().filter(|slot| slot.database != pg_sys::InvalidOid)
    }

    pub fn taken_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.slots[..self.end].iter_mut().filter(|slot| slot.database != pg_sys::InvalidOid)
    }

    pub fn slot(&mut self, database: pg_sys::Oid) -> Option<&mut Slot> {
        self.taken_mut().find(|slot| slot.database == database)
    }

    /// Returns the slot of a database, and takes a free one if it has none; `None` when all are taken.
    fn slot_or_new(&mut self, database: pg_sys::Oid) -> Option<&mut Slot> {
        let number = self.slots[..self.end].iter().position(|slot| slot.database == database).or_else(|| {
            let free = self.slots.iter().position(|slot| slot.database == pg_sys::InvalidOid)?;
            self.end = self.end.max(free + 1);
            self.slots[free].database = database;
            Some(free)
        })?;
        Some(&mut self.slots[number])
    }

    /// Frees the slots of databases that are gone, and takes one for each new database, whose tick is due now. Returns the
    /// number of databases that got none. The caller brings `known`, a mark for each database, because nothing may be
    /// allocated here.
    pub fn keep(&mut self, databases: &DatabaseList, known: &mut [bool], now: i64) -> usize {
        known.fill(false);
        for slot in self.taken_mut() {
            match databases.position(slot.database) {
                Some(number) => known[number] = true,
                None => *slot = Slot::zeroed(),
            }
        }
        let mut free = 0;
        let mut without = 0;
        for (database, _) in databases.iter().zip(known).filter(|(_, known)| !**known) {
            while free < SLOTS && self.slots[free].database != pg_sys::InvalidOid {
                free += 1;
            }
            if free < SLOTS {
                self.slots[free].database = database;
                self.slots[free].due(now);
                self.end = self.end.max(free + 1);
            } else {
                without += 1;
            }
        }
        without
    }

    /// Records that the settings have changed: see [`Slot::settings_changed`].
    pub fn settings_changed(&mut self, now: i64, naptime: i64) {
        self.taken_mut().for_each(|slot| slot.settings_changed(now, naptime));
    }
}

/// Runs `f` on the slots under the exclusive lock; `None` if the library is not preloaded. `f` must neither
/// allocate nor call the server, as [`crate::pg::shared_memory`] says.
pub fn change<T>(f: impl FnOnce(&mut Databases) -> T) -> Option<T> {
    DATABASES.exclusive(|_, all| f(&mut all[0]))
}

/// Runs `f` on the slots under the shared lock. What holds for [`change`] holds here.
pub fn read<T>(f: impl FnOnce(&Databases) -> T) -> Option<T> {
    DATABASES.shared(|_, all| f(&all[0]))
}

/// Changes the slot of a database, if it has one.
pub fn change_slot(database: pg_sys::Oid, f: impl FnOnce(&mut Slot)) {
    change(|databases| {
        if let Some(slot) = databases.slot(database) {
            f(slot);
        }
    });
}

/// Returns a copy of the slot of a database.
pub fn slot_of(database: pg_sys::Oid) -> Option<Slot> {
    read(|databases| databases.taken().find(|slot| slot.database == database).copied()).flatten()
}

/// Records the launcher; a process id of 0 records that there is none.
pub fn set_launcher(pid: i32, latch: SharedLatch) {
    change(|databases| {
        databases.launcher = pid;
        databases.latch = latch;
    });
}

/// Makes the tick of a database due now, and wakes the launcher.
pub fn announce(database: pg_sys::Oid) {
    let now = now();
    let latch = change(|databases| {
        if let Some(slot) = databases.slot_or_new(database) {
            slot.announced = true;
            slot.due(now);
        }
        databases.latch
    });
    if let Some(latch) = latch {
        latch.set();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn databases() -> Box<Databases> {
        Databases::zeroed_box()
    }

    fn keep(all: &mut Databases, numbers: impl IntoIterator<Item = u32>) -> usize {
        let databases = DatabaseList::new(numbers.into_iter().collect());
        all.keep(&databases, &mut vec![true; databases.len()], 50)
    }

    #[test]
    fn slots_follow_the_databases() {
        let mut all = databases();
        assert_eq!(keep(&mut all, [5, 6, 7]), 0);
        all.slot(6.into()).unwrap().last_run = 1;
        assert_eq!(keep(&mut all, [6, 8]), 0);
        assert_eq!(all.taken().map(|slot| slot.database.to_u32()).collect::<Vec<_>>(), [8, 6]);
        assert_eq!(all.slot(6.into()).unwrap().last_run, 1);
        assert_eq!(keep(&mut all, 1..=SLOTS as u32 + 3), 3);
        assert_eq!(all.taken().count(), SLOTS);
        assert_eq!(keep(&mut all, []), 0);
        assert_eq!(all.taken().count(), 0);
    }
}
