#!/usr/bin/env bash
# bootstrap.sh FOLDER REFERENCE: writes the router's image into FOLDER, in the form that `docker load` takes
# (manifest.json, config.json, layer.tar), to be named REFERENCE. Part of the recipe: a change here is another image.
#
# apt resolves and verifies the packages, in a root that is thrown away; the image gets the files of those that
# `packages` names, without running any of their scripts.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$1
reference=$2
suite=bookworm
# 2026-01-01: no file in the image is younger, and the image says it was created then.
export SOURCE_DATE_EPOCH=1767225600

"$here/../base/sources.sh" "$suite" >"$work/sources.list"
mirror=()
[[ -s $work/sources.list ]] && mirror=("$work/sources.list")
mapfile -t packages < <(sed '/^#/d' "$here/packages")

mkdir "$work/archives" "$work/root"
mmdebstrap --variant=extract --format=null --skip=cleanup/apt --include="$(IFS=,; echo "${packages[*]}")" \
    --extract-hook="copy-out /var/cache/apt/archives $work/archives" "$suite" - "${mirror[@]}"

# Unpacked, with their control data where vulnerability scanners and SBOM tools look for it in images without dpkg
# (status.d), and the archive's digest as apt's lists name it.
root=$work/root
mkdir -p "$root/var/lib/dpkg/status.d"
for package in "${packages[@]}"; do
    archive=$(find "$work/archives" -name "${package}_*.deb")
    if [[ ! -f $archive ]]; then
        echo "docker/router/packages names $package, which apt did not bring" >&2
        exit 1
    fi
    dpkg-deb --extract "$archive" "$root"
    {
        dpkg-deb --field "$archive"
        echo "SHA256: $(sha256sum "$archive" | cut -d' ' -f1)"
    } >"$root/var/lib/dpkg/status.d/$package"
done

# What a server does not use; licences stay.
rm -rf "$root"/etc/* "$root"/lib/systemd "$root"/usr/lib/systemd "$root"/usr/share/{man,info,locale,lintian,bug,doc-base,gcc,gdb} \
    "$root"/usr/lib/*/gconv "$root"/var/lib/haproxy "$root"/usr/bin "$root"/sbin
find "$root/usr/share/doc" -mindepth 2 \( -type f -o -type l \) ! -name copyright -delete
cat >"$root/etc/passwd" <<'PASSWD'
root:x:0:0:root:/:/sbin/nologin
nonroot:x:65532:65532:nonroot:/:/sbin/nologin
PASSWD
cat >"$root/etc/group" <<'GROUP'
root:x:0:
nonroot:x:65532:
GROUP
cat >"$root/etc/os-release" <<'RELEASE'
PRETTY_NAME="Slipway router (Debian GNU/Linux 12)"
ID=debian
VERSION_ID="12"
VERSION_CODENAME=bookworm
RELEASE
find "$root" -depth -mindepth 1 -type d -empty -delete
mkdir -p "$root/proc" "$root/sys" "$root/dev" "$root/run" "$root/tmp"
chmod 1777 "$root/tmp"

tar --create --file "$work/layer.tar" --directory "$root" --sort=name --format=gnu --numeric-owner --owner=0 --group=0 \
    --mtime="@$SOURCE_DATE_EPOCH" .
layer=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
created=$(date --utc --date="@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)
printf '%s' '{"architecture":"'"$(dpkg --print-architecture)"'","os":"linux","created":"'"$created"'","config":' \
    '{"User":"65532:65532","Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"],"Entrypoint":["haproxy"],"StopSignal":"SIGUSR1",' \
    '"Labels":{"org.opencontainers.image.title":"slipway router"}},' \
    '"rootfs":{"type":"layers","diff_ids":["sha256:'"$layer"'"]},' \
    '"history":[{"created":"'"$created"'","created_by":"docker/router/bootstrap.sh"}]}' >"$work/config.json"
printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$reference" >"$work/manifest.json"
