"""Servers on loopback for tests that ask one: a good one, and some that are bad in ways that smoke must tell apart."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import orjson

from serving.contract import DimRange, DType, Signature, TensorSpec, Tolerance
from tasks.load.client import Address
from tasks.smoke.golden import GoldenSamples

SIGNATURE = Signature(
    inputs=(TensorSpec("x", DType.FLOAT64, ("batch",)),),
    outputs=(TensorSpec("y", DType.FLOAT64, ("batch",)),),
    dynamic={"batch": DimRange(1, 64)},
)
ROWS = np.arange(16, dtype=np.float64)
GOLDEN = GoldenSamples({"x": ROWS}, {"y": 2 * ROWS}, {"y": Tolerance(0, 0)}, SIGNATURE)
PATH = "/v2/models/m/infer"


class Doubler:
    """A server of the protocol that answers 2 x; subclasses spoil it."""

    def answer(self, values: list[float]) -> list[float]:
        return [2 * value for value in values]

    def handle(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        values = self.answer(orjson.loads(body)["inputs"][0]["data"])
        output = {"name": "y", "datatype": "FP64", "shape": [len(values)], "data": values}
        self.send(handler, 200, orjson.dumps({"outputs": [output]}))

    def send(self, handler: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)


class Shared(Doubler):
    """Keeps the request in a field of its own: wrong as soon as two come at once."""

    def answer(self, values: list[float]) -> list[float]:
        self.values = values
        time.sleep(0.002)
        return [2 * value for value in self.values]


class Refusing(Doubler):
    def handle(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        self.send(handler, 400, b'{"error": "x has the wrong shape"}')


class Closing(Doubler):
    def handle(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        handler.connection.shutdown(socket.SHUT_RDWR)


class Hanging(Doubler):
    def __init__(self) -> None:
        self.over = threading.Event()

    def handle(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        self.over.wait(10)


class _Server(ThreadingHTTPServer):
    request_queue_size = 512  # connections that come at once, as many as a crowd has


@contextlib.contextmanager
def serving(model: Doubler) -> Iterator[Address]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16

        def do_POST(self) -> None:
            with contextlib.suppress(OSError):
                model.handle(self, self.rfile.read(int(self.headers["Content-Length"])))

        def log_message(self, *_: object) -> None:
            pass

    server = _Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Address("127.0.0.1", server.server_port)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
