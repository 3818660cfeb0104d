//! What the steps do, each in one order.

use super::{Memory, filling, lease, me, of};
use crate::lease::fence::{Begun, Granted, Hold};
use crate::lease::holder::Wait;
use crate::lease::room::most;
use crate::lease::slot::State;
use crate::lease::subject::{Foundation, Kind, Lease, Stored};
use crate::lease::types::{Id, LeaseId, Refused};

#[test]
fn a_lease_names_its_slot_and_comes_back_whole() {
    let id = Id { number: 77, nonce: [9, 8, 0x81, 7, 0x83, 6, 5, 4, 3, 2, 1, 0] };
    let lease = LeaseId::new(&id);
    assert_eq!(lease.id(), id);
    // The number, combined with the first bytes of the SHA-256 of the secret, here 16 zeros, and the other bytes.
    assert_eq!(lease.0.to_string(), "5eb837b1-0908-8107-8306-050403020100");
}

#[test]
fn one_holds_the_lease_of_a_key_until_its_time_is_over() {
    let mut memory = Memory::new(64);
    let first = memory.grant(1, &lease(1, 1), 0, 100).expect("granted");
    assert_eq!(memory.grant(2, &lease(1, 1), 40, 100), Err(Granted::Held(60)));
    assert!(memory.grant(2, &lease(1, 2), 40, 100).is_ok());
    assert!(memory.grant(2, &lease(2, 1), 40, 100).is_ok());
    let second = memory.grant(2, &lease(1, 1), 100, 100).expect("granted");
    // The first can still be filled, until somebody needs its slot.
    assert!(filling(memory.fill(1, &first, &lease(1, 1), 150)));
    assert!(filling(memory.fill(2, &second, &lease(1, 1), 150)));
}

#[test]
fn a_lease_is_used_once_and_by_one_transaction() {
    let mut memory = Memory::new(64);
    let hold = memory.grant(1, &lease(1, 1), 0, 100).expect("granted");
    assert_eq!(memory.fill(2, &hold, &lease(1, 1), 30), Begun::Filling { hold, since: 30, is_first: true });
    assert_eq!(memory.fill(3, &hold, &lease(1, 1), 40), Begun::Refused(Refused::InUse));
    assert_eq!(memory.fill(2, &hold, &lease(1, 1), 40), Begun::Filling { hold, since: 40, is_first: false });
    // Its time is over, but it does not end while it is filled.
    assert!(matches!(memory.grant(3, &lease(1, 1), 500, 100), Err(Granted::Held(_))));
    assert!(memory.commit(2, None, &[hold]));
    assert_eq!(memory.fill(2, &hold, &lease(1, 1), 500), Begun::Refused(Refused::Ended));
    assert_eq!(memory.header.used, 0);
}

#[test]
fn a_lease_of_another_user_is_unknown_and_that_of_another_entry_an_error() {
    let mut memory = Memory::new(64);
    let hold = memory.grant(1, &lease(1, 1), 0, 100).expect("granted");
    assert_eq!(memory.fill(2, &hold, &lease(2, 1), 0), Begun::Refused(Refused::Ended));
    assert_eq!(memory.fill(2, &hold, &lease(1, 2), 0), Begun::OtherEntry);
    let mut elsewhere = me(2);
    elsewhere.database = 6.into();
    assert_eq!(memory.fence().begin_fill(elsewhere, &hold.id, &lease(1, 1), false, 0), Begun::Refused(Refused::Ended));
    for number in [0, 2, 65, u32::MAX] {
        let forged = Hold { id: Id { number, ..hold.id }, ..hold };
        assert_eq!(memory.fill(2, &forged, &lease(1, 1), 0), Begun::Refused(Refused::Ended));
    }
}

#[test]
fn a_fill_names_the_foundation_that_its_lease_names() {
    let with = |name: &[u8]| Lease { foundation: Foundation::of(Some(name)), ..lease(1, 1) };
    let mut memory = Memory::new(64);
    let hold = memory.grant(1, &with(b"f"), 0, 100).expect("granted");
    assert_eq!(memory.fill(2, &hold, &with(b"g"), 0), Begun::OtherFoundation);
    assert_eq!(memory.fill(2, &hold, &lease(1, 1), 0), Begun::OtherFoundation);
    assert!(filling(memory.fill(2, &hold, &with(b"f"), 0)));
    // A lease without one may be filled with one, but not with two.
    let mut memory = Memory::new(64);
    let hold = memory.grant(1, &lease(1, 1), 0, 100).expect("granted");
    assert!(filling(memory.fill(2, &hold, &with(b"f"), 0)));
    assert_eq!(memory.fill(2, &hold, &with(b"g"), 0), Begun::OtherFoundation);
}

