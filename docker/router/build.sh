#!/usr/bin/env bash
# Brings the router's image, and prints its reference as the last line of stdout.
#
#   docker/router/build.sh            nothing to do where the image of this recipe is there already
#   docker/router/build.sh --fresh    once more, with the Debian packages of today
#   docker/router/build.sh --check    only says whether it is there: exit code 0 or 1
#
#   SLIPWAY_ROUTER_IMAGE=name@sha256:…   take this image instead (from the engine or a registry): HAProxy 2.6 or later,
#                                        with `haproxy` on its path
#   SLIPWAY_DEBIAN_MIRROR=URL            packages from here, not from this machine's apt sources
#
# The recipe (bootstrap.sh, packages, ../base/sources.sh) is Debian 12's HAProxy and its libraries, and nothing else: no
# shell, no package manager, user 65532. The tag is the recipe's digest; the image's digest follows from the packages'
# bytes alone.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { printf '%s\n' "$*" >&2; }
fail() {
    say "router image: $*"
    exit 3
}
there() { docker image inspect "$1" >/dev/null 2>&1; }

command -v docker >/dev/null || fail "the docker command is missing; install docker.io (or docker-cli)"
docker version >/dev/null 2>&1 || fail "no Docker engine answers; start one, or run make setup as root"

if [[ -n ${SLIPWAY_ROUTER_IMAGE:-} ]]; then
    if [[ ${1:-} != --check ]] && ! there "$SLIPWAY_ROUTER_IMAGE"; then
        [[ $SLIPWAY_ROUTER_IMAGE == *@sha256:* ]] ||
            fail "SLIPWAY_ROUTER_IMAGE=$SLIPWAY_ROUTER_IMAGE is not in the engine, and only a reference by digest (name@sha256:…) is pulled"
        docker pull --quiet "$SLIPWAY_ROUTER_IMAGE" >&2 || fail "$SLIPWAY_ROUTER_IMAGE could not be pulled"
    fi
    there "$SLIPWAY_ROUTER_IMAGE" || exit 1
    printf '%s\n' "$SLIPWAY_ROUTER_IMAGE"
    exit 0
fi

recipe=$(cd "$here" && sha256sum bootstrap.sh packages ../base/sources.sh | sha256sum | cut -c1-12)
reference=slipway/router:$recipe

if [[ ${1:-} == --check ]]; then
    there "$reference" || exit 1
    printf '%s\n' "$reference"
    exit 0
fi

# Two callers at once: the second waits, and finds the image.
exec 9<"$here/packages"
flock 9

if [[ ${1:-} != --fresh ]] && there "$reference"; then
    printf '%s\n' "$reference"
    exit 0
fi

for command in mmdebstrap dpkg-deb apt-get; do
    command -v "$command" >/dev/null ||
        fail "$command is missing; install Debian's mmdebstrap, or set SLIPWAY_ROUTER_IMAGE to an image with HAProxy"
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
say "router image: Debian 12's HAProxy (about 10 s)"
started=$SECONDS
if ! "$here/bootstrap.sh" "$work" "$reference" >"$work/log" 2>&1; then
    tail -n 15 "$work/log" >&2
    fail "it could not be made; the last lines of mmdebstrap are above. Without a Debian mirror in reach, carry the image here with docker save and docker load"
fi
tar --create --file - --directory "$work" manifest.json config.json layer.tar | docker load --quiet >&2
say "router image: $reference, $(($(stat --format=%s "$work/layer.tar") / 1000000)) MB, after $((SECONDS - started)) s"
printf '%s\n' "$reference"
