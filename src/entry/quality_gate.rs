//! The quality gate: the condition `accept_if` of a content policy, which an answer must meet to be stored. So a truncated, a
//! refused, and an empty answer do not get in. PostgreSQL evaluates the condition, a jsonpath, on the content, with the fields of
//! the metadata as its variables.

use super::values::Values;
use crate::extension::saved_plan;
use crate::pg::spi::Access;
use crate::pg::subtransaction;

/// Returns why an answer does not meet a condition: what the condition is of it, or the error in it; `None` if it is true of it.
/// What cannot be evaluated is not true. A cancelled statement is none of these.
pub fn objection(accept_if: &str, values: &Values) -> Option<String> {
    // Without `silent`, because its errors say what is wrong. They leave nothing behind but the subtransaction.
    let sql = |_: &str| {
        "SELECT pg_catalog.jsonb_path_match($1, $2::pg_catalog.jsonpath, \
             CASE WHEN pg_catalog.jsonb_typeof($3) OPERATOR(pg_catalog.=) 'object' THEN $3 ELSE '{}' END)"
            .to_string()
    };
    let args = [values.content.into(), accept_if.into(), values.metadata.into()];
    let is_met = subtransaction::attempt(|| {
        saved_plan::run(Access::Read, "accept_if", sql, &args, |rows| rows.get::<bool>(0, 1))
    });
    match is_met {
        Ok(Some(true)) => None,
        Ok(Some(false)) => Some("false".into()),
        Ok(None) => Some("NULL".into()),
        Err(error) => Some(error.message().into()),
    }
}
