//! The background worker: a launcher, which is in no database, and short-lived workers, one for each tick of
//! a database, so that nothing is connected in between.

pub mod databases;
mod launcher;
mod process;
pub mod readiness;
mod roles;
mod schedule;
pub mod slot;
mod tick;
mod transaction;

pub use launcher::NO_PLACE;
pub use process::{announce_at_commit, naptime, register_launcher};
