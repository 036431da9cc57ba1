#!/usr/bin/env bash
# What examples/score-in-node needs, from the npm registry: into $SLIPWAY_HOME/node, every package held against the hash
# in package-lock.json. Does nothing where it is there. Prints the folder.
#
#   scripts/node.sh            brings what is missing
#   scripts/node.sh --check    only says by its exit code whether everything is there
#
#   SLIPWAY_HOME   .slipway/   node/ has the packages and the script; node/cache what was downloaded
#
# Without network: run this on a machine with one, and carry node/cache over; what is in it is not asked for again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
example=$PWD/examples/score-in-node
folder=${SLIPWAY_HOME:-$PWD/.slipway}/node
key=$(sha256sum <"$example/package-lock.json")
is_installed() { [[ -f $folder/.installed && $(<"$folder/.installed") == "$key" ]]; }
if [[ ${1:-} == --check ]]; then
    is_installed
    exit
fi
for command in node npm; do
    if ! command -v "$command" >/dev/null; then
        echo "node.sh: $command is missing: install Debian's nodejs and npm (scripts/setup.sh --tests does)" >&2
        exit 3
    fi
done
mkdir -p "$folder"
exec 9>"$folder/.lock"
flock 9
cp "$example"/{package.json,package-lock.json,score.mjs} "$folder/"
if ! is_installed; then
    rm -f "$folder/.installed"
    # No package's own scripts are run.
    if ! npm ci --prefix "$folder" --cache "$folder/cache" --prefer-offline --ignore-scripts --no-audit --no-fund >&2; then
        echo "node.sh: npm could not install examples/score-in-node/package-lock.json, and says why above. Without" \
            "network: run scripts/node.sh where there is one, and carry \$SLIPWAY_HOME/node/cache over." >&2
        exit 3
    fi
    echo "$key" >"$folder/.installed"
fi
(cd "$folder" && pwd)
