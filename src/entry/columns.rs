//! The columns of an entry, in one table: what a client gives, what is written, and what a column gets if nothing is given.
//! The fields of cache_upsert_many() and the statements of a write are made from it; the arguments of cache_upsert() have
//! the same names in the same order.

use super::content_policy::Policy;
use super::values::Values;
use crate::pg::spi;
use pgrx::datum::DatumWithOid;
use pgrx::{Uuid, pg_sys};

/// What the values of a new version are made of.
pub struct NewVersion<'a> {
    pub values: &'a Values<'a>,
    pub policy: &'a Policy,
    /// When it is stored, in microseconds since 2000-01-01 UTC.
    pub now: i64,
    /// From the version that it replaces in another month.
    pub moved: Moved,
}

/// What an entry keeps when its new version goes to another month.
#[derive(Clone, Copy, Default)]
pub struct Moved {
    pub id: Option<Uuid>,
    pub hit_count: Option<i64>,
    pub adaptation_count: Option<i64>,
    pub token_cost_saved: Option<i64>,
    pub access_frequency: Option<i32>,
}

/// How a field of a batch's object is read. JSON null counts as a field that is not given.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Text,
    Json,
    /// JSON null counts as a value.
    JsonOrNull,
}

type Value = for<'a> fn(&NewVersion<'a>) -> DatumWithOid<'a>;

/// A column, or an argument that becomes one.
pub struct Column {
    pub name: &'static str,
    /// `None` if no client gives it.
    pub field: Option<Form>,
    /// `None` if the statements take it from the address, or if it is no column.
    value: Option<Value>,
    /// Whether a new version in the same month keeps the old value.
    is_kept: bool,
    /// The SQL expression that replaces NULL.
    default: Option<&'static str>,
}

const fn argument(name: &'static str) -> Column {
    Column { name, field: Some(Form::Text), value: None, is_kept: false, default: None }
}

const fn given(name: &'static str, form: Form, value: Value) -> Column {
    Column { name, field: Some(form), value: Some(value), is_kept: false, default: None }
}

const fn renewed(name: &'static str, value: Value) -> Column {
    Column { name, field: None, value: Some(value), is_kept: false, default: None }
}

const fn kept(name: &'static str, value: Value) -> Column {
    Column { name, field: None, value: Some(value), is_kept: true, default: None }
}

/// The arguments of cache_upsert(), in their order, and then the columns that the cache fills in.
pub static COLUMNS: [Column; 23] = [
    argument("user_id"),
    argument("content_type"),
    argument("cache_key"),
    given("content", Form::JsonOrNull, |new| new.values.content.into()),
    // It decides expires_at.
    argument("ttl"),
    given("metadata", Form::Json, |new| new.values.metadata.into()).or("'{}'"),
    given("token_cost", Form::Text, |new| {
        new.values.token_cost.clone().unwrap_or_else(|| new.policy.token_cost.clone()).into()
    }),
    given("prompt_template", Form::Text, |new| text(new.values.prompt_template)),
    given("prompt_variables", Form::Json, |new| new.values.prompt_variables.into()).or("'{}'"),
    given("story_id", Form::Text, |new| new.values.story_id.into()),
    given("foundation_dependency", Form::Text, |new| text(new.values.foundation_dependency)),
    given("priority_tier", Form::Text, |new| new.values.priority_tier.unwrap_or(new.policy.priority_tier).into()),
    given("semantic_similarity_hash", Form::Text, |new| text(new.values.semantic_similarity_hash)),
    given("reuse_score", Form::Text, |new| new.values.reuse_score.clone().into()).or("5.0"),
    given("expires_at", Form::Text, |new| spi::timestamptz(new.values.expiry(new.now, new.policy))),
    // It decides whether the entry is stored.
    argument("lease"),
    renewed("created_at", |new| spi::timestamptz(new.now)),
    kept("last_accessed", |new| spi::timestamptz(new.now)),
    kept("id", |new| new.moved.id.into()).or("gen_random_uuid()"),
    kept("hit_count", |new| new.moved.hit_count.into()).or("0"),
    kept("adaptation_count", |new| new.moved.adaptation_count.into()).or("0"),
    kept("token_cost_saved", |new| new.moved.token_cost_saved.into()).or("0"),
    kept("access_frequency", |new| new.moved.access_frequency.into()).or("1"),
];

/// Returns what clients give: the arguments of cache_upsert(), the fields of an object of cache_upsert_many().
pub fn fields() -> impl Iterator<Item = (&'static str, Form)> {
    COLUMNS.iter().filter_map(|column| Some((column.name, column.field?)))
}

/// Returns the columns that an INSERT writes beside those of the address.
pub fn inserted() -> impl Iterator<Item = &'static Column> {
    COLUMNS.iter().filter(|column| column.value.is_some())
}

/// Returns the columns that an UPDATE writes.
pub fn updated() -> impl Iterator<Item = &'static Column> {
    inserted().filter(|column| !column.is_kept)
}

impl Column {
    const fn or(mut self, default: &'static str) -> Self {
        self.default = Some(default);
        self
    }

    /// Returns the argument of a statement that holds the column's value.
    pub fn argument<'a>(&self, new: &NewVersion<'a>) -> DatumWithOid<'a> {
        (self.value.expect("a column that is written has a value"))(new)
    }

    /// Returns the SQL expression of the value whose argument has this number.
    pub fn expression(&self, number: usize) -> String {
        self.default.map_or_else(|| format!("${number}"), |default| format!("coalesce(${number}, {default})"))
    }
}

fn text(text: Option<&[u8]>) -> DatumWithOid<'static> {
    text.map_or_else(|| DatumWithOid::null_oid(pg_sys::TEXTOID), spi::text)
}
