//! Sleeping until the lease of a key ends. A session that sleeps holds a connection, so few may at a time.

use super::holder::{Wait, is_exclusive};
use super::memory::{SLEEP, ended, look, visit};
use super::subject::Lease;
use super::transaction;
use crate::address::Address;
use crate::pg::clock::since_start;
use crate::pg::condition_variable::WaitEvent;
use crate::pg::{backend, guc};
use crate::settings;
use std::time::{Duration, Instant};

/// How a sleep until the end of a lease ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Woken {
    /// The lease has ended, or an answer of the key may have been stored with another one.
    Ended,
    TimedOut,
    /// As many sessions sleep already as may.
    NoPlace,
}

/// Returns how many sessions may sleep.
fn most() -> u32 {
    u32::try_from(settings::MAX_FETCH_WAITERS.get()).unwrap_or_else(|_| {
        let setting = guc::value_of(c"max_connections").and_then(|value| String::from_utf8(value).ok());
        setting.and_then(|value| value.parse::<u32>().ok()).map_or(1, |connections| (connections / 10).max(1))
    })
}

/// Whether one more session may sleep.
pub fn has_place() -> bool {
    let most = most();
    look(|header, _, _| header.waiters < most).unwrap_or(false)
}

/// Sleeps until the lease of a key ends. Can be cancelled.
pub fn sleep_until_end(address: &Address, at_most: Duration) -> Woken {
    let (lease, begun) = (Lease::new(backend::database(), address, None), Instant::now());
    let seen = ended(&lease.digest);
    let (most, time) = (most(), since_start());
    let hold = match visit(|fence| fence.wait(&lease, time, most)) {
        None | Some(Wait::NotHeld) => return Woken::Ended,
        Some(Wait::NoPlace) => return Woken::NoPlace,
        Some(Wait::For(hold)) => hold,
    };
    transaction::waits(hold);
    let database = backend::database();
    let left_of_lease = || look(|_, places, _| is_exclusive(places, database, &hold.id, since_start())).flatten();
    let woken = loop {
        // Nobody wakes when the time of a lease is over.
        let Some(left) = left_of_lease() else { break Woken::Ended };
        let left = Duration::from_millis(left).min(at_most.saturating_sub(begun.elapsed()));
        let has_ended = || ended(&lease.digest) != seen || left_of_lease().is_none();
        if SLEEP.sleep_until(hold.stripe as usize, Some(left), WaitEvent::Lease, has_ended) {
            break Woken::Ended;
        }
        if begun.elapsed() >= at_most {
            break Woken::TimedOut;
        }
    };
    transaction::stops_waiting();
    woken
}
