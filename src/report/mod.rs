//! Reports: what an operator reads.

pub mod analytics;
pub mod counted;
pub mod run;
pub mod verify;
