#!/usr/bin/env bash
# Downloads every wheel that the locks name into a folder (default .wheels/), by hash. On the machine without network:
# SLIPWAY_WHEELS=<folder> make setup.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=${1:-.wheels}
index=()
[[ -n ${PIP_FIND_LINKS:-} ]] || index=(--extra-index-url https://download.pytorch.org/whl/cpu)
mkdir -p "$folder"
shopt -s nullglob
for lock in scripts/bootstrap.txt requirements.txt docker/runtimes/*/requirements.txt; do
    echo "wheels: $lock → $folder"
    # PyTorch's index only adds to what is configured; where a folder of links has the wheel, it is not needed.
    .venv/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --require-hashes --requirement "$lock" --dest "$folder" --find-links "$folder" \
        "${index[@]}"
done
echo "wheels: $(find "$folder" -name '*.whl' | wc -l) files, $(du -sh "$folder" | cut -f1)"
