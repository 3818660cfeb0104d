#!/usr/bin/env bash
# Runs the tests inside the server of PG_CONFIG:
#   tests/tools/unit_tests.sh
# SUDO is "sudo" where the caller may not write into the server's directories.
set -euo pipefail

# cargo pgrx installs its test build and starts a server. The caller may not be allowed to write into the server's
# directories, and PostgreSQL does not run as root. Running the server as another user solves both.
runas=()
if [ "$(id -u)" = 0 ] || [ -n "${SUDO:-}" ]; then
    pgdata=$(mktemp -d -p /tmp)
    trap '${SUDO:-} rm -rf "$pgdata"' EXIT
    chmod 711 "$pgdata" # the tests, which run as the caller, pass through it
    ${SUDO:-} chown postgres "$pgdata"
    runas=(--runas postgres --pgdata "$pgdata")
fi
major=$("$PG_CONFIG" --version | sed -E 's/^[^0-9]*([0-9]+).*/\1/')
USER=$(id -un)
export USER CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND=1
# One at a time, because they share a database, and each locks its keys in an order of its own until it ends.
RUST_TEST_THREADS=1 cargo pgrx test "pg$major" --no-default-features "${runas[@]}"
