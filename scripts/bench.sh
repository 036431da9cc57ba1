#!/usr/bin/env bash
# Runs the benchmarks named as arguments, by name or path: each prints its figures. `make bench` runs all but the one of
# a model above 2 GB, which takes many minutes and 25 GB of disk, and the serving peers (`make bench-serving`).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if (($#)); then
    scripts=("$@")
else
    scripts=()
    for script in benchmarks/*.py; do
        [[ $script == */large_model.py ]] || scripts+=("$script")
    done
fi
for script in "${scripts[@]}"; do
    name=$(basename "$script" .py)
    echo "=== benchmarks/$name"
    .venv/bin/python -m "benchmarks.$name"
done
