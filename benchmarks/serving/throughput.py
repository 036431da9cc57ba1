"""Requests a second over many connections, each of which asks again as soon as it is answered: what a server bears.

`wrk` (Debian's package) asks where it is installed: a client in C leaves the server's core alone and is not the
bottleneck itself. Elsewhere threads of this process do, which is said with the figure.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.figures import NotMeasured
from benchmarks.serving.wire import Client, Message

_SCRIPT = """
wrk.method = "POST"
wrk.path = %(path)s
wrk.headers = {%(headers)s}
local body = io.open(%(body)s, "rb")
wrk.body = body:read("*a")
body:close()
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format('{"requests":%%d,"us":%%d,"failed":%%d,"p50_us":%%d,"p99_us":%%d}\\n',
    summary.requests, summary.duration,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass(frozen=True, slots=True)
class Throughput:
    """Answered requests a second, and how many were not answered with 200."""

    per_second: float
    failed: int
    client: str


def saturate(port: int, message: Message, connections: int, seconds: float) -> Throughput:
    """Keep `connections` requests under way for `seconds`.

    Raises:
        NotMeasured: nothing was answered.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        return Throughput(steady(port, message.raw, connections, seconds), 0, "Python threads: no wrk here")
    found = _wrk(wrk, port, message, connections, seconds)
    if found.per_second <= 0:
        raise NotMeasured(f"no request was answered, {found.failed} failed")
    return found


def _wrk(wrk: str, port: int, message: Message, connections: int, seconds: float) -> Throughput:
    with tempfile.TemporaryDirectory() as folder:
        body, path = Path(folder) / "body", Path(folder) / "ask.lua"
        body.write_bytes(message.body)
        headers = ", ".join(f'["{name}"] = "{value}"' for name, value in message.headers)
        path.write_text(_SCRIPT % {"path": f'"{message.path}"', "headers": headers, "body": f'"{body}"'})
        done = subprocess.run(
            [
                wrk, "--threads", "1", "--connections", str(connections), "--duration", f"{seconds:.0f}s",
                "--timeout", "30s", "--script", str(path), f"http://127.0.0.1:{port}",
            ],
            capture_output=True, text=True, check=False, timeout=seconds + 120,
        )  # fmt: skip
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines or not lines[-1].startswith("{"):
        raise NotMeasured(f"wrk failed: {(done.stderr or done.stdout).strip()[-200:]}")
    said = json.loads(lines[-1])
    return Throughput((said["requests"] - said["failed"]) / said["us"] * 1e6, said["failed"], "wrk, one thread")


def steady(port: int, raw: bytes, connections: int, seconds: float) -> float:
    """Answers a second, from the first question to the last answer: no request is begun and not counted, so that a few
    long ones are counted exactly."""
    barrier = threading.Barrier(connections + 1)

    def work() -> int:
        answered = 0
        with Client(port) as client:
            client.time(raw)  # warms up
            barrier.wait()
            stop = time.perf_counter() + seconds
            while time.perf_counter() < stop or not answered:
                client.time(raw)
                answered += 1
        return answered

    with ThreadPoolExecutor(connections) as pool:
        workers = [pool.submit(work) for _ in range(connections)]
        barrier.wait(timeout=60)
        began = time.perf_counter()
        answered = sum(worker.result() for worker in workers)
        return answered / (time.perf_counter() - began)
