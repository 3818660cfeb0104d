//! Random calls of the table, beside a list of slots that does the same without any index.

use super::{Memory, lease, me, of, subject};
use crate::lease::fence::{Begun, Granted, Hold};
use crate::lease::slot::State;
use crate::lease::subject::{Concern, Kind, Lease, Stored};
use crate::lease::table::Table;
use crate::lease::types::Refused;
use proptest::prelude::*;
use std::collections::HashMap;

#[derive(Clone, Debug)]
enum Call {
    Grant { user: u8, key: u8, ttl: u64 },
    Fill { which: usize },
    Commit { which: usize },
    RollBack { which: usize },
    Release { which: usize, failed_for: Option<u64> },
    Extend { which: usize, ttl: u64 },
    Invalidate { subject: Stored },
    Wait { milliseconds: u64 },
}

fn call() -> impl Strategy<Value = Call> {
    let which = 0..40usize;
    prop_oneof![
        6 => (0..6u8, 0..6u8, 1..200u64).prop_map(|(user, key, ttl)| Call::Grant { user, key, ttl }),
        3 => which.clone().prop_map(|which| Call::Fill { which }),
        2 => which.clone().prop_map(|which| Call::Commit { which }),
        1 => which.clone().prop_map(|which| Call::RollBack { which }),
        2 => (which.clone(), proptest::option::of(1..300u64))
            .prop_map(|(which, failed_for)| Call::Release { which, failed_for }),
        1 => (which, 1..300u64).prop_map(|(which, ttl)| Call::Extend { which, ttl }),
        1 => subject().prop_map(|subject| Call::Invalidate { subject }),
        2 => (1..100u64).prop_map(|milliseconds| Call::Wait { milliseconds }),
    ]
}

/// A slot as the model knows it: what was granted, and what has become of it.
#[derive(Clone, Debug)]
struct Known {
    hold: Hold,
    lease: Lease,
    ends: u64,
    state: State,
    filler: u64,
    keeps: bool,
    is_outdated: bool,
}

impl Known {
    fn is_exclusive(&self, now: u64) -> bool {
        match self.state {
            _ if self.is_outdated => false,
            State::Held => now < self.ends,
            State::Filling => self.keeps,
            _ => false,
        }
    }

    fn is_spent(&self) -> bool {
        self.state == State::Failed || self.state == State::Held && self.is_outdated
    }

    fn is_over(&self, now: u64) -> bool {
        self.state == State::Held && now >= self.ends
    }
}

#[derive(Default)]
struct Model {
    slots: Vec<Known>,
    /// All holds that there have ever been, for calls that name one.
    holds: Vec<(Hold, Lease)>,
}

impl Model {
    fn of_key<'a>(&'a self, lease: &'a Lease) -> impl Iterator<Item = &'a Known> {
        self.slots.iter().filter(move |slot| (slot.lease.user, slot.lease.digest) == (lease.user, lease.digest))
    }

    fn find(&mut self, hold: &Hold) -> Option<&mut Known> {
        self.slots.iter_mut().find(|slot| slot.hold == *hold && slot.state != State::Failed)
    }

    fn is_held(&self, lease: &Lease, now: u64) -> bool {
        self.of_key(lease).any(|slot| slot.is_exclusive(now))
    }

    /// How soon a slot gives way for a user; `None` = never.
    fn class(slot: &Known, user: &[u8; 16], now: u64) -> Option<u8> {
        match (slot.lease.user == *user, slot.is_spent(), slot.is_over(now)) {
            (true, true, _) => Some(0),
            (true, _, true) => Some(1),
            (false, true, _) => Some(2),
            (false, _, true) => Some(3),
            _ => None,
        }
    }
}

const SLOTS: usize = 24;

