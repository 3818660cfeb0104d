//! Who is calling: the user whose entries a tenant role may see.

#![allow(unsafe_code)]

use crate::settings;
use pgrx::prelude::*;
use pgrx::{Uuid, pg_sys};
use std::cell::RefCell;
use std::ffi::CStr;

/// The user of the session's claims. Anything malformed is nobody, never an error: row security asks
/// for every table scan, and nobody sees no rows.
#[pg_extern(sql = false)]
pub fn cache_current_user_id() -> Option<Uuid> {
    // Claims alone decide where there are any: a user id that an earlier client of a pooled connection
    // left behind must not stand in for a claim that is missing.
    match setting(c"request.jwt.claims") {
        Some(claims) if !claims.is_empty() => remembered(claims),
        _ => settings::USER_ID.get().and_then(|id| parse_uuid(id.to_str().ok()?)),
    }
}

/// A setting by its name, also one that no library has defined; `None` when it was never set.
pub fn setting(name: &CStr) -> Option<&'static [u8]> {
    // SAFETY: the name is NUL-terminated; the value is too and stays in place until the setting
    // changes, which cannot happen while the caller looks at it: this backend has one thread.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        (!value.is_null()).then(|| CStr::from_ptr(value).to_bytes())
    }
}

/// Row security may ask once for each row, so the last answer is kept with the claims it came from.
fn remembered(claims: &[u8]) -> Option<Uuid> {
    thread_local! {
        static LAST: RefCell<(Vec<u8>, Option<Uuid>)> = const { RefCell::new((Vec::new(), None)) };
    }
    LAST.with_borrow_mut(|(known, user)| {
        if known != claims {
            *user = subject_of(claims);
            claims.clone_into(known);
        }
        *user
    })
}

/// The `sub` of a JSON object of claims, if it is a UUID.
fn subject_of(claims: &[u8]) -> Option<Uuid> {
    // A map, not a struct: of a name that stands twice the last one counts, as it does for jsonb.
    let claims: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(claims).ok()?;
    parse_uuid(claims.get("sub")?.as_str()?)
}

/// Reads a UUID in the usual notation, with or without hyphens or braces. One written as a URN is none, as for
/// PostgreSQL.
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
