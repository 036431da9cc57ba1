#!/usr/bin/env bash
# sources.sh SUITE: Debian's package sources for a suite, in apt's one-line format; nothing where this machine has none,
# and mmdebstrap then takes Debian's public mirrors. Part of the recipe of every image that is bootstrapped.
#
#   SLIPWAY_DEBIAN_MIRROR=URL   packages from here, not from this machine's apt sources
set -euo pipefail
suite=$1

if [[ -n ${SLIPWAY_DEBIAN_MIRROR:-} ]]; then
    printf 'deb %s %s main\n' "$SLIPWAY_DEBIAN_MIRROR" "$suite"
    exit 0
fi
# This machine's own, whatever file format they are written in; other origins do not enter an image.
# shellcheck disable=SC2016  # the $(…) are apt's placeholders
apt-get indextargets --format '$(ORIGIN)|$(CODENAME)|$(COMPONENT)|$(REPO_URI)|$(RELEASE)' \
    'Created-By: Packages' 2>/dev/null |
    awk -F'|' -v suite="$suite" '$1 == "Debian" && $2 ~ "^" suite && $3 == "main" {
        print "deb", $4, $5, "main" }' | sort -u
