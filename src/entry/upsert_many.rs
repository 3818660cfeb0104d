//! cache_upsert_many(): stores many entries in one call: all or none, but for those that their gate or lease keeps out.

use super::client_numbers::whole_number;
use super::columns::{Form, fields};
use super::new_entry::NewEntry;
use super::store::store_all;
use super::values::{Values, checked_content};
use crate::access::tenant;
use crate::address::Address;
use crate::arguments;
use crate::error::{Refusal, shown};
use crate::extension::saved_plan;
use crate::lease::LeaseId;
use crate::pg::backend::refuse_if_read_only;
use crate::pg::jsonb::RawJsonb;
use crate::pg::memory::Memory;
use crate::pg::spi::Access;
use crate::pg::{clock, datetime, subtransaction};
use crate::statistics::Call;
use crate::statistics::counters::Latency;
use crate::{settings, ttl};
use pgrx::Uuid;
use pgrx::datum::AnyNumeric;
use pgrx::prelude::*;
use std::collections::HashMap;
use std::ffi::CString;

/// Most entries of one call.
const MAX_ENTRIES: usize = 10_000;

#[pg_extern(sql = false)]
fn cache_upsert_many<'fcx>(memory: Memory<'fcx>, entries: Option<RawJsonb<'fcx>>) -> Option<Vec<Option<Uuid>>> {
    let call = Call::begins(Latency::Upsert);
    let entries =
        entries.unwrap_or_else(|| arguments::missing("entries").hint("Pass a JSON array of objects.").raise());
    let objects = unpack(memory, entries);
    let now = clock::now();
    let entries: Vec<NewEntry> = objects.iter().enumerate().map(|(index, entry)| entry.check(index + 1, now)).collect();
    if !settings::ENABLED.get() {
        return None;
    }
    refuse_if_read_only(c"cache_upsert_many()");
    Some(store_all(&call, &entries))
}

/// An entry of the batch before it is checked: jsonb fields stay jsonb, all others are text.
struct Raw<'a> {
    kind: String,
    unknown: Option<String>,
    texts: HashMap<&'static str, String>,
    objects: HashMap<&'static str, RawJsonb<'a>>,
}

/// Splits the array into its entries.
///
/// # Errors
/// 22023 unless it is an array, 54000 if it is too long.
fn unpack<'a>(memory: Memory<'a>, entries: RawJsonb<'a>) -> Vec<Raw<'a>> {
    let (kind, length) = saved_plan::run(
        Access::Read,
        "upsert many: length",
        |_| "SELECT jsonb_typeof($1), CASE WHEN jsonb_typeof($1) = 'array' THEN jsonb_array_length($1) END".into(),
        &[entries.into()],
        |rows| (rows.get::<String>(0, 1).unwrap_or_default(), rows.get::<i32>(0, 2)),
    );
    let Some(length) = length else {
        Refusal::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "entries must be a JSON array of objects")
            .detail(format!("It is of type {kind}."))
            .hint("Put a single entry into an array of one.")
            .raise()
    };
    if length as usize > MAX_ENTRIES {
        Refusal::new(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, "too many entries in one call")
            .detail(format!("The limit is {MAX_ENTRIES} entries; the array has {length}."))
            .hint("Store them in several calls.")
            .raise();
    }
    let sql = |_: &str| {
        let known: Vec<String> = fields().map(|(field, _)| format!("'{field}'")).collect();
        let values: Vec<String> = fields()
            .map(|(field, form)| match form {
                Form::Text => format!("e.value ->> '{field}'"),
                Form::Json => format!("nullif(e.value -> '{field}', 'null')"),
                Form::JsonOrNull => format!("e.value -> '{field}'"),
            })
            .collect();
        format!(
            "SELECT jsonb_typeof(e.value), \
                    CASE WHEN jsonb_typeof(e.value) = 'object' THEN \
                        (SELECT min(k) FROM jsonb_object_keys(e.value) k WHERE k NOT IN ({})) END, {} \
             FROM jsonb_array_elements($1) WITH ORDINALITY AS e (value, n) ORDER BY e.n",
            known.join(", "),
            values.join(", ")
        )
    };
    saved_plan::run(Access::Read, "upsert many: fields", sql, &[entries.into()], |rows| {
        rows.map(|rows, row| {
            let (mut texts, mut objects) = (HashMap::new(), HashMap::new());
            for ((field, form), column) in fields().zip(3..) {
                match form {
                    Form::Text => texts.extend(rows.get(row, column).map(|text| (field, text))),
                    Form::Json | Form::JsonOrNull => {
                        objects.extend(rows.jsonb(row, column, memory).map(|json| (field, json)))
                    }
                }
            }
            Raw { kind: rows.get(row, 1).unwrap_or_default(), unknown: rows.get(row, 2), texts, objects }
        })
    })
}

