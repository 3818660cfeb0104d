//! PostgreSQL, made safe.

#![allow(unsafe_code)]

pub mod activity;
pub mod advisory_lock;
pub mod backend;
pub mod background_worker;
pub mod client;
pub mod clock;
pub mod database;
pub mod datetime;
pub mod function;
pub mod guc;
pub mod heap_scan;
pub mod horizon;

pub mod invalidation;
pub mod jsonb;
pub mod latch;
pub mod memory;
pub mod nodes;
pub mod numeric;
pub mod other_transaction;
pub mod plain;
pub mod privileges;
pub mod relation;
pub mod scratch;
pub mod shared_memory;
pub mod snapshot;
pub mod spi;
pub mod srf;
pub mod subtransaction;
pub mod table_lock;
pub mod transaction_end;
pub mod transaction_status;
pub mod version;
pub mod worker_transaction;
