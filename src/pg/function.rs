//! Functions: their names, the C functions behind them, and the privileges on them.

use super::privileges;
use super::spi::{self, Access};
use pgrx::pg_sys;
use std::ffi::CStr;

/// Returns the name of a function, without its schema, or its OID when the function is gone. Nothing locks a function that is
/// being called.
pub fn name_of(function: pg_sys::Oid) -> String {
    // SAFETY: get_func_name returns a palloc'd string, or NULL when the function is gone.
    unsafe {
        let name = pg_sys::get_func_name(function);
        if name.is_null() { function.to_u32().to_string() } else { CStr::from_ptr(name).to_string_lossy().into_owned() }
    }
}

/// Returns the schema of a function; `InvalidOid` when the function is gone.
pub fn namespace_of(function: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: a lookup in a system cache.
    unsafe { pg_sys::get_func_namespace(function) }
}

/// Whether a function is the C function at an address.
///
/// # Errors
/// Those of the server, for a function that is gone.
pub fn is_of_library(function: pg_sys::Oid, address: *const ()) -> bool {
    // SAFETY: the server fills in the structure, or raises if there is no such function.
    unsafe {
        let mut called = pg_sys::FmgrInfo::default();
        pg_sys::fmgr_info(function, &mut called);
        called.fn_addr.is_some_and(|found| found as *const () == address)
    }
}

/// Returns the name of a function with the types of its arguments, quoted for use in a statement.
pub fn signature_of(function: pg_sys::Oid) -> String {
    let sql = "SELECT $1::regprocedure::text";
    spi::run(Access::ReadLatest, sql, &[function.into()], |rows| rows.get(0, 1)).expect("a function")
}

/// Gives the new function the privileges on the old one, and revokes whatever default privileges have granted on it.
pub fn hand_over_grants(old: pg_sys::Oid, new: pg_sys::Oid) {
    // The owner's grants come first, because a grantor needs a grant option before it can grant.
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
    let name = signature_of(new);
    for (statement, grantor) in changes {
        let grant = || spi::execute(&statement.replacen("%s", &name, 1));
        match grantor {
            Some(grantor) => privileges::as_role(grantor, grant),
            None => grant(),
        }
    }
}
