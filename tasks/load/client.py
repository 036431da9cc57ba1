"""A small blocking HTTP/1.1 client on one kept-alive connection.

Smoke measures servers that answer in 100 µs, and a general client adds as much again; this one writes a request that
was prepared beforehand and reads until `Content-Length` is met. Nothing else of HTTP is understood.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete answer. `json_bytes` is the part of a binary inference response that is JSON; None where all is."""

    status: int
    body: bytes
    json_bytes: int | None = None


class Unanswered(Exception):
    """No complete answer came within the time limit."""


class Broken(Exception):
    """The connection was refused, closed or reset, or what came back is not HTTP."""


def get(path: str) -> bytes:
    """A GET request, ready to be sent."""
    return f"GET {path} HTTP/1.1\r\nHost: smoke\r\n\r\n".encode()


def post(path: str, body: bytes, json_bytes: int | None = None) -> bytes:
    """A POST request, ready to be sent; `json_bytes` of the body are JSON, or all of it."""
    kind = "application/json" if json_bytes is None else "application/octet-stream"
    head = f"POST {path} HTTP/1.1\r\nHost: smoke\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    if json_bytes is not None:
        head += f"Inference-Header-Content-Length: {json_bytes}\r\n"
    return f"{head}\r\n".encode() + body


class Connection:
    """One connection, opened at the first request and again after each failure. Not for several threads at once."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None

    def request(self, message: bytes) -> Reply:
        """Send a prepared request and read its answer.

        Raises:
            Unanswered: nothing, or not all of it, came within `timeout_s` between two reads.
            Broken: the connection failed or the answer is not HTTP.
        """
        try:
            connection = self._open()
            connection.sendall(message)
            return self._read(connection)
        except TimeoutError as error:
            self.close()
            raise Unanswered(f"no answer within {self._timeout_s:g} s") from error
        except OSError as error:
            self.close()
            raise Broken(error.strerror or type(error).__name__) from error
        except (ValueError, IndexError, Broken) as error:
            self.close()
            raise Broken(str(error)) from error

    def close(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.create_connection((self._address.host, self._address.port), self._timeout_s)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._socket

    def _read(self, connection: socket.socket) -> Reply:
        received = bytearray()
        while (end := received.find(b"\r\n\r\n")) < 0:
            received += self._more(connection)
        status_line, *lines = bytes(received[:end]).split(b"\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        if b"transfer-encoding" in headers:
            raise Broken("the answer comes in chunks, which this client does not read")
        length = int(headers.get(b"content-length", b"0"))
        del received[: end + 4]
        while len(received) < length:
            received += self._more(connection)
        if headers.get(b"connection", b"").lower() == b"close":
            self.close()
        json_bytes = headers.get(b"inference-header-content-length")
        return Reply(
            int(status_line.split(b" ", 2)[1]), bytes(received), None if json_bytes is None else int(json_bytes)
        )

    def _more(self, connection: socket.socket) -> bytes:
        if piece := connection.recv(1 << 18):
            return piece
        raise Broken("the server closed the connection")
