//! The audit log: who read, changed or removed which entry, from where.

pub mod archive;
pub mod reads;
pub mod ring;
pub mod writes;
