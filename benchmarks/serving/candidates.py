"""Slipway's server and its peers: how each is installed, started and asked.

Each has an environment of its own below SLIPWAY_HOME, installed from the lock beside it: Slipway from the lock of its
ONNX image, so that the same versions run as in the image. Every server is one process (with whatever workers it starts
by itself: one), has the same cores, and gives onnxruntime one thread for each. Access logs are off, everywhere.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from benchmarks.serving.figures import NotMeasured
from benchmarks.serving.machine import Children, on_cores
from benchmarks.serving.models import Model, package
from benchmarks.serving.wire import (
    BENTOML,
    LITSERVE,
    MLFLOW,
    OIP_BINARY,
    OIP_JSON,
    Answer,
    Client,
    Message,
    NotHttp,
    Wire,
)
from tasks.image.libraries import locked_versions

_ROOT = Path(__file__).parents[2]
_PEERS = Path(__file__).with_name("peers")
#: A peer that does not answer within this is reported as broken.
_START_S = 90.0
#: What comes of asking a server that is not up yet, or not yet the model's.
_NOT_YET = (OSError, NotHttp, ValueError, KeyError, TypeError)
#: Short against any start, and long enough to leave a starting server its time.
_ASK_AGAIN_S = 0.005


@dataclass(frozen=True, slots=True)
class Candidate:
    """One server. `lock` is what its environment is installed from; `wires` are the formats that it is asked in, the
    best first. `command` gets the Python, the model and the port."""

    name: str
    lock: Path
    wires: tuple[Wire, ...]
    command: Callable[[Home, Model, int], list[str]]
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_ours(self) -> bool:
        return self.name.startswith("Slipway")

    @property
    def title(self) -> str:
        """Name and version."""
        if self.is_ours:
            return self.name
        name = self.lock.parent.name
        known, _, setting = self.name.partition(",")
        return f"{known} {locked_versions(self.lock)[name]}" + (f",{setting}" if setting else "")


@dataclass(frozen=True, slots=True)
class Home:
    """Where the benchmark keeps its environments, models and logs, and the processes that it started."""

    folder: Path
    children: Children

    @property
    def models(self) -> Path:
        return _made(self.folder / "models")

    def environment_of(self, lock: Path) -> Path:
        """The environment of a lock, installed unless it is there already.

        Raises:
            NotMeasured: with the installer's last line.
        """
        key = sha256(lock.read_bytes()).hexdigest()[:12]
        target = self.folder / "environments" / f"{lock.parent.name}-{key}"
        if not (target / "installed").is_file():
            uv = Path(sys.executable).with_name("uv")
            hashes = ["--require-hashes"] if "--hash" in lock.read_text() else []
            _install([str(uv), "venv", "--quiet", "--clear", "--python", "3.11", str(target)])
            python = str(target / "bin" / "python")
            into = ["--no-deps", *hashes, "--compile-bytecode", "--python", python]
            _install([str(uv), "pip", "install", "--quiet", *into, "--requirement", str(lock)])
            (target / "installed").touch()
            for former in set(target.parent.glob(f"{lock.parent.name}-*")) - {target}:
                shutil.rmtree(former)
        return target

    def python(self, lock: Path) -> Path:
        return self.environment_of(lock) / "bin" / "python"


@dataclass(frozen=True, slots=True)
class Running:
    """A started server that gave a right answer."""

    candidate: Candidate
    port: int
    pid: int
    started_s: float

    def message(self, model: Model, rows: int, wire: Wire | None = None) -> Message:
        return (wire or self.candidate.wires[0]).encode(model, model.rows(rows))


def slipway(name: str = "Slipway", **environment: str) -> Candidate:
    """Slipway's own server; `environment` is what differs from how an image starts it."""

    def command(home: Home, model: Model, port: int) -> list[str]:
        folder = home.models / f"package-{model.path.stem}"
        return [
            str(home.python(lock)), "-m", "serving",
            "--package", str(folder), "--host", "127.0.0.1", "--port", str(port), "--grpc-port", str(port + 1),
        ]  # fmt: skip

    lock = _ROOT / "docker" / "runtimes" / "onnx" / "requirements.txt"
    paths = {"PYTHONPATH": str(_ROOT / "docker")}
    return Candidate(name, lock, (OIP_BINARY, OIP_JSON), command, {**paths, **environment})


def _peer(name: str, wire: Wire, **environment: str) -> Candidate:
    folder = _PEERS / name.split(",", maxsplit=1)[0].lower()
    lock = folder / "requirements.txt"

    def command(home: Home, model: Model, port: int) -> list[str]:
        return [str(home.python(lock)), str(folder / "server.py")]

    return Candidate(name, lock, (wire,), command, {"PYTHONPATH": str(folder), **environment})


