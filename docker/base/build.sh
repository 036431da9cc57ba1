#!/usr/bin/env bash
# Brings the base image that every runtime image starts from, and prints its reference as the last line of stdout.
#
#   docker/base/build.sh            nothing to do where the image of this recipe is there already
#   docker/base/build.sh --fresh    once more, with the Debian packages of today
#   docker/base/build.sh --check    only says whether it is there: exit code 0 or 1
#   docker/base/build.sh --architecture arm64    the same for another architecture of Debian's (needs a python3.11 here)
#
#   SLIPWAY_BASE_IMAGE=name@sha256:…   take this image instead (from the engine or a registry)
#   SLIPWAY_DEBIAN_MIRROR=URL          packages from here, not from this machine's apt sources
#
# The recipe (bootstrap.sh, finish.sh, sources.sh, packages) is Debian 12's Python and its libraries, and nothing else: no shell,
# no package manager, user 65532. The tag is the recipe's digest; the image's digest follows from the packages' bytes
# alone, so two machines with the same packages get the same image.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { printf '%s\n' "$*" >&2; }
fail() {
    say "base image: $*"
    exit 3
}

architecture=
if [[ ${1:-} == --architecture ]]; then
    architecture=${2:?--architecture needs a name that Debian uses, like arm64}
    shift 2
    [[ -z ${SLIPWAY_BASE_IMAGE:-} ]] || fail "SLIPWAY_BASE_IMAGE names an image of one architecture, and none of $architecture is made beside it"
    command -v python3.11 >/dev/null || fail "python3.11 is missing, which compiles the library of an image that does not run here"
fi

command -v docker >/dev/null || fail "the docker command is missing; install docker.io (or docker-cli)"
docker version >/dev/null 2>&1 || fail "no Docker engine answers; start one, or run make setup as root"

if [[ -n ${SLIPWAY_BASE_IMAGE:-} ]]; then
    if [[ ${1:-} == --check ]]; then
        docker image inspect "$SLIPWAY_BASE_IMAGE" >/dev/null 2>&1 || exit 1
        printf '%s\n' "$SLIPWAY_BASE_IMAGE"
        exit 0
    fi
    if ! docker image inspect "$SLIPWAY_BASE_IMAGE" >/dev/null 2>&1; then
        [[ $SLIPWAY_BASE_IMAGE == *@sha256:* ]] ||
            fail "SLIPWAY_BASE_IMAGE=$SLIPWAY_BASE_IMAGE is not in the engine, and only a reference by digest (name@sha256:…) is pulled"
        say "base image: pulling $SLIPWAY_BASE_IMAGE"
        docker pull --quiet "$SLIPWAY_BASE_IMAGE" >&2 || fail "$SLIPWAY_BASE_IMAGE could not be pulled"
    fi
    docker run --rm --network none --entrypoint python3.11 "$SLIPWAY_BASE_IMAGE" -c 'import ssl, ctypes, sqlite3' >&2 ||
        fail "$SLIPWAY_BASE_IMAGE does not run python3.11 with its standard library"
    printf '%s\n' "$SLIPWAY_BASE_IMAGE"
    exit 0
fi

recipe=$(cd "$here" && sha256sum bootstrap.sh finish.sh packages sources.sh | sha256sum | cut -c1-12)
reference=slipway/base:$recipe${architecture:+-$architecture}

if [[ ${1:-} == --check ]]; then
    docker image inspect "$reference" >/dev/null 2>&1 || exit 1
    printf '%s\n' "$reference"
    exit 0
fi

# Two callers at once: the second waits, and finds the image.
exec 9<"$here/packages"
flock 9

if [[ ${1:-} != --fresh ]] && docker image inspect "$reference" >/dev/null 2>&1; then
    printf '%s\n' "$reference"
    exit 0
fi

for command in mmdebstrap dpkg-deb apt-get; do
    command -v "$command" >/dev/null ||
        fail "$command is missing; install Debian's mmdebstrap, or set SLIPWAY_BASE_IMAGE to an image with Python 3.11"
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
say "base image: bootstrapping Debian 12 with Python 3.11 (about 15 s)"
started=$SECONDS
if ! "$here/bootstrap.sh" "$work" "$reference" ${architecture:+"$architecture"} >"$work/log" 2>&1; then
    tail -n 15 "$work/log" >&2
    fail "it could not be made; the last lines of mmdebstrap are above. Without a Debian mirror in reach, carry the image here with docker save and docker load"
fi
tar --create --file - --directory "$work" manifest.json config.json layer.tar | docker load --quiet >&2
say "base image: $reference, $(($(stat --format=%s "$work/layer.tar") / 1000000)) MB, after $((SECONDS - started)) s"
printf '%s\n' "$reference"
