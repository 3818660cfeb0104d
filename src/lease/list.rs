//! Lists of slots, which a slot joins, leaves or moves to the end of in a few steps.

use super::slot::Link;
use crate::pg::plain::plain;

plain! {
    /// The first and the last slot of a list; 0 = none.
    #[derive(Clone, Copy)]
    pub struct List {
        pub first: u32,
        pub last: u32,
    }
}

/// Which of its links joins a slot to a list.
#[derive(Clone, Copy)]
pub enum By {
    User,
    All,
}

/// Where the links of slots are. The first slot has the number 1.
pub trait Links {
    fn link(&mut self, by: By, number: u32) -> &mut Link;
}

impl List {
    /// Returns the list with a slot added at its end.
    pub fn with(mut self, places: &mut (impl Links + ?Sized), by: By, number: u32) -> Self {
        *places.link(by, number) = Link { before: self.last, after: 0 };
        match self.last {
            0 => self.first = number,
            last => places.link(by, last).after = number,
        }
        self.last = number;
        self
    }

    /// Returns the list without one of its slots.
    pub fn without(mut self, places: &mut (impl Links + ?Sized), by: By, number: u32) -> Self {
        let Link { before, after } = *places.link(by, number);
        match before {
            0 => self.first = after,
            before => places.link(by, before).after = after,
        }
        match after {
            0 => self.last = before,
            after => places.link(by, after).before = before,
        }
        self
    }
}
