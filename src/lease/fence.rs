//! Fencing: an answer is not stored when what it was made from has been invalidated since its lease was granted.
//!
//! # The promise
//! A fill counts as if its entry had been stored when its lease was granted: every invalidation that commits after that, and
//! would have removed the entry, keeps it out. So whoever reads, on the primary, after a grant, and stores with that lease, never
//! leaves an answer that is older than a committed edit whose transaction has invalidated it. (`tests/lease/fencing_model.py`
//! tries every order of the steps below, and finds a counterexample for each rule that is left out.)
//!
//! # Words
//! A *lease* is the right to generate the answer of one key; it has a slot in shared memory ([`super::table`]), and a uuid that
//! names the slot and cannot be guessed. A *grant* gives one out (cache_fetch). A *fill* stores an answer with one (cache_upsert).
//! An *invalidation* has a [`Subject`]: a key, a content type, a foundation, metadata, a user, or a content type of all users. It
//! is *pending* from its call to the end of its transaction. It *concerns* a lease if it would remove what the lease is filled
//! with. A lease that a committed invalidation concerns is *outdated*. A fill is *committing* from its last check to the end of
//! its transaction.
//!
//! # Shared memory
//! One lock guards the slots, the pending invalidations of each backend, and a counter, `order`, which grants and invalidations
//! number themselves by. Every line below that begins with a letter and a number is one visit under that lock. So no order of
//! stores and loads within a visit matters; the order of the visits does.
//!
//! Grant
//! - G1 Refuse while an invalidation of another transaction that concerns the key is pending: nobody shall pay for an answer that
//!   will be refused. Refuse while another lease of the key is held: it is exclusive until its time is over, or it is outdated.
//!   Else take a slot, and the next `order`.
//! - Look for the entry once more, by a new snapshot: a fill may have committed between the first look and G1.
//!
//! Invalidation
//! - I1 Write the subject, with the next `order`, into the backend's list. This comes before anything is deleted, because a fill
//!   that commits after the deletion must find it.
//! - I2 See whether a fill of another transaction is committing in a slot that the subject concerns; sleep until none is. Such a
//!   fill has passed its last check before I1. It becomes visible soon, or never: it waits for no session's statement.
//! - Delete, by a snapshot taken after I2, which shows what such a fill has stored. A transaction snapshot (REPEATABLE READ,
//!   SERIALIZABLE) may hide it: then 40001.
//!
//! Fill
//! - F1 Refuse when the slot is not the lease's any more, when another transaction is filling it, when it is outdated, when an
//!   invalidation of another transaction that concerns it is pending, or when one of its own transaction is whose `order` is
//!   later than the lease's. Else the slot is *filling*: it does not end by time.
//! - Write the entry.
//! - F2 In XACT_EVENT_PRE_COMMIT, ask all of F1 again for each slot that the transaction fills; if all may be filled, they are
//!   committing. Else raise 40001. Question and answer are one visit, because an invalidation that comes between them would see
//!   nothing committing at I2, and delete before the fill is visible. Nothing of ours raises after F2.
//!
//! Commit (XACT_EVENT_COMMIT, which PostgreSQL calls after ProcArrayEndTransaction: others see the rows, and the edit, already)
//! - C1 In one visit: outdate each lease that a pending invalidation of the transaction concerns; take these invalidations off
//!   the list; end the slots that it has filled. Outdating comes first, because a fill that finds nothing pending must find its
//!   lease outdated; all of it comes after the commit is visible, because a lease that is granted after C1 must read the edit,
//!   and an invalidation that sees nothing committing must see the entry. Leases that the transaction itself was granted after
//!   its invalidation stay good: they read what it has written.
//! - Wake who waits for these slots.
//!
//! Rollback (XACT_EVENT_ABORT; SUBXACT_EVENT_ABORT_SUB for the part that is rolled back)
//! - A1 In one visit: take the invalidations off the list; give the slots back that were filling or committing, with what is left
//!   of their time; end the slots that this transaction, or this part, was granted, because their holder may have read what was
//!   never committed, or never got them. Wake who waits. A subtransaction that commits hands all of it to its parent.
//!
//! # What concerns what
//! A key concerns its lease; a content type, a user and a content type of all users the leases they name. A foundation concerns a
//! lease that has named it, and, if a lease has named none, the fill that names it. Metadata concern fills that have metadata:
//! which, is not known before. Comparison is exact, by 128-bit digests. Nothing is hashed into places that users share, because
//! then a tenant could keep others' answers out, by invalidating many keys of its own.
//!
//! A backend's list has 16 places. When it is full, the subjects of a user that has several become that user, and if that
//! makes no room, all become the whole database, which only a service can reach. A merged one has the latest `order`, and the
//! outermost nesting level: it may refuse too much and never too little.
//!
//! # Transactions of all kinds
//! - PREPARE TRANSACTION: F2 is asked in XACT_EVENT_PRE_PREPARE, and C1 done in XACT_EVENT_PREPARE. What is prepared is not fenced
//!   from then on, because nobody tells how it ends.
//! - A transaction that generates itself edits first, then invalidates, then is granted its lease. An invalidation before the
//!   edit fences everybody else as well, but not its own later lease.
//! - With `infinite_pages_cache.enabled = off` no lease is granted and nothing is stored; invalidations are fenced all the same.
//! - cache_forget_user() is an invalidation of the user, before it takes the lock of erasure; at its commit the user's slots end.
//! - kill -9 and a crash empty shared memory. Leases from before name no slot, and are refused.
//! - A backend that is terminated rolls back as any other.
//!
//! # Who waits for whom
//! I2 is the only wait. It waits for a transaction that is past its last statement and deferred trigger, so for nothing that the
//! waiter holds; on a primary that waits for a synchronous standby it takes as long as every commit there. It can be cancelled.
//! A fill never waits for an invalidation, a grant for nobody. Row locks are PostgreSQL's own: an invalidation that deletes a row
//! that an open transaction has replaced waits for it, as any DELETE does.
