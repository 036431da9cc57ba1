#!/usr/bin/env bash
# Trains every example; one whose artifacts are there already says so in a moment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
for script in examples/*/train.py; do
    .venv/bin/python "$script"
done
