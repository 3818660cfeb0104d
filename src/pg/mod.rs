//! PostgreSQL, made safe: the wrappers around the server's functions, variables and structures.
//!
//! Outside this folder there is no unsafe code: `src/lib.rs` and `tests/lint/unsafe_wall.py` check that. Every block here may
//! rely on what follows, so its SAFETY comment says only what is special about it.
//!
//! **One thread.** A PostgreSQL process calls this library from one thread. The process's variables are read and set without a
//! lock, because only a signal handler can change them meanwhile.
//!
//! **An ERROR unwinds.** pgrx turns an ERROR that the server raises inside a call into a Rust panic, and `#[pg_guard]` turns a
//! panic into an ERROR where Rust returns to the server. Each function that the server calls, also a callback, has this guard:
//! a panic must not unwind through C. Only the records of C functions in `srf.rs` have none, because they return a constant.
//! Destructors run meanwhile, so none of ours calls what can raise.
//!
//! **Who releases after an ERROR.** The end of the transaction or subtransaction does. It closes relations, scans, snapshots
//! and SPI, unpins buffers, releases locks, also lightweight ones, and sets back user, security context and settings. So a
//! wrapper gives back what it has taken when its closure returns, and nowhere else.
//!
//! **Closures.** What must be given back exists within a closure only: a relation, a snapshot, a scan, SPI's rows, another
//! role's rights, a setting. No reference to it can leave the closure, only a copy. A worker does not commit while a relation,
//! a snapshot, a scan or SPI is open. Two values are kept without a closure: an [`advisory_lock::Brief`], which its owner
//! releases or, after an ERROR, the end of the transaction or subtransaction; and a [`background_worker::Worker`], which lasts
//! for many rounds of the launcher, and whose destructor only frees memory.
//!
//! **Memory.** What the server allocates lies in the current memory context. Where SQL calls a function, that context lives at
//! least as long as the call; in a worker to the commit, and in the launcher to the end of the round. Values whose memory is
//! not Rust's have the lifetime of a call, for which [`memory::Memory`] and [`srf::Call`] stand. The arguments of a statement
//! are the exception: they lie there, too, but as `DatumWithOid<'static>`, so the caller must not keep them beyond a commit or
//! a round. What lies in memory of the server's settings and caches is copied before the server is called again.
//!
//! **Locks.** A lock on a relation and an advisory lock are held to the end of the transaction unless a comment says otherwise.
//! Under a lightweight lock or the lock of a buffer nothing is called that can raise or wait.
//!
//! **What is looked up may be gone.** An OID is a number. Where the server would follow it to an object that does not exist,
//! the wrapper looks for the object first. Elsewhere the server finds nothing, or raises.
//!
//! **Types.** A datum is read as a Rust type only after its SQL type has been compared. Arguments are of the types that the SQL
//! declaration says; only a superuser can declare a C function.

#![allow(unsafe_code)]

pub mod activity;
pub mod advisory_lock;
pub mod backend;
pub mod background_worker;
pub mod c_function;
pub mod client;
pub mod clock;
pub mod condition_variable;
pub mod database;
pub mod datetime;
pub mod function;
pub mod guc;
pub mod horizon;
pub mod index_scan;
pub mod invalidation;
pub mod jsonb;
pub mod latch;
pub mod memory;
pub mod nodes;
pub mod numeric;
pub mod other_transaction;
pub mod plain;
pub mod privileges;
pub mod random;
pub mod relation;
pub mod row;
mod scope;
pub mod scratch;
pub mod shared_memory;
pub mod shared_tables;
pub mod snapshot;
pub mod spi;
pub mod srf;
pub mod subtransaction;
pub mod table_lock;
pub mod timeout;
pub mod transaction_end;
pub mod transaction_status;
pub mod types;
pub mod version;
pub mod worker_transaction;
