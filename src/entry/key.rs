//! cache_key(): makes the canonical key of a request.

use crate::error::Refusal;
use crate::pg::jsonb::RawJsonb;
use pgrx::prelude::*;
use sha2::{Digest, Sha256};

/// Returns the SHA-256, in hexadecimal, of a request's canonical JSON (RFC 8785), in which a number keeps all its digits.
///
/// # Errors
/// 54001 for more than 127 levels of nesting.
#[pg_extern(sql = false)]
fn cache_key(request: RawJsonb) -> String {
    key_of(&request.to_text()).unwrap_or_else(|error| too_deep(&error).raise())
}

/// Returns the refusal of a request that could not be read. Its text was a jsonb, so no other error is possible.
pub(super) fn too_deep(error: &serde_json::Error) -> Refusal {
    Refusal::new(PgSqlErrorCode::ERRCODE_STATEMENT_TOO_COMPLEX, "a request can be nested 127 levels deep at most")
        .detail(format!("Deeper nesting is refused before it can exhaust the stack: {error}."))
        .hint("Leave what does not decide the answer out of the key, or flatten it.")
}

/// Begins a string that stands for a number while the rest is made canonical. No string of a jsonb begins so, because none
/// holds a NUL.
const NUMBER: &str = "\"\\u0000";

/// Returns the key of JSON as jsonb prints it.
///
/// RFC 8785 writes the nearest double of a number, so that different numbers become one. Here a number keeps all its
/// digits, in the layout of the RFC. The result is the RFC's if the double prints back the same digits.
fn key_of(json: &str) -> Result<String, serde_json::Error> {
    let canonical = serde_json_canonicalizer::to_string(&value_of(json)?)?;
    let mut pieces = canonical.split(NUMBER);
    let mut hash = Sha256::new_with_prefix(pieces.next().unwrap_or_default());
    for piece in pieces {
        let (number, rest) = piece.split_once('"').unwrap_or((piece, ""));
        hash.update(number);
        hash.update(rest);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Reads JSON as jsonb prints it. Each number becomes a string that begins with NUL, so that equal numbers are equal strings.
pub(super) fn value_of(json: &str) -> Result<serde_json::Value, serde_json::Error> {
    serde_json::from_str(&with_numbers_as_strings(json))
}

fn with_numbers_as_strings(json: &str) -> String {
    let mut written = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(start) = rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_digit()) {
        let (before, from_here) = rest.split_at(start);
        written.push_str(before);
        let end = if from_here.starts_with('"') {
            end_of_string(from_here)
        } else {
            from_here.find(|c: char| !matches!(c, '0'..='9' | '-' | '.')).unwrap_or(from_here.len())
        };
        let (token, after) = from_here.split_at(end);
        if token.starts_with('"') {
            written.push_str(token);
        } else {
            written.extend([NUMBER, &canonical_number(token), "\""]);
        }
        rest = after;
    }
    written + rest
}

/// Returns the length of the string that the JSON begins with.
fn end_of_string(json: &str) -> usize {
    let mut escaped = false;
    let end = json.bytes().skip(1).position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    });
    end.map_or(json.len(), |end| end + 2)
}

/// Writes a number as JavaScript would if its numbers were decimals of any length. jsonb prints a number without an
/// exponent.
fn canonical_number(number: &str) -> String {
    let (sign, number) = number.strip_prefix('-').map_or(("", number), |number| ("-", number));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let all = format!("{whole}{fraction}");
    let significant = all.trim_start_matches('0');
    // The number is 0.DIGITS times 10 to the power of `point`.
    let point = whole.len() as i64 - (all.len() - significant.len()) as i64;
    let digits = significant.trim_end_matches('0');
    let count = digits.len() as i64;
    let zeros = |count: i64| "0".repeat(count as usize);
    match (digits.split_at_checked(1), point) {
        (None, _) => "0".to_string(),
        (_, 1..=21) if count <= point => format!("{sign}{digits}{}", zeros(point - count)),
        (_, 1..=21) => format!("{sign}{}.{}", &digits[..point as usize], &digits[point as usize..]),
        (_, -5..=0) => format!("{sign}0.{}{digits}", zeros(-point)),
        (Some((first, "")), _) => format!("{sign}{first}e{:+}", point - 1),
        (Some((first, others)), _) => format!("{sign}{first}.{others}e{:+}", point - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_does_not_depend_on_notation() {
        let key = key_of(r#"{"b":1.0,"a":[100.00,"\u00e9"]}"#).unwrap();
        assert_eq!(key_of("{ \"a\": [100, \"é\"], \"b\": 1 }").unwrap(), key);
        assert_ne!(key_of(r#"{"a":[100,"e"],"b":1}"#).unwrap(), key);
    }

    #[test]
    fn a_number_keeps_all_its_digits() {
        for (number, canonical) in [
            ("0", "0"),
            ("0.000", "0"),
            ("-0.0", "0"),
            ("10", "10"),
            ("-1.50", "-1.5"),
            ("9007199254740993", "9007199254740993"),
            ("100000000000000000000", "100000000000000000000"),
            ("1000000000000000000000", "1e+21"),
            ("1234567890123456789012", "1.234567890123456789012e+21"),
            ("0.0000010", "0.000001"),
            ("0.00000010", "1e-7"),
            ("-0.000000123", "-1.23e-7"),
            ("0.10000000000000000001", "0.10000000000000000001"),
        ] {
            assert_eq!(canonical_number(number), canonical, "{number}");
        }
    }

    #[test]
    fn digits_in_strings_are_no_numbers() {
        assert_eq!(
            with_numbers_as_strings(r#"{"1.0": ["\\", 2.0, "\"3.0", -4.50], "a": "-"}"#),
            r#"{"1.0": ["\\", "\u00002", "\"3.0", "\u0000-4.5"], "a": "-"}"#
        );
    }

    proptest! {
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