SLIPWAY = slipway()
#: What one would pick instead. The switches turn off access logs and usage reports.
PEERS = (
    _peer("MLServer", OIP_JSON),
    _peer(
        "BentoML",
        BENTOML,
        BENTOML_DO_NOT_TRACK="True",
        BENTOML_CONFIG_OPTIONS="api_server.logging.access.enabled=false",
    ),
    _peer("LitServe", LITSERVE),
    _peer("MLflow", MLFLOW, UVICORN_LOG_LEVEL="warning", MLFLOW_DISABLE_TELEMETRY="true"),
)
#: A batching window that every request waits out: the recipe that serves throughput and ruins latency. Slipway's server
#: takes such a window as well, and waits only while its workers are busy.
WINDOW_MS = 50
SLIPWAY_WINDOW = slipway(f"Slipway, {WINDOW_MS} ms window", SERVING_BATCH_WINDOW_MS=str(WINDOW_MS))
LITSERVE_WINDOW = _peer(f"LitServe, {WINDOW_MS} ms window", LITSERVE, BENCH_WINDOW_MS=str(WINDOW_MS))


@contextlib.contextmanager
def served(candidate: Candidate, home: Home, model: Model, cores: frozenset[int]) -> Iterator[Running]:
    """A server on its cores, from its first right answer on; it is gone at the end, with all that it started.

    Raises:
        NotMeasured: it did not start, or its answers are not the model's; with its last line.
    """
    port = free_port()
    log = _made(home.folder / "logs") / f"{candidate.lock.parent.name}-{model.name}.log"
    work = _made(home.folder / "work" / candidate.lock.parent.name)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("SLIPWAY", "SERVING", "PYTHON"))},
        "PATH": f"{home.python(candidate.lock).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(work),
        "OMP_NUM_THREADS": str(len(cores)),
        "BENCH_MODEL": str(model.path),
        "BENCH_PORT": str(port),
        "BENCH_THREADS": str(len(cores)),
        **candidate.environment,
        **home.children.environment,
    }
    command = candidate.command(home, model, port)
    if candidate.is_ours:
        package(model, home.models / f"package-{model.path.stem}")
    rows = model.rows(1)
    raw, expected = candidate.wires[0].encode(model, rows).raw, model.answers(rows)

    with log.open("wb") as stream:
        began = time.monotonic()
        process = subprocess.Popen(on_cores(cores, command), cwd=work, env=environment, stdout=stream, stderr=stream)
        try:
            try:
                until_right(
                    lambda: process.poll() is None,
                    port,
                    raw,
                    lambda answer: candidate.wires[0].is_right(answer, expected),
                )
            except NotMeasured as error:
                raise NotMeasured(f"{error}; its last line: {_last_line(log)}") from error
            started = time.monotonic() - began
            for wire in candidate.wires[1:]:
                with Client(port) as client:
                    if not wire.is_right(client.ask(wire.encode(model, rows).raw), expected):
                        raise NotMeasured(f"{candidate.name} answers {wire.name} wrongly")
            yield Running(candidate, port, process.pid, started)
        finally:
            process.kill()
            process.wait()
            home.children.end()


def until_right(
    is_alive: Callable[[], bool], port: int, raw: bytes, is_right: Callable[[Answer], bool], within_s: float = _START_S
) -> None:
    """Ask again and again until the answer is right.

    Raises:
        NotMeasured: the server ended, or gave no right answer in time.
    """
    deadline, last = time.monotonic() + within_s, "nothing answered"
    while time.monotonic() < deadline:
        if not is_alive():
            raise NotMeasured("the server ended")
        try:
            with Client(port, timeout_s=within_s) as client:
                answer = client.ask(raw)
            if is_right(answer):
                return
            last = f"status {answer.status}: {answer.body[:200].decode(errors='replace')}"
        except _NOT_YET as error:
            last = f"{type(error).__name__}: {error}"
        time.sleep(_ASK_AGAIN_S)
    raise NotMeasured(f"no right answer within {within_s:.0f} s, at last {last}")


def free_port() -> int:
    """A port with free neighbours: MLServer takes three, Slipway two."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = int(listener.getsockname()[1])
        with contextlib.suppress(OSError, OverflowError):
            for neighbour in (port + 1, port + 2):
                socket.create_server(("127.0.0.1", neighbour)).close()
            return port


def _install(command: list[str]) -> None:
    environment = dict(os.environ)
    # pip's settings for people behind a mirror hold for uv as well; uv separates links by commas.
    if links := environment.get("PIP_FIND_LINKS"):
        environment.setdefault("UV_FIND_LINKS", ",".join(links.split()))
    if index := environment.get("PIP_INDEX_URL"):
        environment.setdefault("UV_DEFAULT_INDEX", index)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotMeasured(f"not installed: {(done.stderr.strip().splitlines() or ['uv said nothing'])[-1].strip()}")


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
