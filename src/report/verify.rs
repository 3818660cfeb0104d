//! The check of an installation. It must also answer when tables are missing, because that is one of its findings.

use super::run::run;
use crate::access::all_rows::hidden_from_owners;
use crate::extension::{Extension, POLICIES, RUNS};
use crate::pg::srf::{Call, Stored, set_returning};
use crate::worker::NO_PLACE;

set_returning!(infinite_pages_cache_verify => verify());

fn verify(call: Call) -> Stored {
    let mut query = include_str!("../../sql/reports/verify_production_cache.sql").to_string();
    let extension = Extension::current();
    if [POLICIES, RUNS].iter().all(|table| extension.find_table(table).is_some()) {
        query.push_str(" UNION ALL ");
        query.push_str(include_str!("../../sql/reports/verify_production_cache_tables.sql"));
    }
    let query = query.replace("@version@", env!("CARGO_PKG_VERSION")).replace("@no_place@", NO_PLACE);
    let query = query.replace("@hidden@", &hidden_from_owners(&extension).join(","));
    // A check that is ok needs no hint.
    run(call, &format!("SELECT name, ok, detail, CASE WHEN ok THEN NULL ELSE hint END FROM ({query}) checks"))
}
