//! The server's permission errors, with a HINT that names the grant.

use super::{Extension, TABLES};
use crate::error::Refusal;
use crate::pg::{backend, privileges};
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;
use pgrx::spi::quote_literal;
use std::panic::AssertUnwindSafe;

/// The function that only tenants and services may call.
pub const TENANT_FUNCTION: &str = "cache_create_current_partition";

/// What gives a role the rights that it lacks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    Tenant,
    Monitor,
}

/// Runs `f`. If the server denies the current user an object of the cache, its error gets a HINT that names the grant. Any
/// other error, such as that of a trigger without the rights it needs, stays as it is.
pub fn with_way_out<T>(extension: &Extension, grant: Grant, f: impl FnOnce() -> T) -> T {
    // Read now, because after an error the current user may be that of a SECURITY DEFINER function.
    let role = backend::current_user();
    let schema = AssertUnwindSafe(&extension.schema);
    PgTryBuilder::new(AssertUnwindSafe(f))
        .catch_when(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, move |error| match denial(&error) {
            None => error.rethrow(),
            Some(message) => {
                let function = if grant == Grant::Tenant { "cache_grant_tenant" } else { "cache_grant_monitor" };
                let role = quote_literal(privileges::name_of(role));
                Refusal::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, message)
                    .hint(format!("As the owner of the extension: SELECT {}.{function}({role});", *schema))
                    .raise()
            }
        })
        .execute()
}

/// Returns the message of an error by which the server itself denies an object of the cache. The message is in the server's
/// language, so it is known by the name of the object in it and by the C function that raised it.
fn denial(error: &CaughtError) -> Option<String> {
    let CaughtError::PostgresError(report) = error else { return None };
    let names_one = TABLES.iter().chain([&TENANT_FUNCTION]).any(|name| report.message().contains(name));
    (report.function_name() == Some("aclcheck_error") && report.hint().is_none() && names_one)
        .then(|| report.message().to_string())
}
