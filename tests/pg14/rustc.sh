#!/usr/bin/env bash
# A RUSTC_WRAPPER, with DOCS_RS=1: compiles pgrx-pg-sys with the bindings that its package has for its documentation, and
# with the functions of cshim.c, whose library lies in CSHIM_DIR.
set -euo pipefail

case " $* " in
*" --crate-name pgrx_pg_sys "*) exec "$@" --cfg docsrs -L "native=$CSHIM_DIR" -l static=cshim ;;
*) exec "$@" ;;
esac
