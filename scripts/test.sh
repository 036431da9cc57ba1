#!/usr/bin/env bash
# The whole suite, in two processes (tests/conftest.py says which test may run beside which); arguments go to pytest
# instead, in one process. Ends with pytest's own line and says where the rest is.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
home=${SLIPWAY_HOME:-$PWD/.slipway}
log=$home/logs/test.log
mkdir -p "$home/logs"
(($#)) || set -- --numprocesses 2 --dist loadscope --quiet
status=0
.venv/bin/python -m pytest "$@" 2>&1 | tee "$log" || status=$?
echo "All of it: $log"
exit "$status"
