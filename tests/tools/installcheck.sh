#!/usr/bin/env bash
# Runs pg_regress on themes of tests/regress, or on all, against the server that PGHOST and PGPORT name:
#   tests/tools/installcheck.sh [THEME...]
# tests/regress/README.md says what the server and the role need.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
fail() { echo "make installcheck: $*" >&2; exit 1; }

pg_config=${PG_CONFIG:-pg_config}
bin=$("$pg_config" --bindir) || fail 'no pg_config is here; name one in PG_CONFIG'
pg_regress=$(dirname "$("$pg_config" --pgxs)")/../test/regress/pg_regress
[ -x "$pg_regress" ] || fail "there is no $pg_regress; on Debian, install postgresql-server-dev-MAJOR"

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
found=$("$bin/psql" -X -A -t -v ON_ERROR_STOP=1 -d postgres -c "
    SELECT rolsuper, coalesce((SELECT default_version FROM pg_available_extensions WHERE name = 'infinite_pages_cache'), 'none')
    FROM pg_roles WHERE rolname = current_user") ||
    fail 'no server to check; set PGHOST, PGPORT and PGUSER'
case $found in
f*) fail 'CREATE EXTENSION needs a superuser; name one in PGUSER' ;;
*"|none") fail 'the extension is not installed in this server; run "make install"' ;;
*"|$version") ;;
*) fail "the server has version ${found#*|} of the extension, and these are the checks of $version; run \"make install\"" ;;
esac

themes=("$@")
if [ $# = 0 ]; then
    for theme in tests/regress/sql/*.sql; do themes+=("$(basename "$theme" .sql)"); done
fi
# The server's user can run this, too, and may not be allowed to write here.
output=target/regress
if ! { mkdir -p $output && [ -w $output ]; } 2>/dev/null; then output=$(mktemp -d); fi
echo "# Results and differences are kept in $output"
exec "$pg_regress" --bindir="$bin" --inputdir=tests/regress --outputdir="$output" --dbname=contrib_regression \
    --encoding=UTF8 --no-locale --load-extension=infinite_pages_cache "${themes[@]}"
