"""Made-up users against a server that answers as it is told to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from scripts.users import Users, rows_of


@dataclass
class Server:
    port: int = 0
    status: int = 200
    ids: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    here = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            here.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            here.ids.append(self.headers["X-Request-Id"])
            self.send_response(here.status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.daemon_threads = True
        here.port = listening.server_port
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield here
        listening.shutdown()


def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_every_request_has_an_id_of_its_own_and_is_counted(server: Server) -> None:
    with Users(server.port, "/infer", [b"[1]", b"[2]"], p99_ms=1000, rate=30) as users:
        _until(lambda: users.asked.requests > 40)
    assert users.asked.failed == 0
    assert len(set(server.ids)) == len(server.ids) == users.asked.requests
    assert set(server.bodies) == {b"[1]", b"[2]"}


def test_an_answer_that_is_none_is_an_error(server: Server) -> None:
    server.status = 500
    with Users(server.port, "/infer", [b"[1]"], p99_ms=1000, rate=30) as users:
        _until(lambda: users.asked.requests > 0)
    assert users.asked.failed == users.asked.requests


def test_where_nobody_listens_everybody_fails() -> None:
    with Users(1, "/infer", [b"[1]"], p99_ms=1000, rate=30) as users:
        _until(lambda: users.asked.requests > 0)
    assert users.asked.failed == users.asked.requests


def test_users_send_the_rows_as_they_are(tmp_path: Path) -> None:
    np.savez(tmp_path / "eval.npz", pixels=np.float32([[[1, 2], [3, 4]], [[5, 6], [7, 8]]]), label=[0, 1])
    first, second = (json.loads(body)["inputs"][0] for body in rows_of(tmp_path / "eval.npz", "pixels"))
    assert first == {"name": "pixels", "datatype": "FP32", "shape": [1, 2, 2], "data": [1.0, 2.0, 3.0, 4.0]}
    assert second["data"] == [5.0, 6.0, 7.0, 8.0]
