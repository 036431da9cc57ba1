#!/usr/bin/env bash
# Brings a machine to where everything runs: Debian packages, a Docker engine, .venv, base and router image. Says what it
# does, does only what is missing, and can be stopped and started again at any point.
#
#   scripts/setup.sh            what `make setup` runs
#   scripts/setup.sh --tests    also what only tests use: a browser that looks at Airflow's pages, Node with a runtime
#                               that scores a bundle
#   scripts/setup.sh --bench    also what only benchmarks use: a load generator
#
#   SLIPWAY_HOME      .slipway/   logs of what setup ran
#   SLIPWAY_PYTHON    python3.11  the Python that .venv is made from
#   SLIPWAY_WHEELS    none        a folder of wheels (`make wheels`): then no package index is asked
#   DOCKER_HOST       an engine elsewhere; it must answer, none is started
#   SLIPWAY_BASE_IMAGE, SLIPWAY_DEBIAN_MIRROR: docker/base/README.md; SLIPWAY_ROUTER_IMAGE: docker/router/README.md
#
# Exit code 3: this machine lacks something that setup may not or cannot bring. One sentence per thing says what to do.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PATH:/usr/sbin:/sbin
home=${SLIPWAY_HOME:-$PWD/.slipway}
log=$home/logs/setup.log
stamp=.venv/.slipway
installing=.venv/.slipway-installing
with_tests=false
[[ ${1:-} == --tests ]] && with_tests=true
with_bench=false
[[ ${1:-} == --bench ]] && with_bench=true
worked=false

say() { printf 'setup: %s\n' "$*"; }
fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 3
}
has() { command -v "$1" >/dev/null 2>&1; }
elapsed() { printf '%s s' "$((SECONDS - $1))"; }

# step WHAT COMMAND…: output goes to the log; on the terminal what it is, a sign of life, and how long it took.
child=
step() {
    local what=$1 since=$SECONDS said=$SECONDS
    shift
    worked=true
    say "$what …"
    printf '\n=== %s: %s\n' "$(date '+%F %T')" "$*" >>"$log"
    "$@" >>"$log" 2>&1 &
    child=$!
    while kill -0 "$child" 2>/dev/null; do
        sleep 0.2
        if ((SECONDS - said >= 10)); then
            said=$SECONDS
            say "  $(elapsed "$since"): $(tail -n 5 "$log" | tr '\r' '\n' | sed '/^ *$/d' | tail -n 1 | cut -c1-100)"
        fi
    done
    if ! wait "$child"; then
        child=
        tail -n 15 "$log" >&2
        fail "$what: failed after $(elapsed "$since"). The end of $log is above."
    fi
    child=
    say "  done in $(elapsed "$since")"
}
# Background children of a script ignore Ctrl-C by themselves.
trap '[[ -z $child ]] || kill "$child" 2>/dev/null || true' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

mkdir -p "$home/logs"
[[ $(uname -sm) == "Linux x86_64" ]] || fail "The locked environment is for Linux on x86_64; this is $(uname -sm)."

# Two at once: the second waits, and then finds nothing to do. A command of a killed setup holds the lock until it ends.
exec 9<scripts/setup.sh
if ! flock --nonblock 9; then
    say "waiting for another setup of this checkout"
    flock 9
fi

# --- What is there ----------------------------------------------------------------------------------------------------

python=
find_python() {
    local candidate
    for candidate in "${SLIPWAY_PYTHON:-python3.11}" python3.11 python3 /usr/bin/python3.11; do
        if "$candidate" -c 'import sys, venv, ensurepip, ssl, sqlite3, ctypes; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            python=$candidate
            return
        fi
    done
    return 1
}

