//! Writes one entry, so that it has one live version, whatever the month and whoever writes at the same time.

use super::columns::{Moved, NewVersion};
use super::conflicts::versions_by_statement;
use super::content_policy::Policy;
use super::key_lock::{self, Locked, Wrote};
use super::values::Values;
use super::write_statements::{OnConflict, Written, insert, remove_others, update};
use crate::address::Address;
use crate::calendar::{Month, month_of};
use crate::error::Refusal;
use crate::extension::CACHE;
use crate::lease::Fill;
use crate::partition::create;
use crate::pg::relation::is_of_this_transaction;
use crate::pg::spi;
use pgrx::pg_sys;
use pgrx::prelude::*;

/// Writes the entries of one call.
#[derive(Default)]
pub struct Writer {
    last: Option<Moment>,
}

/// The timestamp of a write, and the partition that holds it.
#[derive(Clone, Copy)]
struct Moment {
    now: i64,
    month: Month,
    partition: pg_sys::Oid,
}

impl Writer {
    /// Stores one entry when no other session is writing it. Removes the versions of other months, earlier ones or, if the
    /// clock was set back, later ones; the new version keeps the entry's id and counts.
    /// `fill`: that of the entry's lease.
    ///
    /// # Errors
    /// 40001 if the fill is outdated by now.
    pub fn store(&mut self, address: &Address, values: &Values, policy: &Policy, fill: Option<&Fill>) -> Written {
        // A client that writes to the table directly takes no lock, so it can write between the look and the write. Then
        // both are done again.
        const ATTEMPTS: usize = 10;
        let mut moved = Moved::default();
        let mut before = None;
        let mut unchanged = 0;
        for _ in 0..ATTEMPTS {
            let attempt = key_lock::with_key(address, fill, |key| {
                let Some(moment) = self.at_now(key) else { return Wrote::Openly(None) };
                let versions = key.found().versions.clone().unwrap_or_else(|| versions_by_statement(address));
                let found = Some((versions, key.found().exists));
                let again = before == found;
                let versions = found.as_ref().map_or(&[][..], |(versions, _)| versions);
                let mut new = NewVersion { values, policy, now: moment.now, moved };
                let written = moment.write(key, versions, &mut new, again);
                moved = new.moved;
                moment.wrote(Some((written, found)))
            });
            match attempt {
                // Then the next attempt, because the month may end meanwhile.
                None => create::create_current(),
                Some((Some(written), _)) => return written,
                Some((None, found)) => {
                    unchanged = if before == found { unchanged + 1 } else { 0 };
                    before = found;
                }
            }
        }
        let is_there = before.is_some_and(|(_, exists)| exists);
        if unchanged <= ATTEMPTS / 2 || is_there && spi::uses_transaction_snapshot() {
            contended();
        }
        if is_there {
            kept_out();
        }
        // A row of another key is in the way, which a plain INSERT names, or a policy or trigger lets no row in.
        let written = key_lock::with_key(address, fill, |key| {
            let Some(moment) = self.at_now(key) else { return Wrote::Openly(None) };
            let new = NewVersion { values, policy, now: moment.now, moved };
            moment.wrote(insert(key, &new, OnConflict::Raise))
        });
        written.unwrap_or_else(|| kept_out())
    }

    /// Takes the timestamp; `None` if its month has no partition. The later of two writers has the later one, because the
    /// key is locked. Without a partition, a batch goes on with its last one.
    fn at_now(&mut self, key: &Locked) -> Option<Moment> {
        let now = create::current_moment(key.table());
        let now = now.map(|(now, partition)| Moment { now, month: month_of(now), partition });
        self.last = now.or(self.last);
        self.last
    }
}

impl Moment {
    /// Writes an entry that has these versions; `None` if something prevented it. `again`: the attempt before found the
    /// same versions, and failed.
    fn write(&self, key: &Locked, versions: &[i64], new: &mut NewVersion, again: bool) -> Option<Written> {
        let is_current = |created_at: &&i64| (self.month.start()..self.month.end()).contains(*created_at);
        let current = versions.iter().filter(is_current).count();
        let outdated = versions.len() - current;
        if outdated > 0 {
            let (bequeathed, removed) = remove_others(key, self.month);
            new.moved = bequeathed.unwrap_or(new.moved);
            // The transaction cannot delete what its snapshot does not show, and a commit would leave two versions.
            if removed < outdated && spi::uses_transaction_snapshot() {
                contended();
            }
            // Another session has replaced a version. One that stays a second time is kept by a policy or trigger.
            if removed < outdated && !again {
                return None;
            }
        }
        if current == 0 { insert(key, new, OnConflict::Nothing) } else { update(key, new, self.month) }
    }

    /// Says whether other transactions can see the write.
    fn wrote<T>(&self, written: T) -> Wrote<T> {
        if is_of_this_transaction(self.partition) { Wrote::Hidden(written) } else { Wrote::Openly(written) }
    }
}

/// Raises the error of an entry that nobody else writes and that still cannot be written.
fn kept_out() -> ! {
    Refusal::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, "the entry cannot be written")
        .detail("A restrictive row security policy, or a trigger, keeps its row from being inserted or updated.")
        .hint(format!("Look at the policies and triggers of {CACHE}."))
        .raise()
}

fn contended() -> ! {
    Refusal::new(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        "could not write the entry because of concurrent changes to it",
    )
    .detail("Another transaction wrote the same key, and this one cannot see or follow it.")
    .hint("Try the transaction again.")
    .raise()
}
