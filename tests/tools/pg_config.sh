#!/usr/bin/env bash
# Prints the pg_config of the newest PostgreSQL here that the extension can be built for and run in, or nothing:
#   tests/tools/pg_config.sh
# Succeeds if PG_CONFIG belongs to such a PostgreSQL:
#   tests/tools/pg_config.sh PG_CONFIG
set -euo pipefail

# Both are looked for, because a distribution has the headers and the server in packages of their own.
complete() { [ -e "$("$1" --includedir-server)/postgres.h" ] && [ -x "$("$1" --bindir)/postgres" ]; }

if [ $# -gt 0 ]; then
    complete "$1" 2>/dev/null
    exit
fi
for found in $(printf '%s\n' /usr/lib/postgresql/*/bin/pg_config | sort -rV) pg_config; do
    if complete "$found" 2>/dev/null; then
        command -v "$found"
        break
    fi
done
