//! What keeps the cache in order.

mod cleanup;
mod limits;
mod run;
