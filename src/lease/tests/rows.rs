//! Rows of pending invalidations.

use super::{lease, of, subject};
use crate::lease::pending::{Pending, Row};
use crate::lease::subject::{Filled, Foundation, Kind, Stored};
use crate::pg::plain::Plain;
use proptest::prelude::*;

fn pending(subject: Stored, order: u64, level: i32) -> Pending {
    Pending { subject, order, level, since: order }
}

#[test]
fn a_full_row_becomes_the_user_and_then_the_database() {
    let mut row = Row::zeroed();
    for key in 0..16 {
        row.add(pending(of(Kind::Key, 1, key), 10 + u64::from(key), 3));
    }
    row.add(pending(of(Kind::Key, 1, 3), 50, 3));
    assert_eq!(row.pending().len(), 16, "one that is there already takes no place");
    row.add(pending(of(Kind::Key, 1, 16), 60, 5));
    let [merged] = row.pending() else { panic!("one is left") };
    assert_eq!((merged.subject, merged.order, merged.level, merged.since), (of(Kind::User, 1, 0), 60, 3, 10));
    for user in 2..17 {
        row.add(pending(of(Kind::User, user, 0), 70, 1));
    }
    assert_eq!(row.pending().len(), 16);
    row.add(pending(of(Kind::Key, 99, 1), 80, 4));
    let [merged] = row.pending() else { panic!("one is left") };
    assert_eq!((merged.subject, merged.order, merged.level), (Stored::of_database(5.into()), 80, 1));
}

#[test]
fn a_row_follows_subtransactions() {
    let mut row = Row::zeroed();
    row.add(pending(of(Kind::Key, 1, 1), 1, 1));
    row.add(pending(of(Kind::Key, 1, 2), 2, 2));
    row.add(pending(of(Kind::Key, 1, 3), 3, 3));
    row.hand_up(3);
    row.take_back(3);
    assert_eq!(row.pending().len(), 3);
    row.take_back(2);
    assert_eq!(row.pending().iter().map(|one| one.order).collect::<Vec<_>>(), [1]);
}

proptest! {
    #[test]
    fn a_row_refuses_whatever_a_longer_list_would(
        subjects in proptest::collection::vec((subject(), 1..4i32), 1..60),
        granted in 0..60u64,
        user in 0..6u8,
        key in 0..6u8,
    ) {
        let mut row = Row::zeroed();
        let all: Vec<_> = subjects.iter().zip(1..).map(|((subject, level), order)| pending(*subject, order, *level)).collect();
        all.iter().for_each(|one| row.add(*one));
        for back_to in [4, 3, 2] {
            row.take_back(back_to);
            let left = all.iter().filter(|one| one.level < back_to && one.order > granted);
            for (one, has_metadata) in left.flat_map(|one| [(one, false), (one, true)]) {
                let filled = Filled { foundation: Foundation::of(None), has_metadata };
                let refused = row.pending().iter().any(|one| one.order > granted && one.subject.concerns(&lease(user, key), &filled));
                prop_assert!(refused || !one.subject.concerns(&lease(user, key), &filled));
            }
        }
    }
}
