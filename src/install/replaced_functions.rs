//! Functions whose arguments or columns have changed since a released version. PostgreSQL cannot alter them: an update
//! script renames the old one, creates the new one, and calls cache_replace(), which hands over what an operator has
//! given the old one, and drops it. The script makes cache_replace() first, and drops it at its end.

use super::grants;
use super::setup::as_if_created;
use super::upgrade::DEPENDENT;
use crate::error::Refusal;
use crate::pg::privileges;
use crate::pg::spi::{self, Access};
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;
use pgrx::prelude::*;

/// Gives `new` the owner, the grants and an operator's own comment of `old`, and drops `old`. `released` is the comment
/// that the released version had: an operator has not changed it.
///
/// # Errors
/// 2BP01 when anything but the extension depends on `old`: an update must not drop what is a user's.
#[pg_extern(sql = false)]
fn cache_replace(old: pg_sys::Oid, new: pg_sys::Oid, released: &str) {
    let (old_name, new_name) = (grants::signature(old), grants::signature(new));
    refuse_if_needed(old, &new_name);
    let args = [old.into(), new.into()];
    let owner = "SELECT quote_ident(pg_get_userbyid(o.proowner)) FROM pg_proc o JOIN pg_proc n ON n.proowner <> o.proowner \
                 WHERE o.oid = $1 AND n.oid = $2";
    if let Some(owner) = one(&args, owner) {
        spi::execute(&format!("ALTER FUNCTION {new_name} OWNER TO {owner}"));
    }
    grants::reset_function(new);
    as_if_created(|| hand_over_grants(old, new));
    let comment = "SELECT coalesce(quote_literal(obj_description($1, 'pg_proc')), 'NULL') \
                   WHERE obj_description($1, 'pg_proc') IS DISTINCT FROM $2";
    if let Some(comment) = one(&[old.into(), released.into()], comment) {
        spi::execute(&format!("COMMENT ON FUNCTION {new_name} IS {comment}"));
    }
    spi::execute(&format!("DROP FUNCTION {old_name}"));
}

/// Gives an object that stays its new comment, unless an operator has changed the one of the released version.
#[pg_extern(sql = false)]
fn cache_renew_comment(catalog: pg_sys::Oid, object: pg_sys::Oid, released: &str, new: &str) {
    let statement = "SELECT format('COMMENT ON %s %s IS %L', o.type, o.identity, $4) FROM pg_identify_object($1, $2, 0) o \
                     WHERE obj_description($2, (SELECT relname FROM pg_class WHERE oid = $1)) = $3";
    if let Some(statement) = one(&[catalog.into(), object.into(), released.into(), new.into()], statement) {
        spi::execute(&statement);
    }
}

/// The text in the only column of the first row of a query.
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
        .detail(format!("The function is now {name}. What depends on the one before it: {dependents}."))
        .hint("Drop these objects, update the extension, and create them again.")
        .raise();
    }
}

/// Makes the privileges on the new function those on the old one, whatever default privileges have granted.
pub fn hand_over_grants(old: pg_sys::Oid, new: pg_sys::Oid) {
    // A privilege is granted after the one that its grantor needs: the owner's come first.
    const CHANGES: &str = "\
        WITH RECURSIVE entry AS ( \
            SELECT p.oid, p.proowner, a.grantor, a.grantee, a.is_grantable \
            FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a WHERE p.oid IN ($1, $2)), \
        differ AS ( \
            SELECT FROM (SELECT array_agg((grantor, grantee, is_grantable)::text ORDER BY grantor, grantee) FROM entry WHERE oid = $1) o (acl), \
                        (SELECT array_agg((grantor, grantee, is_grantable)::text ORDER BY grantor, grantee) FROM entry WHERE oid = $2) n (acl) \
            WHERE o.acl IS DISTINCT FROM n.acl), \
        granted (grantor, grantee, is_grantable, depth) AS ( \
            SELECT grantor, grantee, is_grantable, 1 FROM entry WHERE oid = $1 AND grantor = proowner \
            UNION SELECT e.grantor, e.grantee, e.is_grantable, g.depth + 1 \
            FROM entry e JOIN granted g ON e.grantor = g.grantee AND g.is_grantable \
            WHERE e.oid = $1 AND e.grantor <> e.proowner AND g.depth < 100), \
        role (oid, name) AS (SELECT oid, quote_ident(rolname) FROM pg_roles UNION ALL SELECT 0::oid, 'PUBLIC'), \
        change (depth, grantor, statement) AS ( \
            SELECT DISTINCT 0, NULL::oid, 'REVOKE ALL ON FUNCTION %s FROM ' || r.name || ' CASCADE' \
            FROM entry e JOIN role r ON r.oid = e.grantee WHERE e.oid = $2 \
            UNION ALL \
            SELECT min(g.depth), g.grantor, 'GRANT EXECUTE ON FUNCTION %s TO ' || r.name \
                || CASE WHEN bool_or(g.is_grantable) THEN ' WITH GRANT OPTION' ELSE '' END \
            FROM granted g JOIN role r ON r.oid = g.grantee GROUP BY g.grantor, g.grantee, r.name) \
        SELECT statement, grantor FROM change WHERE EXISTS (SELECT FROM differ) ORDER BY depth, statement";
    let changes = spi::run(Access::ReadLatest, CHANGES, &[old.into(), new.into()], |rows| {
        rows.map(|rows, row| (rows.get::<String>(row, 1).expect("a statement"), rows.get::<pg_sys::Oid>(row, 2)))
    });
    let name = grants::signature(new);
    for (statement, grantor) in changes {
        let grant = || spi::execute(&statement.replacen("%s", &name, 1));
        match grantor {
            Some(grantor) => privileges::as_role(grantor, grant),
            None => grant(),
        }
    }
}
