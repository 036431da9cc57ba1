#!/usr/bin/env bash
# Resolves what is asked for (*.in) into what is installed (*.txt, every wheel by hash). Versions stay as they are
# unless UPGRADE=1. The locks name no place on this machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ -n ${PIP_FIND_LINKS:-} ]]; then export UV_FIND_LINKS=${UV_FIND_LINKS:-${PIP_FIND_LINKS// /,}}; fi
options=(--quiet --generate-hashes --custom-compile-command "make lock" --python-version 3.11)
[[ -z ${UPGRADE:-} ]] || options+=(--upgrade)
# Without a folder that holds the wheel of torch for the CPU: PyTorch's own index.
[[ -n ${UV_FIND_LINKS:-} ]] || options+=(--torch-backend=cpu)

lock() { # lock FILE.in OPTION…: written aside, so that a failed resolution leaves the lock as it was
    local source=$1 target=${1%.in}.txt aside
    shift
    aside=$(mktemp --suffix=.txt)
    if [[ -f $target ]]; then cp "$target" "$aside"; fi
    echo "lock: $source → $target"
    .venv/bin/uv pip compile "${options[@]}" "$@" "$source" --output-file "$aside"
    cat "$aside" >"$target"
    rm "$aside"
}

# subset FILE.in: the packages that it names, and no other, exactly as requirements.txt has them: an image runs what
# parity ran, and holds nothing that it never imports.
subset() {
    local source=$1 target=${1%.in}.txt names
    names=$(sed '/^#/d; /^$/d' "$source" | sort)
    echo "lock: $source → $target"
    awk -v names="$names" '
        BEGIN { print "# Taken from requirements.txt by:\n#    make lock"; split(names, list); for (i in list) want[list[i]] }
        /^[^ #]/ { split($0, pin, "=="); keep = pin[1] in want; delete want[pin[1]] }
        keep && !/^ *#/
        END { for (name in want) { print "lock: requirements.txt has no " name >"/dev/stderr"; exit 1 } }
    ' requirements.txt >"$target"
}

for source in requirements.in scripts/bootstrap.in; do
    lock "$source"
done
# What the serving image is compared with: versions are enough there, nothing of it is shipped.
for source in benchmarks/serving/peers/*/requirements.in; do
    lock "$source" --no-generate-hashes --no-annotate
done
for source in docker/runtimes/*/requirements.in docker/runtimes/extras/*/requirements.in; do
    subset "$source"
done
