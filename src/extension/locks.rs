//! Classes of the extension's advisory locks. The numbers, "IPC" and one more byte, keep them apart from an application's own.

use crate::pg::advisory_lock::Class;

/// A user: see `entry/key_lock.rs`.
pub const USER: Class = Class::new(0x4950_4301);
/// A key: see `entry/key_lock.rs`.
pub const KEY: Class = Class::new(0x4950_4302);
/// The creation of partitions of a table.
pub const CREATE_PARTITION: Class = Class::new(0x4950_4303);
/// A run of maintenance.
pub const MAINTENANCE: Class = Class::new(0x4950_4304);
/// Set-up and grants.
pub const SETUP: Class = Class::new(0x4950_4305);
/// Storing what has been counted.
pub const STATISTICS: Class = Class::new(0x4950_4306);