impl Raw<'_> {
    /// Returns the checked entry, or raises an error that names its position.
    fn check(&self, position: usize, now: i64) -> NewEntry<'_> {
        match self.checked(position, now) {
            Ok(checked) => checked,
            Err(refusal) => refusal.at_position(position).raise(),
        }
    }

    fn checked(&self, position: usize, now: i64) -> Result<NewEntry<'_>, Refusal> {
        if self.kind != "object" {
            let detail = format!("It is of type {}.", self.kind);
            return Err(invalid(
                "an entry must be a JSON object",
                detail,
                "Name its fields as cache_upsert() names its arguments.",
            ));
        }
        if let Some(field) = &self.unknown {
            let detail = format!("It has a field {}.", shown(field));
            return Err(invalid(
                "an entry has an unknown field",
                detail,
                &format!("The fields are {}.", fields().map(|(field, _)| field).collect::<Vec<_>>().join(", ")),
            ));
        }
        let bytes = |field: &str| self.texts.get(field).map(|text| text.as_bytes());
        let object = |field: &str| self.objects.get(field).copied();
        let uuid = |field: &str| match self.texts.get(field) {
            None => Ok(None),
            Some(text) => tenant::parse_uuid(text).map(Some).ok_or_else(|| {
                Refusal::new(PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION, format!("{field} must be a uuid"))
                    .detail(format!("It is {}.", shown(text)))
                    .hint("Write it as a string such as \"a11ce000-0000-4000-8000-000000000001\".")
            }),
        };
        let address = Address::to_write(uuid("user_id")?, bytes("content_type"), bytes("cache_key"))?;
        let values = Values {
            content: checked_content(object("content"))?,
            ttl: self.read(position, "ttl", "a time to live such as \"7 days\", seconds or \"infinity\"", ttl::parse),
            expires_at: self.read(position, "expires_at", "a timestamp with time zone", datetime::read_timestamptz),
            metadata: object("metadata"),
            token_cost: self.number("token_cost")?,
            prompt_template: bytes("prompt_template"),
            prompt_variables: object("prompt_variables"),
            story_id: uuid("story_id")?,
            foundation_dependency: bytes("foundation_dependency"),
            priority_tier: match self.texts.get("priority_tier") {
                None => None,
                Some(text) => Some(whole_number(text).ok_or_else(|| {
                    invalid(
                        "priority_tier must be 1 (high), 2 or 3 (low)",
                        format!("It is {}.", shown(text)),
                        "Pass 1, 2 or 3.",
                    )
                })?),
            },
            semantic_similarity_hash: bytes("semantic_similarity_hash"),
            reuse_score: self.number("reuse_score")?,
        };
        values.check(now)?;
        Ok(NewEntry { address, values, lease: uuid("lease")?.map(LeaseId), position: Some(position) })
    }

    fn number(&self, field: &str) -> Result<Option<AnyNumeric>, Refusal> {
        self.texts
            .get(field)
            .map(|text| {
                AnyNumeric::try_from(text.as_str()).map_err(|_| {
                    Refusal::new(
                        PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION,
                        format!("{field} must be a number"),
                    )
                    .detail(format!("It is {}.", shown(text)))
                    .hint("Write it as a JSON number.")
                })
            })
            .transpose()
    }

    /// Reads a field with one of PostgreSQL's input functions, and adds the entry's position to its error.
    fn read<T>(&self, position: usize, field: &str, kind: &str, parse: impl Fn(&std::ffi::CStr) -> T) -> Option<T> {
        let text = self.texts.get(field)?;
        let source = CString::new(text.as_str()).expect("jsonb holds no NUL");
        Some(subtransaction::translate_any(
            || parse(&source),
            |code, message| {
                Refusal::new(code, format!("{field} must be {kind}"))
                    .detail(format!("It is {}: {message}.", shown(text)))
                    .hint("Leave the field out for the default of the content policy.")
                    .at_position(position)
            },
        ))
    }
}

#[track_caller]
fn invalid(message: &str, detail: String, hint: &str) -> Refusal {
    Refusal::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, message).detail(detail).hint(hint)
}
