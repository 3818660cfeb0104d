//! Audits writes: who changed which entry, from where. A row is written in the transaction of the change, with the rights
//! of the log's owner.

use crate::access::tenant;
use crate::address::Address;
use crate::extension::{AUDIT_LOG, Extension, saved_plan};
use crate::partition::create;
use crate::pg::spi::{self, Access};
use crate::pg::{backend, guc, privileges, relation};
use crate::settings::{self, Audit};
use pgrx::datum::DatumWithOid;
use pgrx::{Uuid, pg_sys};

/// Whether a log has the column acting_user_id. A log made by version 0.1.0 lacks it until cache_setup().
pub fn knows_who_acted(log: pg_sys::Oid) -> bool {
    relation::has_column(log, c"acting_user_id")
}

/// One audited change. Texts are bytes in the database's encoding.
pub struct Event {
    pub user_id: Uuid,
    pub content_type: Vec<u8>,
    pub cache_key: Vec<u8>,
}

impl Event {
    pub fn of(address: &Address) -> Self {
        Self {
            user_id: address.user_id,
            content_type: address.content_type.to_vec(),
            cache_key: address.cache_key.to_vec(),
        }
    }
}

/// Whether changes are audited.
pub fn is_on() -> bool {
    settings::AUDIT.get() != Audit::Off
}

/// Records one action on some entries.
pub fn record(action: &str, events: &[Event]) {
    if events.is_empty() || !is_on() {
        return;
    }
    let extension = Extension::current();
    let log = extension.table(AUDIT_LOG);
    // The role that acts; the owner writes the row.
    let (role, acting) = (backend::current_user(), tenant::cache_current_user_id());
    let user_agent = guc::value_of(c"request.headers").and_then(|headers| user_agent_of(&headers));
    let (plan, acting_column, acting_value) =
        if knows_who_acted(log) { ("audit", ", acting_user_id", ", $7") } else { ("audit of 0.1.0", "", "") };
    privileges::as_owner_of(log, || {
        create::ensure_current_audit(&extension, log);
        for event in events {
            let args: [DatumWithOid; 7] = [
                event.user_id.into(),
                spi::text(&event.cache_key),
                spi::text(&event.content_type),
                action.into(),
                user_agent.clone().into(),
                role.into(),
                acting.into(),
            ];
            saved_plan::run(
                Access::Write,
                plan,
                |schema| {
                    format!(
                        "INSERT INTO {schema}.{AUDIT_LOG} \
                             (user_id, cache_key, content_type, action, user_agent, ip_address, role{acting_column}) \
                         SELECT $1, $2, $3, $4, $5, inet_client_addr(), pg_get_userbyid($6){acting_value}"
                    )
                },
                &args,
                |_| (),
            );
        }
    });
}

/// Returns the user agent from the headers that PostgREST passes on as a JSON object.
pub(super) fn user_agent_of(headers: &[u8]) -> Option<String> {
    let headers: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(headers).ok()?;
    let agent = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("user-agent"))?.1.as_str()?;
    // The client chooses the header, so its length is limited, and NUL is left out, which text cannot hold.
    Some(agent.chars().filter(|c| *c != '\0').take(512).collect())
}

#[cfg(test)]
mod tests {
    use super::user_agent_of;

    #[test]
    fn user_agents() {
        assert_eq!(user_agent_of(br#"{"host":"h","user-agent":"curl/8"}"#).as_deref(), Some("curl/8"));
        assert_eq!(user_agent_of(br#"{"User-Agent":"a\u0000b"}"#).as_deref(), Some("ab"));
        assert_eq!(user_agent_of(br#"{"user-agent":7}"#), None);
        assert_eq!(user_agent_of(b""), None);
        assert_eq!(user_agent_of(b"[]"), None);
        let long = format!(r#"{{"user-agent":"{}"}}"#, "x".repeat(9_999));
        assert_eq!(user_agent_of(long.as_bytes()).unwrap().len(), 512);
    }
}
