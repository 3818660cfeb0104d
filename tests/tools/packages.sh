#!/usr/bin/env bash
# Installs what targets of the Makefile need and this machine does not have, on Debian and Ubuntu:
#   tests/tools/packages.sh TARGET...
# That is packages, and the PostgreSQL of PG_CONFIG or, if none is named, the distribution's. On another system this only
# checks that Rust and PostgreSQL are there.
set -euo pipefail

here=$(dirname "${BASH_SOURCE[0]}")
fail() { echo "$*" >&2; exit 1; }

# What a target needs beside a C compiler and libclang, which the build needs. `make test-all` makes `test`.
needs() { # TARGET
    case $1 in
    lint) echo shellcheck python3 ;;
    test | test-unit)
        echo shellcheck sudo python3-venv
        echo curl libevent-dev libc-ares-dev # to build PgBouncer
        ;;
    test-all | test-restore)
        echo python3-venv curl bison flex perl zlib1g-dev # to build PostgreSQL 17
        command -v npm >/dev/null || echo npm
        ;;
    soak | hostile | crash | load) echo python3-venv ;;
    fuzz) echo python3-venv sqlsmith ;;
    bench | bench-quick) echo python3-venv redis-server ;;
    partman) # a PostgreSQL that is not the distribution's has none
        apt-cache search --names-only "^postgresql-$("$PG_CONFIG" --version | sed -E 's/^[^0-9]*([0-9]+).*/\1/')-partman\$" | cut -d ' ' -f 1
        ;;
    esac
}

command -v cargo >/dev/null || fail 'Rust is missing: install it from https://rustup.rs'
missing=()
if command -v apt-get >/dev/null; then
    for package in build-essential pkg-config libclang-dev $(for target in "$@"; do needs "$target"; done); do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
fi
if ! "$here/pg_config.sh" "${PG_CONFIG:-}"; then
    major=$(sed -nE 's|^/usr/lib/postgresql/([0-9]+)/bin/pg_config$|\1|p' <<<"${PG_CONFIG:-}")
    if ! command -v apt-get >/dev/null || { [ -n "${PG_CONFIG:-}" ] && [ -z "$major" ]; }; then
        fail "No PostgreSQL with server headers at PG_CONFIG=${PG_CONFIG:-}; install it or name another pg_config"
    fi
    missing+=("postgresql${major:+-$major}" "postgresql-server-dev-${major:-all}")
fi
[ ${#missing[@]} -gt 0 ] || exit 0

echo "== Installing ${missing[*]}: about 1 minute"
sudo=()
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || fail "These need root, and there is no sudo. As root: apt-get install ${missing[*]}"
    sudo=(sudo)
fi
"${sudo[@]}" apt-get update
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
