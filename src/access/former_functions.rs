//! Former functions: those with the arguments of a released version. A dump of that version grants rights on a function by its
//! arguments, and its restore would fail without a function that has them. Maintenance and cache_setup() hand the grants over
//! to the function that is called now, and drop the former one.

use super::owner;
use crate::extension::Extension;
use crate::pg::backend::outside_extension_script;
use crate::pg::function::{hand_over_grants, signature_of};
use crate::pg::spi::{self, Access};
use pgrx::pg_sys;

/// A function of a released version.
struct Former {
    name: &'static str,
    arguments: &'static str,
    returns: &'static str,
    symbol: &'static str,
}

/// No call that names or leaves out arguments finds one, because its arguments have neither names nor defaults.
const FORMER: [Former; 1] = [Former {
    name: "cache_upsert",
    arguments: "uuid, text, text, jsonb, @extschema@.cache_ttl, jsonb, numeric, text, jsonb, uuid, text, integer, text, numeric, timestamptz",
    returns: "uuid",
    symbol: "cache_upsert_wrapper",
}];

impl Former {
    fn signature(&self, extension: &Extension) -> String {
        format!("{}.{}({})", extension.schema, self.name, self.arguments.replace("@extschema@", &extension.schema))
    }

    fn find(&self, extension: &Extension) -> Option<pg_sys::Oid> {
        let sql = "SELECT to_regprocedure($1)::oid";
        spi::run(Access::ReadLatest, sql, &[self.signature(extension).into()], |rows| rows.get(0, 1))
    }

    /// Returns the function that is called now; `None` if the SQL is of the version of the former function.
    fn successor(&self, extension: &Extension, former: pg_sys::Oid) -> Option<pg_sys::Oid> {
        let sql = "SELECT oid FROM pg_proc WHERE pronamespace = $1 AND proname = $2::name AND oid <> $3";
        let args = [extension.namespace.into(), self.name.into(), former.into()];
        spi::run(Access::ReadLatest, sql, &args, |rows| if rows.count() > 0 { rows.get(0, 1) } else { None })
    }
}

/// Creates the former functions for a restore, as members of the extension that it creates.
pub fn make(extension: &Extension) {
    for former in FORMER.iter().filter(|former| former.find(extension).is_none()) {
        spi::execute(&format!(
            "CREATE FUNCTION {} RETURNS {} LANGUAGE c SET search_path = pg_catalog, pg_temp AS 'infinite_pages_cache', '{}'",
            former.signature(extension),
            former.returns,
            former.symbol
        ));
    }
}

/// Hands over what a dump has granted; returns how many functions it dropped. Does nothing unless the current user may grant.
pub fn hand_over(extension: &Extension) -> i64 {
    const IS_GRANTED: &str = "SELECT FROM pg_proc p WHERE p.oid = $1 AND p.proacl IS NOT NULL";
    let left: Vec<_> = FORMER
        .iter()
        .filter_map(|former| former.find(extension).and_then(|oid| Some((oid, former.successor(extension, oid)?))))
        .collect();
    if left.is_empty() || !owner::may_grant_functions(extension) {
        return 0;
    }
    for &(former, now) in &left {
        if spi::run(Access::ReadLatest, IS_GRANTED, &[former.into()], |rows| rows.count() > 0) {
            outside_extension_script(|| hand_over_grants(former, now));
        }
        let signature = signature_of(former);
        spi::execute(&format!("ALTER EXTENSION infinite_pages_cache DROP FUNCTION {signature}"));
        spi::execute(&format!("DROP FUNCTION {signature}"));
    }
    left.len() as i64
}
