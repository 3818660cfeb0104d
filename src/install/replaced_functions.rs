//! Functions whose arguments or columns have changed since a released version. Because PostgreSQL cannot alter these, an
//! update script renames the old function, creates the new one, and calls cache_replace(). That gives the new function what
//! an operator has given the old one, and drops the old one. The script creates cache_replace() first, and drops it last.

use super::grants;
use super::upgrade::DEPENDENT;
use crate::error::Refusal;
use crate::pg::backend::outside_extension_script;
use crate::pg::function::{hand_over_grants, signature_of};
use crate::pg::spi::{self, Access};
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;
use pgrx::prelude::*;

/// Gives `new` the owner, the grants and an operator's comment of `old`, and drops `old`. A comment that differs from
/// `released`, that of the released version, is an operator's.
///
/// # Errors
/// 2BP01 if anything but the extension depends on `old`, because an update must not drop a user's object.
#[pg_extern(sql = false)]
fn cache_replace(old: pg_sys::Oid, new: pg_sys::Oid, released: &str) {
    let (old_name, new_name) = (signature_of(old), signature_of(new));
    refuse_if_needed(old, &new_name);
    let args = [old.into(), new.into()];
    let owner = "SELECT quote_ident(pg_get_userbyid(o.proowner)) FROM pg_proc o JOIN pg_proc n ON n.proowner <> o.proowner \
                 WHERE o.oid = $1 AND n.oid = $2";
    if let Some(owner) = one(&args, owner) {
        spi::execute(&format!("ALTER FUNCTION {new_name} OWNER TO {owner}"));
    }
    grants::reset_function(new);
    outside_extension_script(|| hand_over_grants(old, new));
    let comment = "SELECT coalesce(quote_literal(obj_description($1, 'pg_proc')), 'NULL') \
                   WHERE obj_description($1, 'pg_proc') IS DISTINCT FROM $2";
    if let Some(comment) = one(&[old.into(), released.into()], comment) {
        spi::execute(&format!("COMMENT ON FUNCTION {new_name} IS {comment}"));
    }
    spi::execute(&format!("DROP FUNCTION {old_name}"));
}

/// Gives an existing object its new comment, unless an operator has changed the comment of the released version.
#[pg_extern(sql = false)]
fn cache_renew_comment(catalog: pg_sys::Oid, object: pg_sys::Oid, released: &str, new: &str) {
    let statement = "SELECT format('COMMENT ON %s %s IS %L', o.type, o.identity, $4) FROM pg_identify_object($1, $2, 0) o \
                     WHERE obj_description($2, (SELECT relname FROM pg_class WHERE oid = $1)) = $3";
    if let Some(statement) = one(&[catalog.into(), object.into(), released.into(), new.into()], statement) {
        spi::execute(&statement);
    }
}

/// Returns the text in the only column of the first row of a query.
fn one(args: &[DatumWithOid], sql: &str) -> Option<String> {
    spi::run(Access::ReadLatest, sql, args, |rows| if rows.count() > 0 { rows.get(0, 1) } else { None })
}

fn refuse_if_needed(old: pg_sys::Oid, name: &str) {
    let dependents = format!(
        "SELECT string_agg(DISTINCT {DEPENDENT}, ', ') FROM pg_depend d \
         WHERE d.refclassid = 'pg_proc'::regclass AND d.refobjid = $1"
    );
    let dependents = one(&[old.into()], &dependents);
    if let Some(dependents) = dependents {
        Refusal::new(
            PgSqlErrorCode::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
            "cannot update infinite_pages_cache because other objects depend on a function that has changed",
        )
        .detail(format!("The function is now {name}. These objects depend on its former version: {dependents}."))
        .hint("Drop these objects, update the extension, and create them again.")
        .raise();
    }
}
