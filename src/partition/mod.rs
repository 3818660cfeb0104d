//! Monthly partitions: which there are, how one is made, and when one goes.

pub mod catalog;
pub mod create;
pub mod dump;
pub mod entry_index;
pub mod month;
pub mod retire;
pub mod secure;
pub mod sight;
pub mod unhidden;
mod unused;
