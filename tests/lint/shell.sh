#!/usr/bin/env bash
# Each shell script stands up to shellcheck.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if ! command -v shellcheck >/dev/null; then
    echo 'shellcheck is not installed: shell scripts are not checked' >&2
    exit
fi
grep -rlZ --exclude-dir=__pycache__ '^#!/usr/bin/env bash' .ci examples tests | xargs -0 shellcheck