#[test]
fn an_invalidation_refuses_grants_and_fills_while_it_is_pending_and_outdates_when_it_commits() {
    let mut memory = Memory::new(64);
    let hold = memory.grant(1, &lease(1, 1), 0, 100).expect("granted");
    let (row, committing) = memory.announce(2, None, of(Kind::User, 1, 0));
    assert_eq!(committing, None);
    assert_eq!(memory.grant(3, &lease(1, 2), 0, 100), Err(Granted::Pending));
    assert_eq!(memory.fill(1, &hold, &lease(1, 1), 0), Begun::Refused(Refused::Outdated));
    let other = memory.grant(3, &lease(2, 2), 0, 100).expect("another user's");
    memory.fence().committed(me(2), Some(row), std::iter::empty(), std::iter::empty());
    assert_eq!(memory.fill(1, &hold, &lease(1, 1), 0), Begun::Refused(Refused::Outdated));
    assert!(memory.grant(1, &lease(1, 1), 0, 100).is_ok());
    assert!(filling(memory.fill(3, &other, &lease(2, 2), 0)));
    assert_eq!(memory.header.rows_end, 0);
}

#[test]
fn a_fill_is_asked_again_before_its_commit() {
    let mut memory = Memory::new(64);
    let hold = memory.grant(1, &lease(1, 1), 0, 100).expect("granted");
    assert!(filling(memory.fill(1, &hold, &lease(1, 1), 0)));
    let (row, committing) = memory.announce(2, None, of(Kind::Key, 1, 1));
    assert_eq!(committing, None);
    assert!(!memory.fence().begin_commit(me(1), [hold].into_iter(), |_| ()));
    memory.roll_back(1, None, &[hold], &[]);
    memory.roll_back(2, Some(row), &[], &[]);
    // The invalidation was rolled back, so the lease is good.
    assert!(filling(memory.fill(1, &hold, &lease(1, 1), 50)));
    assert!(memory.commit(1, None, &[hold]));
}

#[test]
fn an_invalidation_finds_the_fill_that_commits() {
    let mut memory = Memory::new(64);
    let hold = memory.grant(1, &lease(1, 1), 0, 100).expect("granted");
    assert!(filling(memory.fill(1, &hold, &lease(1, 1), 0)));
    assert!(memory.fence().begin_commit(me(1), [hold].into_iter(), |_| ()));
    for (subject, expected) in [
        (of(Kind::Key, 1, 1), Some(hold)),
        (of(Kind::Key, 1, 2), None),
        (of(Kind::User, 1, 0), Some(hold)),
        (of(Kind::User, 2, 0), None),
        (of(Kind::Type, 1, 1), Some(hold)),
        (of(Kind::TypeOfAllUsers, 0, 1), Some(hold)),
        (of(Kind::TypeOfAllUsers, 0, 0), None),
        (Stored::of_database(5.into()), Some(hold)),
        (Stored::of_database(6.into()), None),
        (of(Kind::Metadata, 1, 0), None),
    ] {
        assert_eq!(memory.fence().committing(me(2), &subject), expected, "{subject:?}");
    }
    assert_eq!(memory.fence().committing(me(1), &of(Kind::User, 1, 0)), None);
    memory.fence().committed(me(1), None, [hold].into_iter(), std::iter::empty());
    assert_eq!(memory.header.committing, 0);
    assert_eq!(memory.fence().committing(me(2), &of(Kind::User, 1, 0)), None);
}

#[test]
fn a_transaction_may_fill_what_it_was_granted_after_its_invalidation_and_nothing_older() {
    let mut memory = Memory::new(64);
    let older = memory.grant(1, &lease(1, 1), 0, 100).expect("granted");
    let (row, _) = memory.announce(1, None, of(Kind::User, 1, 0));
    let newer = memory.grant(1, &lease(1, 2), 0, 100).expect("granted in spite of its own invalidation");
    assert_eq!(memory.fill(1, &older, &lease(1, 1), 0), Begun::Refused(Refused::Outdated));
    memory.fence().committed(me(1), Some(row), std::iter::empty(), std::iter::empty());
    assert_eq!(memory.fill(1, &older, &lease(1, 1), 0), Begun::Refused(Refused::Outdated));
    assert!(filling(memory.fill(2, &newer, &lease(1, 2), 0)));
}

