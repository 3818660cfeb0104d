//! Reports: views, checks and functions for operators.

mod analytics;
mod counted;
mod latency;
mod leases;
mod maintenance_status;
mod refresh_candidates;
mod run;
mod sources;
mod verify;
