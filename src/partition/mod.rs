//! Monthly partitions: which there are, how one is made, and when one goes.

pub mod catalog;
pub mod create;
pub mod drop;
pub mod dump_check;
pub mod secure;
mod unused;
