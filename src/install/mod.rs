//! Set-up of a database: tables, policies and grants, and the upgrade from earlier versions.

pub mod grants;
pub mod replaced_functions;
pub mod setup;
pub mod upgrade;