fn check(memory: &mut Memory, model: &Model, now: u64) -> Result<(), TestCaseError> {
    prop_assert_eq!(memory.header.used as usize, model.slots.len());
    let mut users: HashMap<[u8; 16], u32> = HashMap::new();
    for known in &model.slots {
        *users.entry(known.lease.user).or_default() += 1;
        let slot = memory.places[known.hold.id.number as usize - 1].slot;
        prop_assert_eq!(slot.nonce, known.hold.id.nonce);
        prop_assert_eq!(slot.state, known.state);
        prop_assert_eq!(slot.outdated.all, known.is_outdated);
        prop_assert_eq!(slot.is_exclusive(now), known.is_exclusive(now));
        prop_assert_eq!(slot.is_spent, known.is_spent());
        // It is found by its key, by its user and among all.
        for subject in [
            Stored { value: known.lease.digest, ..of(Kind::Key, 0, 0) },
            of(Kind::User, 0, 0),
            Stored::of_database(5.into()),
        ] {
            let subject = if subject.is_of_one_user() { Stored { user: known.lease.user, ..subject } } else { subject };
            let same = |_: &mut Table, number| (number == known.hold.id.number).then_some(());
            prop_assert!(memory.fence().table.find_of_subject(&subject, same).is_some());
        }
        let holders = model.of_key(&known.lease).filter(|slot| slot.is_exclusive(now)).count();
        prop_assert!(holders <= 1, "two hold the lease of one key");
    }
    for (user, slots) in users {
        let number = memory.fence().table.find_user(5.into(), &user).expect("a user with slots has a record");
        prop_assert_eq!(memory.fence().table.user(number).slots, slots);
    }
    let mut listed = 0;
    memory.fence().table.find_of_subject(&Stored::of_database(5.into()), |_, _| {
        listed += 1;
        None::<()>
    });
    prop_assert_eq!(listed, model.slots.len());
    Ok(())
}

