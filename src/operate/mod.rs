//! What an operator calls: set-up, grants, reports, archiving.

mod analytics;
pub mod archive;
pub mod former;
pub mod grants;
mod policies;
mod replace;
pub mod report;
mod setup;
mod upgrade;
mod verify;
