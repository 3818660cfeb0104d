//! What keeps the cache in order.

pub mod cleanup;
mod limits;
pub mod log;
mod months;
pub mod run;
pub mod steps;
pub mod turn;
