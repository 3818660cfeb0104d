//! What an operator calls: set-up, grants, reports, archiving.

mod analytics;
pub mod archive;
mod grants;
mod report;
mod setup;
