//! Access: claims of tenants, row security and its policies, owners, services and monitors.

pub mod all_rows;
pub mod former_functions;
pub mod monitor;
pub mod owner;
pub mod row_policies;
pub mod row_security;
pub mod service;
pub mod tenant;
