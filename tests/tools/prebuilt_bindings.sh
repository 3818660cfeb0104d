#!/usr/bin/env bash
# A RUSTC_WRAPPER, with DOCS_RS=1, for a PostgreSQL without headers: pgrx-pg-sys takes the bindings that its package
# has for the site of its documentation. Its C functions are not compiled, so whatever calls one does not load.
set -euo pipefail
case " $* " in
*" --crate-name pgrx_pg_sys "*) exec "$@" --cfg docsrs ;;
*) exec "$@" ;;
esac
