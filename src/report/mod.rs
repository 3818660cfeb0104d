//! Reports: what an operator reads.

mod analytics;
mod counted;
mod latency;
mod maintenance_status;
mod run;
mod sources;
mod verify;
