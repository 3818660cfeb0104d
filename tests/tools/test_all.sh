#!/usr/bin/env bash
# Runs `make test` for major versions of PostgreSQL, one after the other, and prints how each ended:
#   tests/tools/test_all.sh MAJOR...
# The output of each is kept under target/test-all. A version that cannot be fetched or built counts as failed.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
rm -rf target/test-all
mkdir -p target/test-all
status=0
for major in "$@"; do
    log=target/test-all/pg$major.log result=passed
    if ! tests/tools/make_for.sh "$major" test 2>&1 | tee "$log"; then
        result=FAILED status=1
    fi
    {
        echo "== PostgreSQL $major: $result"
        grep -aE '^(test result: |FAILED |ERROR |postgresql.sh: |error(\[|:)|[0-9]+ (passed|failed|error))' "$log" || true
    } >>target/test-all/summary
done
echo
cat target/test-all/summary
exit $status
