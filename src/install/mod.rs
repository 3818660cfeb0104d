//! Set-up of a database: tables, policies, grants, and what came before.

pub mod grants;
pub mod replaced_functions;
pub mod setup;
pub mod upgrade;
