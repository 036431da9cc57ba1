"""Servers that stand for an arm and can be told to go wrong, each a thread with an event loop of its own.

What they answer says which of them it was (`x-arm`), and echoes the request's id.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

from tasks.release.contracts import Endpoint


class Mode(StrEnum):
    """How a stub answers inference; health is answered, but for the last."""

    OK = "ok"
    FAIL = "500"
    BUSY = "503"
    BAD_REQUEST = "400"
    SLOW = "slow"  # 150 ms
    EMPTY = "empty"  # takes the request and closes
    RESET = "reset"
    HALF = "half"  # breaks off in the middle of the body
    JUNK = "junk"
    HANG = "hang"  # as does health


class Stub:
    """A server on loopback. `mode` may be changed while it runs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.mode = Mode.OK
        self.asked = 0
        self.ids: set[str] = set()
        self._loop = asyncio.new_event_loop()
        self._port = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()
        self._thread.start()
        self._ready.wait()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(host="127.0.0.1", port=self._port)

    def kill(self) -> None:
        """Gone, with every connection: nothing listens there any more."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", self._port))
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.01))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._answer(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
        await reader.readexactly(int(fields.get("content-length", "0")))
        if head[0].split()[1].startswith("/v2/health"):
            if self.mode is Mode.HANG:
                await asyncio.sleep(600)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            return True
        self.asked += 1
        self.ids.add(fields.get("x-request-id", ""))
        answer = f"content-length: 2\r\nx-arm: {self.name}\r\nx-request-id: {fields.get('x-request-id')}\r\n\r\nok"
        match self.mode:
            case Mode.FAIL | Mode.BUSY | Mode.BAD_REQUEST:
                writer.write(f"HTTP/1.1 {self.mode} No\r\n{answer}".encode())
            case Mode.EMPTY:
                writer.write_eof()
                return False
            case Mode.RESET:
                return False
            case Mode.HALF:
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
                await writer.drain()
                await asyncio.sleep(0.02)
                return False
            case Mode.JUNK:
                writer.write(b"this is no HTTP\r\n\r\n")
                await writer.drain()
                return False
            case Mode.HANG:
                await asyncio.sleep(600)
            case _:
                await asyncio.sleep(0.15 if self.mode is Mode.SLOW else 0)
                writer.write(f"HTTP/1.1 200 OK\r\n{answer}".encode())
        await writer.drain()
        return True


@contextmanager
def stub(name: str) -> Iterator[Stub]:
    made = Stub(name)
    try:
        yield made
    finally:
        if made._thread.is_alive():
            made.kill()
