#!/usr/bin/env bash
# Runs the benchmarks named as arguments (`make bench` runs all): each prints its figures.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
shopt -s nullglob
scripts=("$@")
((${#scripts[@]})) || scripts=(benchmarks/*.py)
((${#scripts[@]})) || echo "benchmarks/ has none yet"
for script in "${scripts[@]}"; do
    echo "=== $script"
    .venv/bin/python "$script"
done
