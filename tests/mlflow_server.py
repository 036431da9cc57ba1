"""A real MLflow server over SQLite, as a process of this machine.

In: an empty folder, and how the server is told to keep artifacts. Out: its address, while it runs.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx


@contextmanager
def mlflow_server(home: Path, *artifacts: str) -> Iterator[str]:
    """Start one on a free port; `artifacts` are its options that say where artifacts lie and who hands them out."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}"),
            *artifacts,
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
    )
    try:
        _wait_until_healthy(process, uri)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_healthy(process: subprocess.Popen[bytes], uri: str) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            if httpx.get(f"{uri}/health", timeout=1).is_success:
                return
        except httpx.HTTPError:
            pass
        assert process.poll() is None, "the MLflow server stopped"
        assert time.monotonic() < deadline, "the MLflow server did not come up"
        time.sleep(0.2)
