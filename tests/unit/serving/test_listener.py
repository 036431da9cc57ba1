"""HTTP on a socket: what never ends, what is too long, what is no HTTP, and what comes in one go."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import orjson
import pytest
import uvloop

from serving import listener
from serving.application import Application
from serving.body import Room
from serving.front import draining
from serving.listener import Listener
from tests.unit.serving.test_front import BODY, Watching, application

HEAD = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
WHOLE = HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
LAST = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
#: A hang is a failure too.
PATIENCE_S = 20.0

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter, Listener], Awaitable[None]]


def heard(server: Application, talk: Talk) -> bytes:
    """Whatever comes back on one connection until it is closed."""

    async def main() -> bytes:
        listening = socket.create_server(("127.0.0.1", 0))
        listens = Listener(server, listening)
        serving = await listens.start()
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        async with asyncio.timeout(PATIENCE_S):
            await talk(reader, writer, listens)
            received = await reader.read()
        writer.close()
        listens.stop()
        await serving
        return received

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def saying(*pieces: bytes) -> Talk:
    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: Listener) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)  # so that pieces arrive as pieces

    return talk


def endlessly(start: bytes, more: bytes) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: Listener) -> None:
        writer.write(start)
        while not (writer.is_closing() or reader.at_eof()):
            writer.write(more)
            await asyncio.sleep(0.001)
            if reader._buffer:  # type: ignore[attr-defined]  # an answer is there: go and read it
                return

    return talk


def refusal(received: bytes) -> tuple[int, str]:
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    return int(head[9:12]), orjson.loads(body)["error"]


def kinds(watching: Watching) -> list[tuple[int, str]]:
    return [(outcome.status, outcome.error) for outcome in watching.seen]


def test_a_request_is_answered() -> None:
    server, _, watching = application()
    received = heard(server, saying(WHOLE + LAST))
    assert received.count(b"HTTP/1.1 200 OK") == 2
    assert kinds(watching) == [(200, "")]


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (b"GET /", b"a" * 1000),
        (HEAD + b"X: ", b"a" * 1000),
        (HEAD, b"X: 1\r\n" * 100),
        (CHUNKED + b"2\r\n{}\r\n0\r\nT: ", b"a" * 1000),
        (CHUNKED + b"2\r\n{}\r\n0\r\n", b"T: 1\r\n" * 100),
        (CHUNKED + b"2;", b"a" * 1000),
    ],
    ids=["target", "field", "fields", "trailer", "trailers", "chunk's extension"],
)
def test_what_never_ends_is_431_and_told(start: bytes, more: bytes) -> None:
    server, _, watching = application()
    status, error = refusal(heard(server, endlessly(start, more)))
    assert status == 431
    assert "at most 16384 bytes" in error
    assert kinds(watching) == [(431, "too_large")]


def test_a_long_head_that_comes_at_once_is_431_too() -> None:
    server, _, _ = application()
    status, _ = refusal(heard(server, saying(HEAD + b"X: 1\r\n" * 5000 + b"\r\n")))
    assert status == 431


def test_many_requests_at_once_are_not_one_that_is_too_long() -> None:
    server, _, _ = application()
    live = LAST.replace(b"Connection: close\r\n", b"")
    received = heard(server, saying(live * 1000 + LAST))
    assert received.count(b"HTTP/1.1 200 OK") == 1001


@pytest.mark.parametrize("start", [b"GET /v2", HEAD + b"Content-Length: 50\r\n\r\n{", CHUNKED + b"2\r\n{"])
def test_a_request_that_stops_arriving_is_408(start: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "_LEAST_S", 0.05)
    server, _, watching = application()
    status, error = refusal(heard(server, saying(start)))
    assert (status, kinds(watching)) == (408, [(408, "too_slow")])
    assert "did not go on to arrive" in error


def test_a_slow_request_that_goes_on_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "_LEAST_S", 0.05)
    monkeypatch.setattr(listener, "_LEAST_BYTES", 1)
    server, _, _ = application()
    pieces = [bytes([byte]) for byte in WHOLE]
    assert b"HTTP/1.1 200 OK" in heard(server, saying(*pieces, LAST))


@pytest.mark.parametrize(
    "start", [b"\x16\x03\x01 hello\r\n\r\n", HEAD + b"Content-Length: -1\r\n\r\n", CHUNKED + b"xyz\r\n"]
)
def test_what_is_no_http_is_400_and_told(start: bytes) -> None:
    server, _, watching = application()
    status, _ = refusal(heard(server, saying(start)))
    assert (status, kinds(watching)) == (400, [(400, "bad_request")])


def test_an_answer_comes_before_what_is_wrong_after_it() -> None:
    server, _, _ = application()
    received = heard(server, saying(WHOLE + b"nonsense\r\n\r\n"))
    assert received.startswith(b"HTTP/1.1 200 OK")


def test_a_request_that_is_not_whole_when_the_server_ends_is_503() -> None:
    server, _, watching = application()

    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listens: Listener) -> None:
        writer.write(HEAD + b"Content-Length: 50\r\n\r\n{")
        await writer.drain()
        while not server.front.in_flight:
            await asyncio.sleep(0.001)
        listens.refuse_unfinished(draining())

    status, _ = refusal(heard(server, talk))
    assert (status, kinds(watching)) == (503, [(503, "draining")])


def test_bodies_that_are_not_whole_have_bounded_room() -> None:
    server, _, watching = application()
    server._room = Room(64)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listens: Listener) -> None:
        _, other = await asyncio.open_connection(*writer.get_extra_info("peername"))
        for connection in (other, writer):
            connection.write(HEAD + b"Content-Length: 100\r\nConnection: close\r\n\r\n" + b" " * 50)
            await connection.drain()
            await asyncio.sleep(0.05)
        other.close()

    received = heard(server, talk)
    assert received.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1" in received
    assert (503, "overloaded") in kinds(watching)
    assert server._room._held == 0
