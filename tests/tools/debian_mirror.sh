#!/usr/bin/env bash
# Prints the mirror of Debian that DEBIAN_MIRROR names, or that apt uses on this machine.
set -euo pipefail

# shellcheck disable=SC2016 # $(SITE) is apt's
mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -m 1 -E '/debian/?$' || true)}
[ -n "$mirror" ] || { echo 'debian_mirror.sh: apt uses no mirror of Debian; name one in DEBIAN_MIRROR' >&2; exit 1; }
echo "${mirror%/}"
