"""Users and servers of a router under load, each a process of its own: as little Python as a request can cost.

    python -m benchmarks.release.traffic serve NAME          a server; prints its port
    python -m benchmarks.release.traffic users PORT CLIENTS  keep-alive clients, each asking again when it was answered;
                                                             ends with standard input, and prints what became of it

One request in `SLOW_EVERY` takes `SLOW_S` at the server, so that some are in flight at every moment. A client whose
connection was closed after an answer that said so opens another; whatever else ends a request is a request lost.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import cast

#: With 48 clients, about ten slow requests are in flight at any time.
SLOW_EVERY, SLOW_S = 100, 0.25
_SLOW, _ANSWER = b" /slow ", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-arm: %s\r\n\r\nok"


@dataclass
class Users:
    """What became of the requests of all clients."""

    sent: int = 0
    answered: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    slow: int = 0
    reconnected: int = 0

    def lose(self, why: str) -> None:
        self.lost[why] = self.lost.get(why, 0) + 1


class Server(asyncio.Protocol):
    """Answers whatever it is asked. `/_seen` says how many requests it had, and when the last one came."""

    count, last = 0, 0.0

    def __init__(self, name: str) -> None:
        self._answer = _ANSWER % name.encode()
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        # Requests of users have the body `{}`, which ends them; those that look have none.
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end]
            body = 2 if head.startswith(b"POST") else 0
            if len(self._received) < end + 4 + body:
                return
            self._received = self._received[end + 4 + body :]
            self._respond(head)

    def _respond(self, head: bytes) -> None:
        if head.startswith(b"GET /_seen"):
            said = json.dumps({"count": Server.count, "last": Server.last}).encode()
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(said) + said)
            return
        if head.startswith(b"POST"):
            Server.count += 1
            Server.last = time.monotonic()
        if _SLOW in head[:16]:
            asyncio.get_running_loop().call_later(SLOW_S, self._transport.write, self._answer)
        else:
            self._transport.write(self._answer)


class Client(asyncio.Protocol):
    """One user: a request, its answer, the next request."""

    def __init__(self, users: Users, stopping: asyncio.Event) -> None:
        self._users = users
        self._stopping = stopping
        self._received = b""
        self._waits = False
        self.closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def _ask(self) -> None:
        if self._stopping.is_set():
            self._transport.close()
            return
        users = self._users
        users.sent += 1
        path = b"/slow" if users.sent % SLOW_EVERY == 0 else b"/"
        users.slow += path != b"/"
        self._waits = True
        self._transport.write(
            b"POST %s HTTP/1.1\r\nhost: m\r\nx-request-id: request-%d\r\ncontent-length: 2\r\n\r\n{}"
            % (path, users.sent)
        )

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._received[:end].lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        if len(self._received) < end + 4 + length:
            return
        self._received = self._received[end + 4 + length :]
        self._waits = False
        if head.startswith(b"http/1.1 200"):
            self._users.answered += 1
        else:
            self._users.lose(head[9:12].decode())
        if b"connection: close" in head:
            self._transport.close()
        else:
            self._ask()

    def connection_lost(self, _exc: Exception | None) -> None:
        if self._waits:
            self._users.lose("connection")
        self.closed.set()


async def serve(name: str) -> None:
    """A server on a free port of loopback, until it is killed."""
    server = await asyncio.get_running_loop().create_server(lambda: Server(name), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def use(port: int, clients: int) -> Users:
    """Ask until standard input ends."""
    loop, stopping, users = asyncio.get_running_loop(), asyncio.Event(), Users()
    loop.add_reader(sys.stdin.fileno(), stopping.set)

    async def user() -> None:
        while not stopping.is_set():
            try:
                _, client = await loop.create_connection(lambda: Client(users, stopping), "127.0.0.1", port)
            except OSError:
                users.sent += 1
                users.lose("refused")
                await asyncio.sleep(0.01)
                continue
            await client.closed.wait()
            users.reconnected += 1

    await asyncio.gather(*(user() for _ in range(clients)))
    return users


def main() -> None:
    import uvloop

    match sys.argv[1:]:
        case ["serve", name]:
            uvloop.run(serve(name))
        case ["users", port, clients]:
            print(json.dumps(asdict(uvloop.run(use(int(port), int(clients))))))


if __name__ == "__main__":
    main()
