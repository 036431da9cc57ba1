#!/usr/bin/env bash
# The whole suite; arguments go to pytest. Ends with pytest's own line and says where the rest is.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
home=${SLIPWAY_HOME:-$PWD/.slipway}
log=$home/logs/test.log
mkdir -p "$home/logs"
status=0
.venv/bin/python -m pytest "$@" 2>&1 | tee "$log" || status=$?
echo "All of it: $log"
exit "$status"
