//! What the cache does for one user.

use crate::arguments::{checked_user, or_raise};
use crate::extension::Extension;
use crate::extension::grant_hint::{Grant, with_way_out};
use crate::pg::guc::with_settings;
use crate::pg::jsonb::RawJsonb;
use crate::pg::memory::Memory;
use crate::pg::spi::{self, Access};
use crate::stale::with_is_over;
use pgrx::Uuid;
use pgrx::prelude::*;

/// Returns totals, a breakdown by content type, and the fields that existing clients read. All are zero for a user of whom
/// the caller may see nothing.
#[pg_extern(sql = false)]
fn get_infinite_pages_analytics<'fcx>(memory: Memory<'fcx>, user_id: Option<Uuid>) -> Option<RawJsonb<'fcx>> {
    let user_id = or_raise(checked_user(user_id));
    let query = include_str!("../../sql/reports/get_infinite_pages_analytics.sql");
    let extension = Extension::current();
    let query = with_is_over(&extension, query, "c.").replace("@extschema@", &extension.schema);
    let run = || spi::run(Access::Read, &query, &[user_id.into()], |rows| rows.jsonb(0, 1, memory));
    // JIT compilation would take longer than the query.
    with_settings(&[(c"jit", c"off")], || with_way_out(&extension, Grant::Tenant, run))
}