engine_answers() { timeout 20 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

environment_key() {
    sha256sum requirements.txt scripts/bootstrap.txt pyproject.toml 2>/dev/null
    .venv/bin/python -c 'import sys; print(sys.version, sys.prefix)' 2>/dev/null
}
environment_is_ready() { [[ -f $stamp && ! -e $installing && $(<"$stamp") == "$(environment_key)" ]]; }

# --- Debian packages --------------------------------------------------------------------------------------------------

packages=()  # what apt is asked for, where it may be
sentences=() # what to do by hand where not
wishes=()    # the same for what one format or one test needs
need() {
    packages+=("$1")
    sentences+=("$2")
}
wish() {
    packages+=("$1")
    wishes+=("$2")
}

look() {
    packages=() sentences=() wishes=()
    if ! environment_is_ready && ! find_python; then
        need python3.11-venv "Python 3.11 with venv and ensurepip is missing: install Debian's python3.11 and python3.11-venv, or name one in SLIPWAY_PYTHON."
    fi
    if ! has docker; then
        need docker.io "The docker command is missing: install Debian's docker.io, or Docker's own packages."
    elif ! engine_answers; then
        look_for_engine
    fi
    has qemu-x86_64-static ||
        need qemu-user-static "qemu-user-static, which proves older processors by emulation, is missing: install Debian's qemu-user-static."
    if [[ -z ${SLIPWAY_BASE_IMAGE:-} ]] && ! has mmdebstrap && ! docker/base/build.sh --check >/dev/null 2>&1; then
        need mmdebstrap "mmdebstrap, which makes the base image, is missing: install Debian's mmdebstrap, or name an image in SLIPWAY_BASE_IMAGE."
    elif [[ -z ${SLIPWAY_ROUTER_IMAGE:-} ]] && ! has mmdebstrap && ! docker/router/build.sh --check >/dev/null 2>&1; then
        wish mmdebstrap "mmdebstrap, which makes the router's image, is missing: nothing can be released here. Install Debian's mmdebstrap, or name an image in SLIPWAY_ROUTER_IMAGE."
    fi
    has g++ || wish g++ "g++ is missing, which compiles models and the tool that hides features of a processor: the format torch-aoti cannot be made, and other AVX-512 processors than this one are not proven. Install Debian's g++."
    if $with_bench && ! has wrk; then
        wish wrk "wrk is missing: threads of Python ask instead, which ask less fast than some servers answer. Install Debian's wrk."
    fi
    $with_tests || return 0
    has chromium || wish chromium "chromium is missing: the test that looks at Airflow's pages is skipped."
    has node || wish nodejs "node is missing: the tests that score a bundle in JavaScript fail. Install Debian's nodejs."
    has npm || wish npm "npm is missing: the tests that score a bundle in JavaScript fail. Install Debian's npm."
    has docker-registry || wish docker-registry "docker-registry is missing, to which the tests push images: install Debian's docker-registry."
    has prometheus || wish prometheus "prometheus is missing, from which the tests read a release's counts: install Debian's prometheus."
    has docker-compose || wish docker-compose "docker-compose is missing: the test that starts a written compose.yaml fails. Install Debian's docker-compose."
    has chromedriver || wish chromium-driver "chromedriver (Debian's chromium-driver) is missing: the test that looks at Airflow's pages is skipped."
}

look_for_engine() {
    local socket=/var/run/docker.sock
    if [[ -n ${DOCKER_HOST:-} ]]; then
        sentences+=("DOCKER_HOST=$DOCKER_HOST names a Docker engine that does not answer: start it, or unset DOCKER_HOST.")
    elif [[ -S $socket && ! -w $socket ]]; then
        sentences+=("The Docker engine's $socket is not open to $(id -un): add the user to the group docker, or run as root.")
    elif ((EUID != 0)); then
        sentences+=("No Docker engine answers, and only root may start one: start it (systemctl start docker), or run make setup as root.")
    else
        has dockerd || need docker.io "No Docker engine answers and there is none to start: install Debian's docker.io."
        has iptables || need iptables "The Docker engine needs iptables: install Debian's iptables."
    fi
}

install_packages() {
    export DEBIAN_FRONTEND=noninteractive
    # A dpkg that was stopped in the middle does nothing before this.
    if [[ -n $(dpkg --audit) ]]; then dpkg --configure -a; fi
    apt-get -o DPkg::Lock::Timeout=300 update
    apt-get -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends "$@"
    # Debian starts these on every address as soon as they are installed; the tests start their own on loopback.
    local service
    for service in docker-registry prometheus; do
        if [[ " $* " == *" $service "* && -d /run/systemd/system ]]; then systemctl disable --now "$service"; fi
    done
}

look
if ((${#packages[@]} && EUID == 0)) && has apt-get; then
    step "Debian packages: ${packages[*]}" install_packages "${packages[@]}" 9<&-
    hash -r
    look
fi
for sentence in "${sentences[@]}" "${wishes[@]}"; do
    printf 'setup: %s\n' "$sentence" >&2
done
((${#sentences[@]} == 0)) || exit 3

# --- Docker engine ----------------------------------------------------------------------------------------------------

start_engine() {
    local engine_log=$home/logs/dockerd.log engine
    if [[ -d /run/systemd/system ]]; then
        systemctl start docker && return
    fi
    setsid dockerd >"$engine_log" 2>&1 </dev/null 9<&- &
    engine=$!
    until engine_answers; do
        if ! kill -0 "$engine" 2>/dev/null; then
            tail -n 10 "$engine_log"
            return 1
        fi
        if ((SECONDS - since > 60)); then
            tail -n 10 "$engine_log"
            echo "dockerd (process $engine) does not answer after 60 s"
            return 1
        fi
        sleep 0.2
    done
}

engine_answers || step "Docker engine: starting dockerd" start_engine

# --- .venv ------------------------------------------------------------------------------------------------------------

# pip's settings for people behind a mirror hold for uv as well; uv separates links by commas.
if [[ -n ${PIP_FIND_LINKS:-} ]]; then export UV_FIND_LINKS=${UV_FIND_LINKS:-${PIP_FIND_LINKS// /,}}; fi
if [[ -n ${PIP_INDEX_URL:-} ]]; then export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}; fi

has_torch_wheel() {
    local folder
    for folder in ${UV_FIND_LINKS//,/ }; do
        compgen -G "${folder#file://}/torch-*+cpu-cp311-*.whl" >/dev/null && return
    done
    return 1
}

install_environment() {
    local from=()
    if [[ -n ${SLIPWAY_WHEELS:-} ]]; then
        from=(--no-index --find-links "$SLIPWAY_WHEELS")
    elif [[ -z ${UV_FIND_LINKS:-} ]] || ! has_torch_wheel; then
        # PyPI's torch brings gigabytes of CUDA; PyTorch's own index has the build for the CPU.
        from=(--torch-backend=cpu)
    fi
    mkdir -p .venv
    touch "$installing"
    .venv/bin/python -c '' 2>/dev/null || "$python" -m venv --clear .venv
    touch "$installing"
    .venv/bin/python -m pip install --disable-pip-version-check --no-deps --require-hashes --requirement scripts/bootstrap.txt \
        ${SLIPWAY_WHEELS:+--no-index --find-links "$SLIPWAY_WHEELS"}
    export UV_PYTHON=.venv/bin/python
    .venv/bin/uv pip install --require-hashes "${from[@]}" --requirement requirements.txt
    .venv/bin/uv pip install --no-build-isolation --no-deps --offline --editable .
    # Now (but for libraries' own tests) and not at first use: where Python may not write bytecode, every start of a task would compile for seconds.
    echo "Compiling bytecode"
    .venv/bin/python -m compileall -qq -j 0 -x '/tests?/' .venv/lib/python3.11/site-packages ||
        echo "Some files are templates or for other Pythons, and are left as they are"
    environment_key >"$stamp"
    rm "$installing"
}

if ! environment_is_ready; then
    find_python || fail "Python 3.11 is gone."
    if [[ -e $installing ]]; then
        say ".venv: an installation was interrupted; starting over"
        rm -rf .venv
    elif [[ -f $stamp && $(<"$stamp") != *" $PWD/.venv" ]]; then
        say ".venv: it was made for another folder; starting over"
        rm -rf .venv
    fi
    step ".venv: the locked packages, with bytecode (3 GB; minutes where nothing is cached)" install_environment
fi

# --- Base image -------------------------------------------------------------------------------------------------------

docker/base/build.sh --check >/dev/null 2>&1 || step "Base image: Debian's Python 3.11" docker/base/build.sh

# --- Router image -----------------------------------------------------------------------------------------------------

# Packaging does without it: whoever only packages need not bring it.
try_router() { docker/router/build.sh || true; }
if ! docker/router/build.sh --check >/dev/null 2>&1; then
    step "Router image: Debian's HAProxy" try_router
    docker/router/build.sh --check >/dev/null 2>&1 ||
        say "the router's image could not be made: nothing can be released here. $log says why; docker/router/README.md says what else there is."
fi

# --- Node -------------------------------------------------------------------------------------------------------------

try_node() { scripts/node.sh || true; }
if $with_tests && has node && has npm && ! scripts/node.sh --check; then
    step "Node: onnxruntime-web from the npm registry (150 MB)" try_node
    scripts/node.sh --check ||
        say "onnxruntime-web could not be installed: the tests that score a bundle in JavaScript fail. $log says why; without network, carry $home/node/cache over from a machine that ran scripts/node.sh."
fi

if $worked; then say "ready after $(elapsed 0)"; else say "everything is there"; fi
