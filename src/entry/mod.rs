//! Entries of the cache: how one is read, written and removed.

mod client_numbers;
mod columns;
mod conflicts;
mod content_policy;
mod differences;
pub mod entry_index;
mod explain;
mod forget_user;
mod invalidate;
mod key;
mod key_lock;
mod lookup;
mod newest_version;
mod search;
mod store;
mod touch;
mod upsert;
mod upsert_many;
mod user_rows;
mod values;
mod write_rights;
mod write_statements;
mod writer;
