"""HTTP/1.1 on a socket: uvicorn with what it leaves open closed.

In: an ASGI application and a socket that listens. Everything happens on the caller's event loop, in its thread: a
request that passes from thread to thread costs more in wake-ups than a small model takes to answer it (docs/adr/0012).

uvicorn itself sets no bound to the length of a request's head and of its trailers, nor to the time that a request takes
to come; it reads to its end a body that nobody wants any more, and says in plain text what it cannot parse.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from asyncio.events import TimerHandle
from collections.abc import Iterator
from typing import Any

from uvicorn import Config, Server
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serving.application import Application
from serving.front import Refused
from serving.log import log
from serving.protocol import error_response

#: Names and values of a request's fields, trailers too, in bytes; and whatever else of a request is no body. What h11
#: and Node take: a container of 128 MB has room for thousands that never end.
_HEAD_BYTES = 1 << 14
#: What stands around a field's name and value: a colon, a space, the end of the line.
_AROUND_BYTES = 4
#: A request that is not whole has to bring so much more within that time, or is given up. A byte a second would keep a
#: connection, and what it has brought, for ever.
_LEAST_BYTES, _LEAST_S = 1 << 16, 30.0
#: Bytes of a body that are read after its request was refused, so that the client gets to read the refusal: a socket
#: that is closed with unread bytes is reset.
_UNWANTED_BYTES = 64 << 20
#: Seconds that an idle connection is kept: longer than clients and proxies keep theirs, which then close it themselves.
_IDLE_S = 75
#: Seconds that answers have to leave once the server ends.
_LAST_BYTES_S = 1


class _FieldsTooLong(Exception):
    """Ends the parser's work on a request."""


class Connection(HttpToolsProtocol):
    """A client's connection, bounded."""

    def __init__(self, config: Config, *arguments: Any, application: Application, **named: Any) -> None:
        super().__init__(config, *arguments, **named)
        self._application = application
        self._is_whole = True
        self._in_body = False
        self._arrived_bytes = 0
        self._silent_bytes = 0  # that arrived since the parser last made something of them
        self._field_bytes = 0
        self._unwanted_bytes = 0
        self._patience: TimerHandle | None = None

    @property
    def is_unfinished(self) -> bool:
        """Whether a request has begun to arrive and is not all there."""
        return not self._is_whole

    def refuse(self, error: Refused) -> None:
        """Answer a request that is not whole, or is none, and close: what follows it cannot be told from it."""
        self._stop_waiting()
        if self.transport.is_closing():
            return
        awaits_answer = self.cycle is not None and not self.cycle.response_complete
        if self._in_body and awaits_answer:
            self.scope["refusal"] = error  # type: ignore[typeddict-unknown-key]  # what the application then tells
        elif not self._in_body:
            self._application.front.refused("http", error)
        if awaits_answer and not self._in_body:
            # The answer to an earlier request is still to come, and is the last one.
            self.cycle.keep_alive = False
            self.flow.pause_reading()
        elif self.cycle is None or not self._in_body or not self.cycle.response_started:
            body = error_response(error.status, str(error)).body
            head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            self.transport.write(STATUS_LINE[error.status] + head.encode() + body)
            self.transport.close()
        else:
            self.transport.abort()

    # --- what uvicorn calls ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(_IDLE_S, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._arrived_bytes += len(data)
        self._silent_bytes += len(data)
        super().data_received(data)
        if self._is_whole:
            return
        if self._silent_bytes > _HEAD_BYTES:
            self.refuse(_too_long())
        elif self._patience is None and not self.transport.is_closing():
            self._wait()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_whole = False
        self._field_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self._field_bytes += len(name) + len(value) + _AROUND_BYTES
        if self._field_bytes > _HEAD_BYTES:
            raise _FieldsTooLong
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._silent_bytes = 0
        self._in_body = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._silent_bytes = 0
        if self.cycle.response_complete:
            self._unwanted_bytes += len(body)
            if self._unwanted_bytes > _UNWANTED_BYTES:
                self.transport.abort()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_whole, self._in_body = True, False
        self._silent_bytes = self._unwanted_bytes = 0
        self._stop_waiting()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        if self._field_bytes > _HEAD_BYTES:
            self.refuse(_too_long())
        else:
            # The parser's error is being handled, and says what it stumbled over.
            self.refuse(Refused(400, "bad_request", f"what arrived is not HTTP/1.1: {sys.exception()}"))

    # --- patience -------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        self._patience = self.loop.call_later(_LEAST_S, self._look_again, self._arrived_bytes)

    def _look_again(self, before: int) -> None:
        if self._arrived_bytes - before >= _LEAST_BYTES:
            self._wait()
        else:
            self.refuse(Refused(408, "too_slow", f"the request did not go on to arrive within {_LEAST_S:.0f} s"))

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


def _too_long() -> Refused:
    return Refused(431, "too_large", f"the head of a request, and its trailers, are at most {_HEAD_BYTES} bytes long")


class Listener(Server):
    """Serves an application on a socket, until it is stopped."""

    def __init__(self, application: Application, listening: socket.socket) -> None:
        self._socket = listening
        # Head and body of a response are two packets, and Nagle's algorithm would keep the second until the client has
        # acknowledged the first: 40 ms. Accepted connections inherit this.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        class Bounded(Connection):
            def __init__(self, *arguments: Any, **named: Any) -> None:
                super().__init__(*arguments, application=application, **named)

        super().__init__(
            Config(
                application,
                http=Bounded,
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

    def refuse_unfinished(self, error: Refused) -> None:
        """Give up requests that are not all there: nobody waits for a body that may never come."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection) and connection.is_unfinished:
                connection.refuse(error)

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