#[test]
fn a_transaction_fills_under_its_own_invalidation_only_what_it_was_granted_itself() {
    let mut memory = Memory::new(64);
    memory.announce(1, None, of(Kind::Metadata, 1, 0));
    // It can be filled with something that has no metadata.
    let anothers = memory.grant(2, &lease(1, 1), 0, 100).expect("granted");
    let own = memory.grant(1, &lease(1, 2), 0, 100).expect("granted");
    let begin =
        |memory: &mut Memory, hold: &Hold, key| memory.fence().begin_fill(me(1), &hold.id, &lease(1, key), true, 0);
    assert_eq!(begin(&mut memory, &anothers, 1), Begun::Refused(Refused::Outdated));
    assert!(filling(begin(&mut memory, &own, 2)));
}

#[test]
fn a_transaction_that_invalidates_what_it_has_stored_can_commit() {
    let mut memory = Memory::new(64);
    let hold = memory.grant(1, &lease(1, 1), 0, 100).expect("granted");
    assert!(filling(memory.fill(2, &hold, &lease(1, 1), 0)));
    let (row, _) = memory.announce(2, None, of(Kind::User, 1, 0));
    assert_eq!(memory.fill(2, &hold, &lease(1, 1), 0), Begun::Refused(Refused::Outdated));
    assert!(memory.commit(2, Some(row), &[hold]));
    assert_eq!(memory.header.used, 0);
}

#[test]
fn a_rollback_ends_what_was_granted_in_it() {
    let mut memory = Memory::new(64);
    let hold = memory.grant(1, &lease(1, 1), 0, 100).expect("granted");
    memory.roll_back(1, None, &[], &[hold]);
    assert_eq!(memory.fill(2, &hold, &lease(1, 1), 0), Begun::Refused(Refused::Ended));
    assert_eq!(memory.header.used, 0);
    // Somebody else stores with it already.
    let hold = memory.grant(1, &lease(1, 1), 0, 100).expect("granted");
    assert!(filling(memory.fill(2, &hold, &lease(1, 1), 0)));
    memory.roll_back(1, None, &[], &[hold]);
    assert!(!memory.fence().begin_commit(me(2), [hold].into_iter(), |_| ()));
}

#[test]
fn a_failure_keeps_others_out_until_its_end_or_an_invalidation() {
    let mut memory = Memory::new(64);
    let hold = memory.grant(1, &lease(1, 1), 0, 100).expect("granted");
    assert!(memory.fence().release(me(1), &hold.id, Some(50), 10).is_some());
    assert!(memory.fence().release(me(1), &hold.id, None, 10).is_none());
    assert_eq!(memory.grant(2, &lease(1, 1), 20, 100), Err(Granted::Failed(40)));
    assert_eq!(memory.fill(1, &hold, &lease(1, 1), 20), Begun::Refused(Refused::Ended));
    let again = memory.grant(2, &lease(1, 1), 60, 100).expect("granted");
    assert!(memory.fence().release(me(2), &again.id, Some(1000), 60).is_some());
    let (row, _) = memory.announce(3, None, of(Kind::Key, 1, 1));
    memory.fence().committed(me(3), Some(row), std::iter::empty(), std::iter::empty());
    assert!(memory.grant(2, &lease(1, 1), 61, 100).is_ok());
}

#[test]
fn a_lease_is_extended_unless_another_has_it() {
    let mut memory = Memory::new(64);
    let hold = memory.grant(1, &lease(1, 1), 0, 100).expect("granted");
    assert!(memory.fence().extend(me(1), &hold.id, 500, 150));
    assert_eq!(memory.grant(2, &lease(1, 1), 600, 100), Err(Granted::Held(50)));
    assert!(memory.grant(2, &lease(1, 1), 650, 100).is_ok());
    assert!(!memory.fence().extend(me(1), &hold.id, 500, 650));
}

