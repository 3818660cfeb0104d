//! Audits reads. A read writes nothing, so its record goes to a ring in shared memory, from which a flush stores it in the
//! audit log.

use super::ring;
use super::writes::knows_who_acted;
use super::writes::user_agent_of;
use crate::access::tenant;
use crate::address::Address;
use crate::calendar::month_of;
use crate::error::Refusal;
use crate::extension::{AUDIT_LOG, Extension};
use crate::partition::create;
use crate::pg::shared_memory::is_preloaded;
use crate::pg::spi::{self, Access};
use crate::pg::transaction_end::{AtCommit, Queue};
use crate::pg::{backend, client, clock, guc, privileges};
use crate::settings::{self, Audit};
use crate::statistics::at_commit::refusal_to_prepare;
use crate::statistics::counters;
use pgrx::datum::{DatumWithOid, TimestampWithTimeZone};
use pgrx::{Uuid, pg_sys};
use std::collections::BTreeSet;

/// Whether reads are audited, which takes shared memory.
pub fn is_on() -> bool {
    settings::AUDIT.get() == Audit::All && is_preloaded()
}

/// Records one read of an entry, and whether it found a live one.
pub fn record(address: &Address, success: bool) {
    if !is_on() {
        return;
    }
    let Some(counted_at) = counters::overflow_slot() else { return };
    let agent = guc::value_of(c"request.headers").and_then(|headers| user_agent_of(&headers)).unwrap_or_default();
    let client = client::address().unwrap_or_default();
    let record = Record {
        moment: clock::now(),
        user_id: address.user_id,
        acting: tenant::cache_current_user_id(),
        role: backend::current_user(),
        success,
        texts: [address.content_type, address.cache_key, agent.as_bytes(), client.as_bytes()],
    };
    ring::write(counted_at, &record.encode());
}

/// The record of a read in the ring.
#[derive(Debug, PartialEq)]
struct Record<'a> {
    moment: i64,
    user_id: Uuid,
    /// The user that the session acts for.
    acting: Option<Uuid>,
    role: pg_sys::Oid,
    success: bool,
    /// Content type, key, user agent, client address.
    texts: [&'a [u8]; 4],
}

impl<'a> Record<'a> {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 + self.texts.iter().map(|text| text.len()).sum::<usize>());
        bytes.extend(self.moment.to_ne_bytes());
        bytes.extend(self.user_id.as_bytes());
        bytes.push(self.acting.is_some().into());
        bytes.extend(self.acting.unwrap_or(Uuid::from_bytes([0; 16])).as_bytes());
        bytes.extend(self.role.to_u32().to_ne_bytes());
        bytes.push(self.success.into());
        for text in self.texts {
            bytes.extend((text.len() as u16).to_ne_bytes());
            bytes.extend(text);
        }
        bytes
    }

    fn decode(mut bytes: &'a [u8]) -> Self {
        fn take<'a>(bytes: &mut &'a [u8], length: usize) -> &'a [u8] {
            let (taken, rest) = bytes.split_at(length);
            *bytes = rest;
            taken
        }
        let uuid = |bytes: &[u8]| Uuid::from_slice(bytes).expect("sixteen bytes");
        Self {
            moment: i64::from_ne_bytes(take(&mut bytes, 8).try_into().expect("eight bytes")),
            user_id: uuid(take(&mut bytes, 16)),
            acting: {
                let (is_known, acting) = (take(&mut bytes, 1) == [1], uuid(take(&mut bytes, 16)));
                is_known.then_some(acting)
            },
            role: pg_sys::Oid::from(u32::from_ne_bytes(take(&mut bytes, 4).try_into().expect("four bytes"))),
            success: take(&mut bytes, 1) == [1],
            texts: std::array::from_fn(|_| {
                let length = u16::from_ne_bytes(take(&mut bytes, 2).try_into().expect("two bytes"));
                take(&mut bytes, length.into())
            }),
        }
    }
}

/// Whether a record is of a user: of an entry of the user, or of a session that acted for the user.
pub fn is_of(body: &[u8], user_id: &Uuid) -> bool {
    body[8..24] == **user_id || (body[24] == 1 && body[25..41] == **user_id)
}

/// What a commit does to the ring.
pub enum Change {
    /// Removes the records at these positions, which have been stored.
    Stored(Vec<u64>),
    /// Removes all records of this user.
    ForgetUser(Uuid),
}

