//! Stores entries: the one way from the checked arguments of cache_upsert() and cache_upsert_many() to the table, the audit
//! log and the counters.

use super::admission::{Admitted, admit};
use super::content_policy::Policy;
use super::new_entry::NewEntry;
use super::write_rights::check_users;
use super::writer::Writer;
use crate::audit::writes::{self, Event};
use crate::statistics::Call;
use crate::statistics::tokens::Tokens;
use pgrx::Uuid;
use std::collections::{BTreeMap, HashMap};

/// Stores entries, all or none; returns their ids in order. An entry that its quality gate or its lease keeps out is left out,
/// and has no id. If a key stands twice, its last entry counts.
///
/// # Errors
/// 42501 for an entry of another user, before any key is locked. 22023 for a lease of another entry. 40001 if an answer is
/// invalidated meanwhile.
pub fn store_all(call: &Call, entries: &[NewEntry]) -> Vec<Option<Uuid>> {
    // All writers lock rows in the order of users and digests. The sort is stable, so the last entry of a key stays the
    // last.
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_by_key(|&number| entries[number].key());
    check_users(order.iter().map(|&number| &entries[number].address.user_id));
    let mut writer = Writer::default();
    let mut policies: HashMap<&[u8], Policy> = HashMap::new();
    let mut ids = vec![None; entries.len()];
    let mut events = Vec::with_capacity(entries.len());
    let mut stored: BTreeMap<&[u8], (u64, Tokens)> = BTreeMap::new();
    for same in order.chunk_by(|&one, &other| entries[one].key() == entries[other].key()) {
        pgrx::check_for_interrupts!();
        let entry = &entries[same[same.len() - 1]];
        let NewEntry { address, values, .. } = entry;
        let policy = policies.entry(address.content_type).or_insert_with(|| Policy::of(address.content_type));
        let Some(Admitted { fill }) = admit(call, entry, policy) else { continue };
        let written = writer.store(address, values, policy, fill.as_ref());
        same.iter().for_each(|&number| ids[number] = Some(written.id));
        let (number, cost) = stored.entry(address.content_type).or_default();
        *number += 1;
        *cost = cost.plus(written.cost);
        events.push(Event::of(address));
    }
    writes::record("upsert", &events);
    for (content_type, (number, cost)) in stored {
        let counted_at = call.slot(content_type, true);
        call.stored(counted_at, number, cost);
        call.ends(counted_at);
    }
    ids
}
