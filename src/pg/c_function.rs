//! C functions of SQL that are no `#[pg_extern]`.

/// Declares the C function `$symbol`, with the record that PostgreSQL needs of a C function. `$body` is a closure that gets what
/// PostgreSQL calls the function with, and returns its result.
macro_rules! c_function {
    ($symbol:ident => $body:expr) => {
        #[allow(unsafe_code)]
        const _: () = {
            // SAFETY: the name is this extension's own, and the record says truly how the function is called.
            #[unsafe(export_name = concat!("pg_finfo_", stringify!($symbol)))]
            extern "C" fn record() -> &'static ::pgrx::pg_sys::Pg_finfo_record {
                const RECORD: ::pgrx::pg_sys::Pg_finfo_record = ::pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
                &RECORD
            }

            // SAFETY: the name is this extension's own.
            #[unsafe(no_mangle)]
            #[::pgrx::pg_guard]
            unsafe extern "C-unwind" fn $symbol(fcinfo: ::pgrx::pg_sys::FunctionCallInfo) -> ::pgrx::pg_sys::Datum {
                let body = $body;
                body(fcinfo)
            }
        };
    };
}
pub(crate) use c_function;
