//! The paths in which two JSON values differ, for people to read.

use serde_json::Value;

/// Longest name of a field in a path, in characters.
const LONGEST_NAME: usize = 64;

/// Returns the paths in which two values differ, `limit` at most. A path is written as in jsonpath: `$.chapter.tags[0]`. What is
/// equal is not searched, and neither is what only one of them has.
pub fn differences(one: &Value, other: &Value, limit: usize) -> Vec<String> {
    let mut found = Vec::new();
    compare(Some(one), Some(other), &mut String::from("$"), limit, &mut found);
    found
}

fn compare(one: Option<&Value>, other: Option<&Value>, path: &mut String, limit: usize, found: &mut Vec<String>) {
    if found.len() >= limit || one == other {
        return;
    }
    let length = path.len();
    match (one, other) {
        (Some(Value::Object(one)), Some(Value::Object(other))) => {
            let names = one.keys().chain(other.keys().filter(|name| !one.contains_key(*name)));
            for name in names {
                path.push_str(&step(name));
                compare(one.get(name), other.get(name), path, limit, found);
                path.truncate(length);
            }
        }
        (Some(Value::Array(one)), Some(Value::Array(other))) => {
            for index in 0..one.len().max(other.len()) {
                path.push_str(&format!("[{index}]"));
                compare(one.get(index), other.get(index), path, limit, found);
                path.truncate(length);
            }
        }
        _ => found.push(path.clone()),
    }
}

/// Returns the step of a path to a field. A name that is no plain word is quoted, and a long one is cut.
fn step(name: &str) -> String {
    let is_word = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let name = match name.char_indices().nth(LONGEST_NAME) {
        None => name.to_string(),
        Some((end, _)) => format!("{}…", &name[..end]),
    };
    if is_word { format!(".{name}") } else { format!(".{}", Value::String(name)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn a_path_leads_to_each_difference() {
        let one = json!({"story": 1, "chapter": {"number": 7, "tags": ["rain", "tram"]}, "tone": "dark"});
        let other = json!({"story": 1, "chapter": {"number": 8, "tags": ["rain"]}, "odd name": true});
        let expected = ["$.chapter.number", "$.chapter.tags[1]", "$.tone", "$.\"odd name\""];
        assert_eq!(differences(&one, &other, 64), expected);
        assert_eq!(differences(&one, &other, 2), expected[..2]);
        assert_eq!(differences(&json!([1]), &json!({"a": 1}), 64), ["$"]);
        assert_eq!(differences(&json!({"a": null}), &json!({}), 64), ["$.a"]);
        assert_eq!(
            differences(&json!({"x".repeat(99): 1}), &json!({}), 64),
            [format!("$.{}…", "x".repeat(LONGEST_NAME))]
        );
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), (0..3).prop_map(Value::from)];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[ab]{1,2}", inner, 0..4).prop_map(Value::from_iter),
            ]
        })
    }

    proptest! {
        #[test]
        fn there_is_a_difference_exactly_where_values_are_not_equal(one in values(), other in values()) {
            let found = differences(&one, &other, 64);
            prop_assert_eq!(found.is_empty(), one == other);
            let mut sorted = (found, differences(&other, &one, 64));
            sorted.0.sort();
            sorted.1.sort();
            prop_assert_eq!(sorted.0, sorted.1);
        }
    }
}