#[test]
fn ending_a_users_leases_leaves_other_users_alone() {
    let mut memory = Memory::new(64);
    let holds: Vec<_> = (1..=4).map(|key| memory.grant(1, &lease(1, key), 0, 100).expect("granted")).collect();
    let other = memory.grant(1, &lease(2, 1), 0, 100).expect("granted");
    assert_eq!(memory.fence().end(&of(Kind::Type, 1, 1)).0, 2);
    assert_eq!(memory.fence().end(&of(Kind::User, 1, 0)).0, 2);
    for (hold, key) in holds.iter().zip(1..) {
        assert_eq!(memory.fill(2, hold, &lease(1, key), 0), Begun::Refused(Refused::Outdated));
    }
    assert!(filling(memory.fill(2, &other, &lease(2, 1), 0)));
}

#[test]
fn nothing_is_left_of_an_erased_user() {
    let mut memory = Memory::new(64);
    let holds: Vec<_> = (1..=3).map(|key| memory.grant(1, &lease(1, key), 0, 100).expect("granted")).collect();
    let other = memory.grant(1, &lease(2, 1), 0, 100).expect("granted");
    assert!(filling(memory.fill(2, &holds[0], &lease(1, 1), 0)));
    memory.fence().release(me(1), &holds[1].id, Some(1000), 0);
    let (row, _) = memory.announce(3, None, of(Kind::User, 1, 0));
    memory.fence().committed(me(3), Some(row), std::iter::empty(), [[1; 16]].into_iter());
    assert_eq!(memory.header.used, 1);
    assert!(!memory.fence().begin_commit(me(2), [holds[0]].into_iter(), |_| ()));
    memory.roll_back(2, None, &[holds[0]], &[]);
    assert!(filling(memory.fill(2, &other, &lease(2, 1), 0)));
}

#[test]
fn few_may_wait_and_each_leaves() {
    let mut memory = Memory::new(64);
    assert_eq!(memory.fence().wait(&lease(1, 1), 0, 2), Wait::NotHeld);
    let hold = memory.grant(1, &lease(1, 1), 0, 100).expect("granted");
    assert_eq!(memory.fence().wait(&lease(1, 1), 0, 2), Wait::For(hold));
    assert_eq!(memory.fence().wait(&lease(1, 1), 0, 2), Wait::For(hold));
    assert_eq!(memory.fence().wait(&lease(1, 1), 0, 2), Wait::NoPlace);
    memory.fence().stop_waiting(me(2), &hold);
    memory.fence().release(me(1), &hold.id, None, 0);
    memory.fence().stop_waiting(me(3), &hold);
    assert_eq!(memory.header.waiters, 0);
}

#[test]
fn a_user_may_have_as_many_slots_as_half_of_those_that_are_free_and_always_a_sixteenth() {
    assert_eq!(most(64, 0), 32);
    assert_eq!(most(64, 32), 16);
    assert_eq!(most(64, 64), 4);
    let mut memory = Memory::new(64);
    let granted = (0..64).take_while(|key| memory.grant(1, &lease(1, *key), 0, 100).is_ok()).count();
    // With 20 slots taken, half of the other 44 is 22; with 21, half of the other 43 is 21.
    assert_eq!(granted, 21);
    assert_eq!(memory.grant(1, &lease(1, 100), 0, 100), Err(Granted::NoRoom));
    assert!(memory.grant(2, &lease(2, 1), 0, 100).is_ok());
}

#[test]
fn failures_give_way_before_leases_whose_time_is_over_and_held_ones_never() {
    let mut memory = Memory::new(16);
    let mut holds = Vec::new();
    for number in 0..16 {
        // Sixteen users; the leases of the last eight are over at 50.
        let ttl = if number < 8 { 1000 } else { 50 };
        holds.push(memory.grant(1, &lease(number, number), 0, ttl).expect("granted"));
    }
    assert_eq!(memory.grant(1, &lease(99, 1), 10, 1000), Err(Granted::NoRoom));
    memory.fence().release(me(1), &holds[3].id, Some(10_000), 10);
    let is_there = |memory: &mut Memory, number: usize| {
        let state = memory.places[holds[number].id.number as usize - 1].slot;
        state.nonce == holds[number].id.nonce && state.state != State::Free
    };
    assert!(memory.grant(1, &lease(99, 1), 60, 1000).is_ok());
    assert!(!is_there(&mut memory, 3));
    for number in 8..16 {
        assert!(is_there(&mut memory, number));
        assert!(memory.grant(1, &lease(100 + number as u8, 1), 60, 1000).is_ok());
        assert!(!is_there(&mut memory, number), "the oldest of those that are over");
    }
    assert_eq!(memory.grant(1, &lease(200, 1), 60, 1000), Err(Granted::NoRoom));
}
