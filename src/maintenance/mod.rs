//! What keeps the cache in order.

pub mod budget;
pub mod by_hand;
pub mod cleanup;
mod drop_months;
mod flush;
mod limits;
pub mod log;
pub mod step;
pub mod steps;
