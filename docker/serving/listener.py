"""HTTP/1.1 on a socket: uvicorn with what it leaves open closed.

In: an ASGI application and a socket that listens. Everything happens on the caller's event loop, in its thread: a
request that passes from thread to thread costs more in wake-ups than a small model takes to answer it (docs/adr/0012).

uvicorn itself sets no bound to the length of a request's head, reads to its end a body that nobody wants any more, and
says what it cannot parse in plain text.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from asyncio.events import TimerHandle
from collections.abc import Iterator
from typing import Any

from uvicorn import Config, Server
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serving.log import log
from serving.protocol import error_response

#: The longest head of a request, in bytes, beside what arrives at once; nginx takes 32 KiB of headers.
_HEAD_BYTES = 1 << 16
#: Seconds for the rest of a head that did not come whole (nginx's and hyper's allow 60 and 30).
_HEAD_S = 30.0
#: Bytes of a body that are read after its request was refused, so that the client gets to read the refusal: a socket
#: that is closed with unread bytes is reset.
_UNWANTED_BYTES = 64 << 20
#: Seconds that an idle connection is kept: longer than clients and proxies keep theirs, which then close it themselves.
_IDLE_S = 75
#: Seconds that answers have to leave once the server ends.
_LAST_BYTES_S = 1


class Connection(HttpToolsProtocol):
    """A client's connection, bounded."""

    _head_open = False
    _head_bytes = 0
    _unwanted_bytes = 0
    _head_timer: TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        was_open = self._head_open
        super().data_received(data)
        if not self._head_open:
            return
        # The rest is rare: hardly any head comes in pieces.
        self._head_bytes = self._head_bytes + len(data) if was_open else 0
        if self._head_bytes > _HEAD_BYTES:
            self._refuse(431, f"the head of a request is at most {_HEAD_BYTES} bytes long")
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(
                _HEAD_S, self._refuse, 408, f"the head of a request has to come within {_HEAD_S:.0f} s"
            )

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_open = True

    def on_headers_complete(self) -> None:
        self._head_open = False
        self._head_bytes = self._unwanted_bytes = 0
        self._stop_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self.cycle.response_complete:
            self._unwanted_bytes += len(body)
            if self._unwanted_bytes > _UNWANTED_BYTES:
                self.transport.abort()
        super().on_body(body)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "what arrived is not HTTP/1.1")

    def _refuse(self, status: int, message: str) -> None:
        """Answer what is not yet a request, and close: what follows cannot be told apart from it."""
        self._head_open = False
        self._stop_timer()
        if self.transport.is_closing():
            return
        body = error_response(status, message).body
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + head.encode() + body)
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class Listener(Server):
    """Serves an application on a socket, until it is stopped."""

    def __init__(self, application: Any, listening: socket.socket) -> None:
        self._socket = listening
        # Head and body of a response are two packets, and Nagle's algorithm would keep the second until the client has
        # acknowledged the first: 40 ms. Accepted connections inherit this.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().__init__(
            Config(
                application,
                http=Connection,
                ws="none",
                loop="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                log_level=logging.ERROR,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=_IDLE_S,
                timeout_graceful_shutdown=_LAST_BYTES_S,
            )
        )
        said = logging.getLogger("uvicorn.error")
        said.handlers, said.propagate = [_ToLog()], False

    async def start(self) -> asyncio.Task[None]:
        """Answer requests from now on; the task ends when the listener does."""
        serving = asyncio.create_task(self.serve([self._socket]))
        while not (self.started or serving.done()):
            await asyncio.sleep(0)
        return serving

    def stop(self) -> None:
        """End soon: whatever is in flight first."""
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are `serving.stopping`'s."""
        yield


class _ToLog(logging.Handler):
    """What uvicorn says, as a line of the server's own log."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        log("http", message=record.getMessage().strip(), error=None if error is None else repr(error))