fn play(
    memory: &mut Memory,
    model: &mut Model,
    now: &mut u64,
    transaction: u64,
    call: Call,
) -> Result<(), TestCaseError> {
    let chosen =
        |model: &Model, which: usize| model.holds.len().checked_sub(1).map(|last| model.holds[last - which.min(last)]);
    match call {
        Call::Wait { milliseconds } => *now += milliseconds,
        Call::Grant { user, key, ttl } => {
            let lease = lease(user, key);
            let same = |slot: &Known| (slot.lease.user, slot.lease.digest) == (lease.user, lease.digest);
            let is_held = model.is_held(&lease, *now);
            if !is_held {
                model.slots.retain(|slot| !(same(slot) && slot.state == State::Failed && *now >= slot.ends));
            }
            let failed = model.slots.iter().filter(|slot| same(slot) && slot.state == State::Failed);
            let failed = failed.map(|slot| slot.ends.saturating_sub(*now)).max();
            let granted = memory.grant(transaction, &lease, *now, ttl);
            if is_held {
                prop_assert!(matches!(granted, Err(Granted::Held(_))));
            } else if let Some(failed) = failed {
                prop_assert_eq!(granted, Err(Granted::Failed(failed)));
            } else {
                let (used, own) =
                    (model.slots.len(), model.slots.iter().filter(|slot| slot.lease.user == lease.user).count());
                let may_have_more = own < (SLOTS / 16).max((SLOTS - used) / 2);
                let class =
                    |slot: &Known| Model::class(slot, &lease.user, *now).filter(|class| may_have_more || *class < 2);
                let best = model.slots.iter().filter_map(class).min();
                if may_have_more && used < SLOTS {
                    prop_assert!(granted.is_ok());
                } else if let Some(best) = best {
                    prop_assert!(granted.is_ok());
                    let is_there = |slot: &Known| {
                        let now_there = memory.places[slot.hold.id.number as usize - 1].slot;
                        now_there.state != State::Free && now_there.nonce == slot.hold.id.nonce
                    };
                    let gone: Vec<_> = model.slots.iter().filter(|slot| !is_there(slot)).cloned().collect();
                    prop_assert_eq!(gone.len(), 1);
                    prop_assert_eq!(class(&gone[0]), Some(best));
                    model.slots.retain(|slot| slot.hold != gone[0].hold);
                } else {
                    prop_assert_eq!(granted, Err(Granted::NoRoom));
                }
            }
            if let Ok(hold) = granted {
                let ends = *now + ttl;
                model.slots.push(Known {
                    hold,
                    lease,
                    ends,
                    state: State::Held,
                    filler: 0,
                    keeps: false,
                    is_outdated: false,
                });
                model.holds.push((hold, lease));
            }
        }
        Call::Fill { which } => {
            let Some((hold, lease)) = chosen(model, which) else { return Ok(()) };
            let keeps = !model.is_held(&lease, *now);
            let expected = match model.find(&hold) {
                None => Err(Refused::Ended),
                Some(slot) if slot.state == State::Filling => Err(Refused::InUse),
                Some(slot) if slot.is_outdated => Err(Refused::Outdated),
                Some(slot) => {
                    slot.keeps = slot.is_exclusive(*now) || keeps;
                    slot.state = State::Filling;
                    slot.filler = transaction;
                    Ok(())
                }
            };
            match (memory.fill(transaction, &hold, &lease, *now), expected) {
                (Begun::Filling { .. }, Ok(())) => {}
                (Begun::Refused(refused), Err(expected)) => prop_assert_eq!(refused, expected),
                (begun, expected) => prop_assert!(false, "{begun:?} and not {expected:?}"),
            }
        }
        Call::Commit { which } | Call::RollBack { which } => {
            let Some((hold, _)) = chosen(model, which) else { return Ok(()) };
            let Some(slot) = model.find(&hold).filter(|slot| slot.state == State::Filling) else { return Ok(()) };
            let is_commit = matches!(call, Call::Commit { .. }) && !slot.is_outdated;
            let filler = slot.filler;
            (slot.state, slot.filler, slot.keeps) = (State::Held, 0, false);
            if matches!(call, Call::Commit { .. }) {
                prop_assert_eq!(memory.commit(filler, None, &[hold]), is_commit);
            }
            if is_commit {
                model.slots.retain(|slot| slot.hold != hold);
            } else {
                memory.roll_back(filler, None, &[hold], &[]);
            }
        }
        Call::Release { which, failed_for } => {
            let Some((hold, lease)) = chosen(model, which) else { return Ok(()) };
            let is_held = model.is_held(&lease, *now);
            let released = memory.fence().release(me(transaction), &hold.id, failed_for, *now).is_some();
            let Some(slot) = model.find(&hold).filter(|slot| slot.state == State::Held) else {
                prop_assert!(!released);
                return Ok(());
            };
            prop_assert!(released);
            let counts = !slot.is_outdated && (slot.is_exclusive(*now) || !is_held);
            match failed_for.filter(|_| counts) {
                Some(failed_for) => (slot.state, slot.ends) = (State::Failed, *now + failed_for),
                None => model.slots.retain(|slot| slot.hold != hold),
            }
        }
        Call::Extend { which, ttl } => {
            let Some((hold, lease)) = chosen(model, which) else { return Ok(()) };
            let is_held = model.is_held(&lease, *now);
            let extended = memory.fence().extend(me(transaction), &hold.id, ttl, *now);
            let slot = model.find(&hold);
            let slot = slot.filter(|slot| !slot.is_outdated && (slot.is_exclusive(*now) || !is_held));
            prop_assert_eq!(extended, slot.is_some());
            slot.into_iter().for_each(|slot| (slot.ends, slot.keeps) = (*now + ttl, slot.state == State::Filling));
        }
        Call::Invalidate { subject } => {
            let (row, committing) = memory.announce(transaction, None, subject);
            prop_assert_eq!(committing, None);
            memory.fence().committed(me(transaction), Some(row), std::iter::empty(), std::iter::empty());
            let concerned = |slot: &Known| subject.concern(&slot.lease) == Concern { all: true, ..Concern::NONE };
            model.slots.retain(|slot| !(concerned(slot) && slot.state == State::Failed));
            model.slots.iter_mut().filter(|slot| concerned(slot)).for_each(|slot| slot.is_outdated = true);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn the_table_is_what_a_list_of_slots_would_be(calls in proptest::collection::vec(call(), 1..200)) {
        let (mut memory, mut model, mut now) = (Memory::new(SLOTS), Model::default(), 1);
        for (transaction, call) in (1..).zip(calls) {
            play(&mut memory, &mut model, &mut now, transaction, call)?;
            check(&mut memory, &model, now)?;
        }
    }
}
