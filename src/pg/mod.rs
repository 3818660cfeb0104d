//! PostgreSQL, made safe: the wrappers around the server's functions, variables and structures.
//!
//! Outside this folder there is no unsafe code, which `src/lib.rs` and `tests/lint/unsafe_wall.py` see to. Here every block may
//! rely on what follows, so its SAFETY comment says only what is special about it.
//!
//! **One thread.** A PostgreSQL process calls this library from one thread. Its variables are read and set without a lock, and
//! nothing changes while we look but what a signal handler sets.
//!
//! **An ERROR unwinds.** pgrx turns an ERROR that the server raises inside a call into a Rust panic, and `#[pg_guard]` turns a
//! panic into an ERROR where Rust returns to the server. Each function that the server calls, also a callback, has this guard:
//! a panic must not unwind through C. Destructors run meanwhile, so none of ours calls what can raise.
//!
//! **Who releases after an ERROR.** Not we: the end of the transaction or subtransaction. Its resource owner closes relations,
//! scans and snapshots, unpins buffers and releases locks, lightweight locks too; it sets user, security context and settings back,
//! and closes SPI. So what a wrapper takes, it gives back on the way out of its closure, and nowhere else.
//!
//! **Closures.** What must be given back exists within a closure only: a relation, a snapshot, a scan, SPI's rows, another role's
//! rights, a setting. A reference to it cannot leave the closure. What leaves it is a copy.
//!
//! **Memory.** What the server allocates lies in the current memory context, which lives at least as long as the call of the SQL
//! function. Values whose memory is not Rust's have the lifetime of that call, which [`memory::Memory`] and [`srf::Call`] stand
//! for. Memory that the server owns for longer, as of settings and its caches, is copied before the server can be called again.
//!
//! **Locks.** A lock on a relation or an advisory one is held to the end of the transaction unless a name says otherwise. Under a
//! lightweight lock or a buffer's nothing is called that can raise or wait.
//!
//! **What is looked up may be gone.** An OID is a number. Where the server would dereference one that does not exist, the wrapper
//! looks first, or lets the server raise.
//!
//! **Types.** A datum is read as a Rust type only after its SQL type has been compared. Arguments are of the types that the SQL
//! declaration says; only a superuser can declare a C function.

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
pub mod types;
pub mod version;
pub mod worker_transaction;
