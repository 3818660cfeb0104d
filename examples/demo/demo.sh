#!/usr/bin/env bash
# A day of a story application, told in SQL, in a fresh database "demo" of the cluster that
# tests/tools/cluster.sh started in DIR:  examples/demo/demo.sh DIR
set -euo pipefail
[ $# = 1 ] || { sed -n '2,3s/^# //p' "$0" >&2; exit 2; }

dir=$(realpath -- "$1")
cd "$(dirname "$0")"
sql() { ../../tests/tools/cluster.sh psql "$dir" -X -q -v ON_ERROR_STOP=1 -P pager=off "$@"; }

# Keeps a reader's own settings from changing the output.
export PGOPTIONS='-c client_min_messages=warning' PSQL_PAGER='' PGTZ=UTC

sql -d postgres <<'SQL'
DROP DATABASE IF EXISTS demo WITH (FORCE);
CREATE DATABASE demo;
-- The background worker leaves out the step that section 9 shows by hand.
ALTER DATABASE demo SET infinite_pages_cache.skip_steps = 'delete expired entries';
-- The role that the application's users act as. The extension never creates roles.
SELECT 'CREATE ROLE authenticated NOLOGIN'
    WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'authenticated') \gexec
SQL
sql -d demo -c 'CREATE EXTENSION infinite_pages_cache'
sql -d demo -f app.sql

# The texts in story/ stand for what a language model would write. psql reads them, since the server
# may not be allowed to.
for file in story/*/*.md; do
    printf "\\\\set text \`cat %s\`\nCALL app.add_text('%s', :'text');\n" "$file" "$file"
done | sql -d demo

# One stream for results and errors, so that refusals and notices stand where they belong.
sql -d demo <day.sql 2>&1

# The eight readers of section 13 are eight sessions at the same time.
sql -d demo -f before_readers.sql
for reader in 1 2 3 4 5 6 7 8; do
    sql -d demo -v reader="$reader" -f reader.sql &
done
wait
sql -d demo <after_readers.sql 2>&1
sql -d demo -f check.sql

echo
echo 'To look around in the same database:  make psql'
