"""A server that can be made to stall, for the tests of whoever does not wait for it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tasks.load.client import Address


class Stalling:
    """An HTTP server that answers each connection in its own thread, and nothing while its gate is shut."""

    def __init__(self, status: int = 200) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.gate = threading.Event()
        self.gate.set()
        self.asked = 0
        self.answer = f"HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nok".encode()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.listener.getsockname()[1])

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):  # whoever asked has gone
            while connection.recv(1 << 16):
                self.asked += 1
                self.gate.wait(30)
                connection.sendall(self.answer)


@contextmanager
def stalling(status: int = 200) -> Iterator[Stalling]:
    server = Stalling(status)
    try:
        yield server
    finally:
        server.gate.set()
        server.listener.close()
