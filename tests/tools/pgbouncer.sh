#!/usr/bin/env bash
# Builds the PgBouncer that the tests run, because those of older distributions know no protocol-level prepared statements:
#   tests/tools/pgbouncer.sh PREFIX            has PREFIX/bin/pgbouncer
# Needs a C compiler, pkg-config, curl, libevent and c-ares with their headers.
set -euo pipefail

version=1.24.1
sha256=da72a3aba13072876d055a3e58dd4aba4a5de4ed6148e73033185245598fd3e0

[ $# = 1 ] || { sed -n '2,4s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
prefix=$(realpath -m -- "$1")
if "$prefix/bin/pgbouncer" --version 2>/dev/null | grep -qx "PgBouncer $version"; then exit 0; fi

mirror=$("$(dirname "${BASH_SOURCE[0]}")/debian_mirror.sh")
echo "== Building PgBouncer $version under $prefix: half a minute"
source=$(mktemp -d)
trap 'rm -rf "$source"' EXIT
curl -sSfL --retry 3 -o "$source/tarball" "$mirror/pool/main/p/pgbouncer/pgbouncer_$version.orig.tar.gz"
echo "$sha256  $source/tarball" | sha256sum --check --quiet
tar -xzf "$source/tarball" --strip-components=1 -C "$source"
cd "$source"
if ! { ./configure --prefix="$prefix" --with-cares=yes --without-openssl && make -j "$(nproc)" pgbouncer; } >build.log 2>&1; then
    tail -30 build.log >&2
    exit 1
fi
install -D pgbouncer "$prefix/bin/pgbouncer"
