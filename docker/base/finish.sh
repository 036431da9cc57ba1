#!/bin/sh
# Turns what mmdebstrap unpacked into the base image's root. Runs on the building machine as mmdebstrap's
# extract hook: $1 is the root; PACKAGES names the file with the list of packages that stay, COMPILER a Python 3.11 of
# this machine where the root's own does not run on it.
set -eu
root=$1

keep=$(sed '/^#/d' "$PACKAGES")
stays() {
    for name in $keep; do
        [ "$name" = "$1" ] && return 0
    done
    return 1
}

# Files of packages that apt wanted and the image does not (dpkg, tar, Kerberos, …), but for the licences that others'
# copyright files refer to; and for those that stay, their control data where vulnerability scanners and SBOM tools look
# for it in images without dpkg (status.d), with the archive's digest as apt's lists name it.
mkdir -p "$root/var/lib/dpkg/status.d"
for archive in "$root"/var/cache/apt/archives/*.deb; do
    name=$(dpkg-deb -f "$archive" Package)
    if stays "$name"; then
        {
            dpkg-deb -f "$archive"
            echo "SHA256: $(sha256sum "$archive" | cut -d' ' -f1)"
        } >"$root/var/lib/dpkg/status.d/$name"
    else
        dpkg-deb --fsys-tarfile "$archive" | tar --list --file - | grep -v '/usr/share/common-licenses/' | while read -r path; do
            if [ -h "$root/$path" ] || [ ! -d "$root/$path" ]; then rm -f "$root/$path"; fi
        done
    fi
done
for name in $keep; do
    if [ ! -f "$root/var/lib/dpkg/status.d/$name" ]; then
        echo "docker/base/packages names $name, which apt did not bring" >&2
        exit 1
    fi
done

# dpkg's state (apt's goes in build.sh: mmdebstrap itself still wants it), documentation apart from licences, character sets other than UTF-8.
find "$root/var/lib/dpkg" -mindepth 1 -maxdepth 1 ! -name status.d -exec rm -rf {} +
rm -rf "$root/etc/dpkg" "$root/etc/cron.daily" "$root/etc/logrotate.d" "$root/etc/alternatives" \
    "$root/etc/gss" "$root/etc/netconfig" "$root/etc/hostname" "$root/etc/resolv.conf" "$root/etc/fstab" \
    "$root/var/log" "$root/usr/share/man" "$root/usr/share/info" "$root/usr/share/locale" \
    "$root/usr/share/lintian" "$root/usr/share/bug" "$root/usr/share/perl5" "$root/usr/share/polkit-1" \
    "$root/usr/share/gdb" "$root/usr/share/gcc" "$root/usr/share/binfmts" "$root/usr/lib/binfmt.d" "$root/lib/systemd"
# (A package whose documentation is a link has its copyright there.)
find "$root/usr/share/doc" -mindepth 2 \( -type f -o -type l \) ! -name copyright -delete
rm -rf "$root"/usr/lib/*/gconv

# The parts of Python that a server never uses, and the extension modules whose libraries went above.
python=$root/usr/lib/python3.11
rm -rf "$python/pydoc_data" "$python/lib2to3" "$python/turtledemo" "$python/turtle.py" "$python/test" "$python/unittest/test"
for module in _curses _curses_panel _dbm _testbuffer _testcapi _testclinic _testimportmultiple _testinternalcapi \
    _testmultiphase _xxtestfuzz nis readline xxlimited xxlimited_35; do
    rm -f "$python/lib-dynload/$module".*
done
rm -f "$python/sitecustomize.py" "$root/etc/python3.11/sitecustomize.py" # Ubuntu's crash reporter
ln -sf python3.11 "$root/usr/bin/python3"
ln -sf python3.11 "$root/usr/bin/python"

# The only ones on the machine: root, who owns the files, and the user who runs.
cat >"$root/etc/passwd" <<'PASSWD'
root:x:0:0:root:/:/sbin/nologin
nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin
PASSWD
cat >"$root/etc/group" <<'GROUP'
root:x:0:
nonroot:x:65532:
GROUP
cat >"$root/etc/os-release" <<'RELEASE'
PRETTY_NAME="Slipway base (Debian GNU/Linux 12)"
ID=debian
VERSION_ID="12"
VERSION_CODENAME=bookworm
RELEASE
mkdir -p "$root/home/nonroot" "$root/tmp"
chown 65532:65532 "$root/home/nonroot"
chmod 1777 "$root/tmp"

# Bytecode now, because the root is read-only later: it halves the interpreter's start. Hash-based, so that no
# time stamp enters the image; in the sources' place, which are a fifth of the image and which nobody reads in it:
# tracebacks name file, line and function without them.
export PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=''
if [ -n "${COMPILER:-}" ]; then # bytecode is the same on every architecture
    "$COMPILER" -m compileall -q -b --invalidation-mode unchecked-hash -s "$root" -p / "$python"
else
    chroot "$root" /usr/bin/python3.11 -m compileall -q -b --invalidation-mode unchecked-hash /usr/lib/python3.11
fi
find "$python" -name '*.py' | while read -r source; do
    if [ -f "${source}c" ]; then rm "$source"; fi
done
find "$python" -name __pycache__ -prune -exec rm -r {} +
find "$root/usr" -depth -type d -empty -delete
find "$root" -mindepth 1 -maxdepth 1 -type d -empty -delete
mkdir -p "$root/proc" "$root/sys" "$root/run" "$root/var/tmp"
chmod 1777 "$root/var/tmp"
