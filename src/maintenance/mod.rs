//! Maintenance: the steps that keep the cache in order, their budget, a run by hand, and the log.

pub mod budget;
pub mod by_hand;
pub mod cleanup;
mod drop_months;
mod flush;
mod limits;
pub mod log;
pub mod step;
pub mod steps;
