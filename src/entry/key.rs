//! Keys: the canonical key of a request, and the digest that the unique index of a partition holds.

use crate::error::Refusal;
use crate::jsonb::RawJsonb;
use pgrx::Uuid;
use pgrx::prelude::*;
use sha2::{Digest, Sha256};

/// SHA-256, in hexadecimal, of a request's canonical JSON (RFC 8785).
///
/// # Errors
/// 22003 for a number that no IEEE 754 double holds, 54001 for more than 127 levels of nesting.
#[pg_extern(sql = false)]
fn cache_key(request: RawJsonb) -> String {
    match key_of(&request.to_text()) {
        Ok(key) => key,
        Err(error) if error.to_string().starts_with("recursion limit") => Refusal::new(
            PgSqlErrorCode::ERRCODE_STATEMENT_TOO_COMPLEX,
            "a request can be nested 127 levels deep at most",
        )
        .detail("Deeper nesting is refused before it can exhaust the stack.")
        .hint("Leave what does not decide the answer out of the key, or flatten it.")
        .raise(),
        Err(error) => Refusal::new(
            PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
            "the request holds a number that canonical JSON (RFC 8785) cannot",
        )
        .detail(format!("Numbers there are IEEE 754 doubles: {error}."))
        .hint("Pass the number as a string.")
        .raise(),
    }
}

fn key_of(json: &str) -> Result<String, serde_json::Error> {
    let value: serde_json::Value = serde_json::from_str(json)?;
    let canonical = serde_json_canonicalizer::to_vec(&value)?;
    Ok(Sha256::digest(canonical).iter().map(|byte| format!("{byte:02x}")).collect())
}

/// [`digest_of`], for the index expression. It reads the bytes of its arguments as they are and raises
/// on none of them, which is what makes it leakproof.
#[pg_extern(sql = false)]
fn cache_entry_digest(content_type: &[u8], cache_key: &[u8]) -> Uuid {
    digest_of(content_type, cache_key)
}

/// The first 128 bits of the SHA-256 of the content type's length (64 bits, big-endian), the content
/// type and the key. The length keeps ("ab", "c") and ("a", "bc") apart. What it returns for given
/// inputs must never change: indexes hold it.
pub fn digest_of(content_type: &[u8], cache_key: &[u8]) -> Uuid {
    let mut hash = Sha256::new();
    hash.update((content_type.len() as u64).to_be_bytes());
    hash.update(content_type);
    hash.update(cache_key);
    let hash = hash.finalize();
    let mut digest = [0; 16];
    digest.copy_from_slice(&hash[..16]);
    Uuid::from_bytes(digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The vectors were computed with another implementation (Python's hashlib), and fix the digest
    /// for all releases.
    #[test]
    fn digest_vectors() {
        for (content_type, key, digest) in [
            ("story_foundation", "k1", "2939e4cf-d272-0e45-36d8-3797421daa19"),
            ("", "", "af5570f5-a181-0b7a-f78c-af4bc70a660f"),
            ("ab", "c", "290a3daa-9b49-526a-2ed7-352cd7f5e69c"),
            ("a", "bc", "e98bc483-cc6a-f9cc-f82b-c23e481a128c"),
            ("kapitel", "ключ 🔑", "ba21ffcc-b15f-6a65-2304-2798093fe87c"),
        ] {
            assert_eq!(digest_of(content_type.as_bytes(), key.as_bytes()).to_string(), digest);
        }
    }

    #[test]
    fn a_key_does_not_depend_on_notation() {
        let key = key_of(r#"{"b":1.0,"a":[1e2,"\u00e9"]}"#).unwrap();
        assert_eq!(key_of("{ \"a\": [100, \"é\"], \"b\": 1 }").unwrap(), key);
        assert_ne!(key_of(r#"{"a":[100,"e"],"b":1}"#).unwrap(), key);
    }

    proptest! {
        #[test]
        fn digests_keep_type_and_key_apart(a in ".{0,8}", b in ".{0,8}", c in ".{0,8}", d in ".{0,8}") {
            let same = (&a, &b) == (&c, &d);
            prop_assert_eq!(digest_of(a.as_bytes(), b.as_bytes()) == digest_of(c.as_bytes(), d.as_bytes()), same);
        }

        #[test]
        fn the_order_of_names_does_not_matter(pairs in proptest::collection::btree_map(".{0,5}", any::<i32>(), 0..8)) {
            let forward = serde_json::to_string(&pairs).unwrap();
            let backward: Vec<String> = pairs
                .iter()
                .rev()
                .map(|(name, value)| format!("{}:{value}", serde_json::to_string(name).unwrap()))
                .collect();
            prop_assert_eq!(key_of(&forward).unwrap(), key_of(&format!("{{{}}}", backward.join(","))).unwrap());
        }
    }
}
