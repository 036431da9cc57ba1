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

lock() { # lock FILE.in: written aside, so that a failed resolution leaves the lock as it was
    local source=$1 target=${1%.in}.txt aside
    aside=$(mktemp --suffix=.txt)
    if [[ -f $target ]]; then cp "$target" "$aside"; fi
    echo "lock: $source → $target"
    .venv/bin/uv pip compile "${options[@]}" "$source" --output-file "$aside"
    cat "$aside" >"$target"
    rm "$aside"
}

shopt -s nullglob
for source in requirements.in scripts/bootstrap.in docker/runtimes/*/requirements.in; do
    lock "$source"
done
