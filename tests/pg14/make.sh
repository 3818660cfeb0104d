#!/usr/bin/env bash
# make for a PostgreSQL 14 without headers:
#   tests/pg14/make.sh PG_CONFIG TARGET...
set -euo pipefail

[ $# -ge 2 ] || { sed -n '2,3s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
pg_config=$1
shift

# DOCS_RS keeps pgrx from looking for headers; rustc.sh gives it bindings and C functions.
export CSHIM_DIR=$here/../../target/pg14
mkdir -p "$CSHIM_DIR"
cc -O2 -fPIC -Wall -Werror -c -o "$CSHIM_DIR/cshim.o" "$here/cshim.c"
ar rcs "$CSHIM_DIR/libcshim.a" "$CSHIM_DIR/cshim.o"
export DOCS_RS=1 RUSTC_WRAPPER=$here/rustc.sh

# Only a part of the suite runs, because the client programs are 16's, and 14 cannot read all that they write.
export TESTS=${TESTS:-tests/entry/test_lookups.py tests/entry/test_lookup_paths.py tests/lifecycle/test_setup.py \
    tests/partition/test_partitions.py tests/security/test_tenants.py tests/lifecycle/test_restore.py tests/regress}

exec make -C "$here/../.." PG_CONFIG="$pg_config" "$@"