thread_local! {
    pub static CHANGES: Queue<Change> = const { Queue::new() };
}

/// Whether the transaction has stored records, which it must not store again.
pub fn has_stored() -> bool {
    CHANGES.with(|changes| changes.find(|_| Some(()))).is_some()
}

/// Removes what the ring holds of a user when the transaction commits.
pub fn forget_at_commit(user_id: Uuid) {
    CHANGES.with(|changes| changes.push(Change::ForgetUser(user_id), |_, _| false));
}

impl AtCommit for Change {
    /// Refuses PREPARE TRANSACTION, because stored records must stay in memory until the commit: 0A000.
    fn refuses_prepare(&self) -> Option<Refusal> {
        Some(refusal_to_prepare())
    }

    fn committed(self) {
        match self {
            Self::Stored(positions) => ring::remove_stored(&positions),
            Self::ForgetUser(user_id) => ring::forget(|body| is_of(body, &user_id)),
        }
    }
}

/// Stores the ring's records of this database in the audit log; returns how many. Creates the partitions that their months
/// lack.
pub fn flush(extension: &Extension) -> i64 {
    let mut stored = 0;
    let mut next = 0;
    loop {
        pgrx::check_for_interrupts!();
        let records = ring::read(next);
        if records.positions.is_empty() {
            return stored;
        }
        next = records.next;
        insert(extension, &records.bodies().map(Record::decode).collect::<Vec<_>>());
        stored += records.positions.len() as i64;
        CHANGES.with(|changes| changes.push(Change::Stored(records.positions), |_, _| false));
    }
}

fn insert(extension: &Extension, records: &[Record]) {
    let log = extension.table(AUDIT_LOG);
    let text = |number: usize| -> Vec<Option<String>> {
        let texts = records.iter().map(|record| String::from_utf8_lossy(record.texts[number]).into_owned());
        texts.map(|text| (!text.is_empty()).then_some(text)).collect()
    };
    let moments = |record: &Record| TimestampWithTimeZone::try_from(record.moment).expect("a moment of the clock");
    let args: [DatumWithOid; 9] = [
        records.iter().map(|record| record.user_id).collect::<Vec<_>>().into(),
        text(0).into(),
        text(1).into(),
        text(2).into(),
        text(3).into(),
        records.iter().map(moments).collect::<Vec<_>>().into(),
        records.iter().map(|record| record.success).collect::<Vec<_>>().into(),
        records.iter().map(|record| record.role).collect::<Vec<_>>().into(),
        records.iter().map(|record| record.acting).collect::<Vec<_>>().into(),
    ];
    let (acting_column, acting_value) = if knows_who_acted(log) { (", acting_user_id", ", c") } else { ("", "") };
    let sql = format!(
        "INSERT INTO {}.{AUDIT_LOG} \
             (user_id, content_type, cache_key, user_agent, ip_address, \"timestamp\", success, role, action{acting_column}) \
         SELECT u, t, k, a, i::inet, m, s, pg_get_userbyid(r), 'lookup'{acting_value} \
         FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9) AS r (u, t, k, a, i, m, s, r, c)",
        extension.schema
    );
    let months: BTreeSet<_> = records.iter().map(|record| month_of(record.moment)).collect();
    privileges::as_owner_of(log, || {
        for month in months {
            create::create(extension, create::Table::AuditLog, month);
        }
        spi::run(Access::Write, &sql, &args, |_| ());
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_record_comes_back_as_it_was(
            moment in any::<i64>(),
            user in any::<[u8; 16]>(),
            acting in proptest::option::of(any::<[u8; 16]>()),
            role in any::<u32>(),
            success in any::<bool>(),
            texts in proptest::array::uniform4(proptest::collection::vec(any::<u8>(), 0..1_100)),
        ) {
            let texts: [&[u8]; 4] = std::array::from_fn(|number| texts[number].as_slice());
            let (user_id, acting) = (Uuid::from_bytes(user), acting.map(Uuid::from_bytes));
            let record = Record { moment, user_id, acting, role: role.into(), success, texts };
            let encoded = record.encode();
            prop_assert!(is_of(&encoded, &user_id) && acting.is_none_or(|acting| is_of(&encoded, &acting)));
            let nobody = Uuid::from_bytes([0; 16]);
            prop_assert_eq!(is_of(&encoded, &nobody), user_id == nobody || acting == Some(nobody));
            prop_assert_eq!(Record::decode(&encoded), record);
        }
    }
}
