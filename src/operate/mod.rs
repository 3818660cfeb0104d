//! What an operator calls: set-up, grants, reports, archiving.

mod analytics;
mod archive;
mod grants;
mod policies;
pub mod report;
mod setup;
mod verify;
