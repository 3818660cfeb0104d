#!/usr/bin/env bash
# make for a major version of PostgreSQL, which is fetched if it is not here:
#   tests/tools/make_for.sh MAJOR TARGET...
set -euo pipefail

[ $# -ge 2 ] || { sed -n '2,3s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
tests=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
pg_config=$("$tests/tools/postgresql.sh" "$1")
shift
if grep -qsF tests/pg14 "$("$pg_config" --includedir-server)/postgres.h"; then
    exec "$tests/pg14/make.sh" "$pg_config" "$@"
fi
exec make -C "$tests/.." PG_CONFIG="$pg_config" "$@"
