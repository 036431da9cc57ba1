#!/usr/bin/env bash
# bootstrap.sh FOLDER REFERENCE [ARCHITECTURE]: writes the base image into FOLDER, in the form that `docker load` takes
# (manifest.json, config.json, layer.tar), to be named REFERENCE; for this machine's architecture, or another of Debian's.
# Part of the recipe: a change here is another base image.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$1
reference=$2
native=$(dpkg --print-architecture)
architecture=${3:-$native}
suite=bookworm
# 2026-01-01: no file in the image is younger, and the image says it was created then.
export SOURCE_DATE_EPOCH=1767225600

# Without any, mmdebstrap knows Debian's public mirrors.
"$here/sources.sh" "$suite" >"$work/sources.list"
mirror=()
[[ -s $work/sources.list ]] && mirror=("$work/sources.list")

# base-files for its licence texts alone (finish.sh)
included=$(sed '/^#/d' "$here/packages" | paste -sd,),base-files
if [[ $architecture == "$native" ]]; then compiler=; else compiler=$(command -v python3.11); fi
PACKAGES=$here/packages COMPILER=$compiler mmdebstrap --architectures="$architecture" --variant=extract \
    --format=tar --skip=cleanup/apt --include="$included" --extract-hook="$here/finish.sh" "$suite" - "${mirror[@]}" |
    mmtarfilter --path-exclude='/etc/apt*' --path-exclude='/var/lib/apt*' --path-exclude='/var/cache*' \
        --path-exclude='/sbin*' --path-exclude='/dev/*' >"$work/layer.tar"

# `docker import` would stamp the image with the time of day; a configuration written here does not.
layer=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
created=$(date --utc --date="@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)
printf '%s' '{"architecture":"'"$architecture"'","os":"linux","created":"'"$created"'","config":{"User":"65532:65532",' \
    '"WorkingDir":"/home/nonroot","Env":["PATH=/usr/local/bin:/usr/bin:/bin","LANG=C.UTF-8","HOME=/home/nonroot"],' \
    '"Cmd":["python3.11"],"Labels":{"org.opencontainers.image.title":"slipway base"}},' \
    '"rootfs":{"type":"layers","diff_ids":["sha256:'"$layer"'"]},' \
    '"history":[{"created":"'"$created"'","created_by":"docker/base/bootstrap.sh"}]}' >"$work/config.json"
printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$reference" >"$work/manifest.json"
