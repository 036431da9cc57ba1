"""A server as a process of its own, from this environment."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

URL = "/v2/models/tiny/infer"


class Server:
    """A started server, ready or ended."""

    def __init__(self, process: subprocess.Popen[bytes], client: httpx.Client, log: Path, grpc_port: int) -> None:
        self.process = process
        self.client = client
        self.grpc_port = grpc_port
        self._log = log

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def infer(self, raw: Any, **others: Any) -> httpx.Response:
        """Ask the tiny model."""
        return self.client.post(URL, json={"inputs": [tensor(raw)], **others})

    @property
    def port(self) -> int:
        return int(self.client.base_url.port or 0)


def tensor(raw: Any, **changes: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "UINT8", "shape": list(raw.shape), "data": raw.ravel().tolist(), **changes}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def running(package: Path, log: Path, port: int | None = None, *arguments: str, grpc_port: int = 0) -> Iterator[Server]:
    """A server on its package, once it is ready or has ended; it is killed at the end."""
    port = port or free_port()
    command = [sys.executable, "-m", "serving", "--package", str(package), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--grpc-port", str(grpc_port)]
    limits = httpx.Limits(max_connections=None)
    address = f"http://127.0.0.1:{port}"
    with log.open("wb") as stream, httpx.Client(base_url=address, timeout=60, limits=limits) as client:
        process = subprocess.Popen([*command, *arguments], stderr=stream)
        try:
            while process.poll() is None:
                try:
                    if client.get("/v2/health/ready").status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.02)
            yield Server(process, client, log, grpc_port)
        finally:
            process.kill()
            process.wait()
