"""Open-loop load: requests arrive when they arrive, whether or not earlier ones were answered.

In: an address, a prepared request, a rate. Out: what became of every request (`Offered`). Arrivals are a Poisson
process, which is what many clients that do not know of each other make together, and a time counts from the intended
arrival: a server that stalls is charged for all who came meanwhile. (A closed loop asks again only after an answer, and
so hides exactly that: coordinated omission.)
"""

from __future__ import annotations

import contextlib
import math
import random
import selectors
import socket
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from tasks.smoke.client import Address, Broken

#: Connections at once, each with one request in flight: a server that has not answered so many is not keeping up, and
#: whoever comes then waits for the first answer, with his time running. Also below what select(2) can watch.
_CONNECTIONS = 512
#: Requests beyond the objective, as a share of all, after which nothing could be saved by going on.
_HOPELESS = 0.05
#: A server that takes so long to take a connection or a request has stalled.
_SEND_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Offered:
    """One load, and what became of it. `late_send_ms` is by how much this client itself was late, at the 99th
    percentile: where that is of the order of the times, they say something about the client."""

    rate: float
    times_ms: tuple[float, ...]
    refused: int
    unanswered: int
    late_send_ms: float
    given_up: bool = False

    @property
    def asked(self) -> int:
        return len(self.times_ms) + self.refused + self.unanswered

    def late(self, limit_ms: float) -> int:
        """Requests that were not answered within the limit; a refusal is no answer."""
        return sum(time_ms > limit_ms for time_ms in self.times_ms) + self.refused + self.unanswered

    def percentile(self, share: float) -> float | None:
        """The nearest-rank percentile over all requests, where one without an answer took for ever; None then."""
        rank = math.ceil(share * self.asked) - 1
        ranked = sorted(self.times_ms)
        return ranked[rank] if 0 <= rank < len(ranked) else None


def arrivals(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Times of a Poisson process from 0 to `seconds`."""
    chance, at = random.Random(seed), 0.0  # noqa: S311  a load, not a secret
    while (at := at + chance.expovariate(rate)) < seconds:
        yield at


def offer(
    address: Address,
    message: bytes,
    rate: float,
    seconds: float,
    *,
    limit_ms: float,
    patience_s: float,
    seed: int,
) -> Offered:
    """Offer requests at `rate` a second for `seconds`; whoever is not answered `patience_s` later is not waited for.

    Gives up early when far more are late than any percentile allows (`Offered.given_up`).
    """
    with _Client(address, message, [*arrivals(rate, seconds, seed)], limit_ms / 1000) as client:
        client.run(seconds + patience_s)
    lags = sorted(client.lags) or [0.0]
    return Offered(
        rate,
        tuple(1000 * took for took in client.times),
        client.refused,
        client.sent + len(client.waiting) - len(client.times) - client.refused,
        1000 * lags[math.ceil(0.99 * len(lags)) - 1],
        client.hopeless,
    )


@dataclass(eq=False, slots=True)
class _Connection:
    """A connection with at most one request in flight, which was meant to be sent at `due`."""

    socket: socket.socket
    due: float | None = None
    received: bytearray = field(default_factory=bytearray)


class _Client:
    def __init__(self, address: Address, message: bytes, schedule: list[float], limit_s: float) -> None:
        self._address, self._message, self._limit_s = address, message, limit_s
        self._schedule = deque(schedule)
        self._allowed = max(20, int(len(schedule) * _HOPELESS))
        # select(2) waits for microseconds, epoll and poll for milliseconds.
        self._selector = selectors.SelectSelector()
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self.waiting = deque[float]()
        self.times: list[float] = []
        self.lags: list[float] = []
        self.sent = 0
        self.refused = 0
        self._late = 0
        self._until = math.inf

    @property
    def hopeless(self) -> bool:
        return self._late > self._allowed

    def __enter__(self) -> _Client:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._open:
            connection.socket.close()
        self._selector.close()

    def run(self, within_s: float) -> None:
        began = time.perf_counter()
        self._until = began + within_s
        while self._schedule or self.waiting or len(self._idle) < len(self._open):
            now = time.perf_counter() - began
            if now > within_s or self.hopeless:
                return
            while self._schedule and self._schedule[0] <= now:
                due = self._schedule.popleft()
                self.lags.append(now - due)
                self.waiting.append(due)
            while self.waiting and time.perf_counter() < self._until and (connection := self._free()):
                self._send(connection, self.waiting.popleft())
            pause = self._schedule[0] - (time.perf_counter() - began) if self._schedule else 0.05
            for key, _ in self._selector.select(max(0.0, pause)):
                self._read(key.data, began)

    def _free(self) -> _Connection | None:
        if self._idle:
            return self._idle.pop()
        if len(self._open) == _CONNECTIONS:
            return None
        patience_s = max(0.001, min(_SEND_WITHIN_S, self._until - time.perf_counter()))
        opened = socket.create_connection((self._address.host, self._address.port), timeout=patience_s)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(opened)
        self._open.add(connection)
        self._selector.register(opened, selectors.EVENT_READ, connection)
        return connection

    def _send(self, connection: _Connection, due: float) -> None:
        connection.due = due
        self.sent += 1
        try:
            connection.socket.sendall(self._message)
        except OSError:
            self._drop(connection)

    def _read(self, connection: _Connection, began: float) -> None:
        try:
            piece = connection.socket.recv(1 << 18)
        except OSError:
            piece = b""
        if not piece or connection.due is None:
            self._drop(connection)
            return
        connection.received += piece
        status = _complete(connection.received)
        if status is None:
            return
        took = time.perf_counter() - began - connection.due
        if status == 200:
            self.times.append(took)
        else:
            self.refused += 1
        self._late += status != 200 or took > self._limit_s
        connection.due = None
        connection.received.clear()
        self._idle.append(connection)

    def _drop(self, connection: _Connection) -> None:
        """What was in flight on it stays unanswered."""
        self._late += connection.due is not None
        if connection in self._idle:
            self._idle.remove(connection)
        self._open.discard(connection)
        self._selector.unregister(connection.socket)
        with contextlib.suppress(OSError):
            connection.socket.close()


def _complete(received: bytearray) -> int | None:
    """The status of a whole answer; None while some of it is missing."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(received[:end]).lower()
    _, found, rest = head.partition(b"\r\ncontent-length:")
    if not found:
        raise Broken("the answer has no Content-Length")
    length = int(rest.split(b"\r\n", 1)[0])
    return int(head.split(b" ", 2)[1]) if len(received) >= end + 4 + length else None
