//! The user that a session acts for, whose entries a tenant role may see.

use crate::pg::guc;
use crate::settings;
use pgrx::Uuid;
use pgrx::prelude::*;
use std::cell::RefCell;

/// Returns the user of the session's claims. Malformed claims give NULL, not an error, because row security calls this for
/// every scan; without a user a scan returns no rows.
#[pg_extern(sql = false)]
pub fn cache_current_user_id() -> Option<Uuid> {
    // If there are claims, they alone decide: a user_id that an earlier client of a pooled connection left behind must not
    // replace a missing claim.
    match CLAIMS.with_borrow_mut(Claims::read) {
        Some(user) => user,
        None => settings::USER_ID.get().and_then(|id| parse_uuid(id.to_str().ok()?)),
    }
}

thread_local! {
    static CLAIMS: RefCell<Claims> = const { RefCell::new(Claims { known: Vec::new(), user: None, now: Vec::new() }) };
}

/// The session's claims and their user. Row security may ask once for each row, so the last answer is kept with the claims
/// that it came from.
struct Claims {
    known: Vec<u8>,
    user: Option<Uuid>,
    /// Memory to read the claims into.
    now: Vec<u8>,
}

impl Claims {
    /// Returns the user that the claims name now; `None` if there are no claims.
    fn read(&mut self) -> Option<Option<Uuid>> {
        guc::read_into(c"request.jwt.claims", &mut self.now);
        if self.now.is_empty() {
            return None;
        }
        if self.known != self.now {
            self.user = subject_of(&self.now);
            std::mem::swap(&mut self.known, &mut self.now);
        }
        Some(self.user)
    }
}

/// Returns the `sub` of a JSON object of claims, if it is a UUID.
fn subject_of(claims: &[u8]) -> Option<Uuid> {
    // A map, not a struct, so that the last of two fields with the same name counts, as for jsonb.
    let claims: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(claims).ok()?;
    parse_uuid(claims.get("sub")?.as_str()?)
}

/// Reads a UUID in the usual notation, with or without hyphens or braces. Refuses a URN, as PostgreSQL does.
pub fn parse_uuid(text: &str) -> Option<Uuid> {
    let is_urn = text.starts_with("urn:");
    (!is_urn).then(|| uuid::Uuid::try_parse(text).ok()).flatten().map(|id| Uuid::from_bytes(id.into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALICE: &str = "a11ce000-0000-4000-8000-000000000001";

    #[test]
    fn the_subject_is_the_user() {
        let claims = format!(r#"{{"role":"authenticated","sub":"{ALICE}","exp":1}}"#);
        assert_eq!(subject_of(claims.as_bytes()), parse_uuid(ALICE));
        assert!(parse_uuid(ALICE).is_some());
    }

    #[test]
    fn malformed_claims_are_nobody() {
        let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
        for claims in [
            "{}",
            "[]",
            "null",
            "x",
            "{",
            r#"{"sub":1}"#,
            r#"{"sub":null}"#,
            r#"{"sub":""}"#,
            r#"{"sub":"alice"}"#,
            r#"{"sub":"urn:uuid:a11ce000-0000-4000-8000-000000000001"}"#,
            r#"{"sub":["a11ce000-0000-4000-8000-000000000001"]}"#,
            r#"{"SUB":"a11ce000-0000-4000-8000-000000000001"}"#,
            r#"{"sub":"a11ce000-0000-4000-8000-000000000001"} x"#,
            r#"{"sub":"a11ce000-0000-4000-8000-000000000001'"}"#,
            &deep,
        ] {
            assert_eq!(subject_of(claims.as_bytes()), None, "{claims:.60}");
        }
        assert_eq!(subject_of(b"\xff\xfe"), None);
    }

    #[test]
    fn the_last_of_two_subjects_counts() {
        let claims = format!(r#"{{"sub":"b0b00000-0000-4000-8000-000000000002","sub":"{ALICE}"}}"#);
        assert_eq!(subject_of(claims.as_bytes()), parse_uuid(ALICE));
    }

    proptest! {
        #[test]
        fn no_claims_raise(claims in proptest::collection::vec(any::<u8>(), 0..200)) {
            subject_of(&claims);
        }

        #[test]
        fn claims_round_trip(id in any::<u128>(), other in ".*") {
            let id = uuid::Uuid::from_u128(id);
            let claims = serde_json::json!({ "other": other, "sub": id.to_string() }).to_string();
            prop_assert_eq!(subject_of(claims.as_bytes()).map(|found| *found.as_bytes()), Some(id.into_bytes()));
        }
    }
}
