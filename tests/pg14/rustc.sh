#!/usr/bin/env bash
# A RUSTC_WRAPPER, with DOCS_RS=1: pgrx-pg-sys is compiled with the bindings that its package has for the site of its
# documentation, and with the functions in cshim.c, of which CSHIM_DIR has the library.
set -euo pipefail

case " $* " in
*" --crate-name pgrx_pg_sys "*) exec "$@" --cfg docsrs -L "native=$CSHIM_DIR" -l static=cshim ;;
*) exec "$@" ;;
esac
