"""The serving images: size, time from start to the first answer, and what a request costs over the bare runtime.

    .venv/bin/python benchmarks/serving_images.py [STARTS]

A small model (6 inputs, 8 hidden, 3 outputs) is laid over each runtime's image, so that nothing but the server is
measured. Cold start is from before `docker run` to the first correct answer; the median of STARTS (default 10).
Requests go one after the other over one connection, closed loop: their median says what the server adds, not what it
bears.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from serving.preprocess import apply
from serving.runners import load
from tasks.image import ContainerSpec, Engine, connect, ensure_runtime, running
from tasks.settings import Settings
from tests.integration.tiny import IN, PREPROCESS, RUNTIMES, SIGNATURE, TinyModel

REQUESTS = 3000


def main() -> int:
    """Measure every runtime; prints a table."""
    starts = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    engine, settings = connect(), Settings.from_environment()
    table = Table("runtime", "image MB", "cold start s", "slowest s", "peak MB", "bare µs", "binary µs", "JSON µs")
    for runtime in RUNTIMES:
        table.add_row(runtime, *_measure(runtime, engine, settings, starts))
    cpus = os.cpu_count()
    Console().print(
        table, f"{cpus} CPUs on the host, 2 for the container; load {os.getloadavg()[0]:.1f} while measuring"
    )
    return 0


def _measure(runtime: str, engine: Engine, settings: Settings, starts: int) -> list[str]:
    image = engine.find_image(ensure_runtime(runtime, engine, settings))
    if image is None:
        raise SystemExit(f"the image of {runtime} is gone")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model").mkdir()
        RUNTIMES[runtime](Path(folder) / "model")
        model = TinyModel(runtime, Path(folder) / "model")
        (Path(folder) / "package").mkdir()
        package = model.package(Path(folder) / "package")
        _open_to_everyone(package)
        spec = ContainerSpec(
            image=image.id,
            name=f"slipway-bench-{runtime}",
            component="bench",
            mounts={package: "/package"},
            network="bridge",
            ports=(8000,),
            cpus=2,
            memory_bytes=1 << 30,
        )
        times = [_cold_start(engine, spec) for _ in range(starts)]
        with running(engine, spec) as container:
            _until_answered(engine, container)
            with socket.create_connection(("127.0.0.1", engine.host_port(container, 8000))) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                binary, text = (_median_us(partial(_ask, connection, request)) for request in (_binary(), _json()))
            peak = engine.peak_memory_bytes(container) or 0
        bare = _bare(model)
    figures = (image.size_bytes / 1e6, statistics.median(times), max(times), peak / 1e6, bare, binary, text)
    return [f"{figure:.{digits}f}" for figure, digits in zip(figures, (0, 2, 2, 0, 0, 0, 0), strict=True)]


def _bare(model: TinyModel) -> float:
    runner = load(model.runtime, model.path, SIGNATURE, threads=2)
    inputs = apply(PREPROCESS, {"x": np.zeros((1, IN), np.uint8)}, SIGNATURE)
    return _median_us(lambda: runner.run(inputs))


def _cold_start(engine: Engine, spec: ContainerSpec) -> float:
    started = time.monotonic()
    with running(engine, spec) as container:
        _until_answered(engine, container)
        return time.monotonic() - started


def _until_answered(engine: Engine, container: str) -> None:
    while engine.state(container).running:
        try:
            with socket.create_connection(("127.0.0.1", engine.host_port(container, 8000))) as connection:
                if _ask(connection, _json()).startswith(b"HTTP/1.1 200"):
                    return
        except OSError:
            time.sleep(0.005)
    raise SystemExit(f"the server ended: {engine.logs(container)}")


def _median_us(call: Callable[[], object]) -> float:
    times = []
    for _ in range(REQUESTS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times[REQUESTS // 10 :]) * 1e6


def _ask(connection: socket.socket, request: bytes) -> bytes:
    connection.sendall(request)
    return connection.recv(1 << 16)  # the answer is a few hundred bytes and comes at once


def _json() -> bytes:
    entry = {"name": "x", "datatype": "UINT8", "shape": [1, IN], "data": [0] * IN}
    return _post(json.dumps({"inputs": [entry]}).encode())


def _binary() -> bytes:
    entry = {"name": "x", "datatype": "UINT8", "shape": [1, IN], "parameters": {"binary_data_size": IN}}
    envelope = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    return _post(envelope + bytes(IN), f"Inference-Header-Content-Length: {len(envelope)}\r\n")


def _post(body: bytes, header: str = "") -> bytes:
    head = f"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: bench\r\n{header}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _open_to_everyone(folder: Path) -> None:
    """The server runs as nobody in particular; temporary folders are their owner's alone."""
    for path in (folder.parent, folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


if __name__ == "__main__":
    raise SystemExit(main())
