"""Open-loop load: requests arrive when they arrive, whether or not earlier ones were answered.

In: an address, prepared requests, a rate. Out: what became of every request (`Offered`). Arrivals are a Poisson
process, which is what many clients that do not know of each other make together, and a time counts from the intended
arrival: a server that stalls is charged for all who came meanwhile. (A closed loop asks again only after an answer, and
so hides exactly that: coordinated omission.)

`crowd` is the other extreme: so many clients that are always there, each asking again at once. It says nothing about
times, and all about what a server holds in memory when it is at its fullest.
"""

from __future__ import annotations

import contextlib
import math
import random
import selectors
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tasks.load.client import Address, Broken, Reply

#: Connections at once, each with one request in flight: a server that has not answered so many is not keeping up, and
#: whoever comes then waits for the first answer, with his time running. Also below what select(2) can watch.
CONNECTIONS = 512
#: Requests beyond the objective, as a share of all, after which nothing could be saved by going on.
_HOPELESS = 0.05
#: A server that takes so long to take a connection has stalled.
_CONNECT_WITHIN_S = 10.0
#: Bytes of distinct answers that are kept to be looked at afterwards. A server that says the same to the same request
#: fills little of it; of one that does not, the first answers are kept.
_KEPT_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Said:
    """One answer with status 200, to which of the messages, and how often exactly so."""

    message: int
    reply: Reply
    times: int


@dataclass(frozen=True, slots=True)
class Offered:
    """One load, and what became of it. `late_send_ms` is by how much this client itself was late, at the 99th
    percentile: where that is of the order of the times, they say something about the client.

    `said` and `first_refusal` are there where answers were kept; they may be of the warm-up as well, which everything
    else leaves out. `overloaded` are those of the refusals that say "later" (status 503).
    """

    rate: float
    times_ms: tuple[float, ...]
    refused: int
    unanswered: int
    late_send_ms: float
    given_up: bool = False
    overloaded: int = 0
    said: tuple[Said, ...] = ()
    first_refusal: Reply | None = None

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
    messages: Sequence[bytes],
    rate: float,
    seconds: float,
    *,
    limit_ms: float,
    patience_s: float,
    seed: int,
    warm_up_s: float = 0.0,
    keep: bool = False,
) -> Offered:
    """Offer requests at `rate` a second for `seconds`, the messages in turn; whoever is not answered `patience_s` later
    is not waited for. What arrives in the first `warm_up_s` is not counted. `keep` keeps the answers.

    Gives up early when far more are late than any percentile allows (`Offered.given_up`).

    Raises:
        OSError: the server does not accept connections.
        Broken: what it answers is not HTTP as it is understood here.
    """
    schedule = [*arrivals(rate, warm_up_s + seconds, seed)]
    with _Client(address, messages, schedule, limit_s=limit_ms / 1000, warm_up_s=warm_up_s, keep=keep) as client:
        client.run(warm_up_s + seconds + patience_s)
        return client.offered(rate)


def crowd(address: Address, messages: Sequence[bytes], *, clients: int, requests: int, patience_s: float) -> Offered:
    """Let `clients` (at most `CONNECTIONS`) ask all the time, until `requests` were sent or `patience_s` are over; the
    answers are kept.

    Raises:
        OSError, Broken: as `offer`.
    """
    schedule = [0.0] * requests
    with _Client(address, messages, schedule, limit_s=math.inf, hopeless=1.0, connections=clients, keep=True) as client:
        client.run(patience_s)
        return client.offered(math.inf)


@dataclass(eq=False, slots=True)
class _Connection:
    """A connection with at most one request in flight, which was meant to be sent at `due`."""

    socket: socket.socket
    due: float | None = None
    message: int = 0
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))
    received: bytearray = field(default_factory=bytearray)


class _Client:
    def __init__(
        self,
        address: Address,
        messages: Sequence[bytes],
        schedule: Sequence[float],
        *,
        limit_s: float,
        hopeless: float = _HOPELESS,
        connections: int = CONNECTIONS,
        warm_up_s: float = 0.0,
        keep: bool = False,
    ) -> None:
        self._address, self._limit_s, self._warm_up_s, self._keep = address, limit_s, warm_up_s, keep
        self._messages = [memoryview(message) for message in messages]
        self._schedule = deque(schedule)
        self._connections = connections
        self._counted = sum(due >= warm_up_s for due in schedule)
        self._allowed = max(20, int(self._counted * hopeless))
        # select(2) waits for microseconds, epoll and poll for milliseconds.
        self._selector = selectors.SelectSelector()
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._waiting = deque[float]()
        self._times: list[float] = []
        self._lags: list[float] = []
        self._sent = 0
        self._refused = self._overloaded = self._late = 0
        self._said: dict[tuple[int, Reply], int] = {}
        self._kept_bytes = 0
        self._first_refusal: Reply | None = None
        self._until = math.inf

    @property
    def _hopeless(self) -> bool:
        return self._late > self._allowed

    def __enter__(self) -> _Client:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._open:
            connection.socket.close()
        self._selector.close()

    def offered(self, rate: float) -> Offered:
        """What became of all that arrived so far."""
        lags = sorted(self._lags) or [0.0]
        arrived = len(self._lags)
        return Offered(
            rate=rate,
            times_ms=tuple(1000 * took for took in self._times),
            refused=self._refused,
            unanswered=arrived - len(self._times) - self._refused,
            late_send_ms=1000 * lags[math.ceil(0.99 * len(lags)) - 1],
            given_up=self._hopeless,
            overloaded=self._overloaded,
            said=tuple(Said(message, reply, times) for (message, reply), times in self._said.items()),
            first_refusal=self._first_refusal,
        )

    def run(self, within_s: float) -> None:
        began = time.perf_counter()
        self._until = began + within_s
        while self._schedule or self._waiting or len(self._idle) < len(self._open):
            now = time.perf_counter() - began
            if now > within_s or self._hopeless:
                return
            while self._schedule and self._schedule[0] <= now:
                due = self._schedule.popleft()
                if due >= self._warm_up_s:
                    self._lags.append(now - due)
                self._waiting.append(due)
            while self._waiting and time.perf_counter() < self._until and (connection := self._free()):
                self._begin(connection, self._waiting.popleft())
            pause = self._schedule[0] - (time.perf_counter() - began) if self._schedule else 0.05
            for key, events in self._selector.select(max(0.0, pause)):
                if events & selectors.EVENT_WRITE:
                    self._send(key.data)
                if events & selectors.EVENT_READ:
                    self._read(key.data, began)

    def _free(self) -> _Connection | None:
        if self._idle:
            return self._idle.pop()
        if len(self._open) == self._connections:
            return None
        patience_s = max(0.001, min(_CONNECT_WITHIN_S, self._until - time.perf_counter()))
        opened = socket.create_connection((self._address.host, self._address.port), timeout=patience_s)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setblocking(False)
        connection = _Connection(opened)
        self._open.add(connection)
        self._selector.register(opened, selectors.EVENT_READ, connection)
        return connection

    def _begin(self, connection: _Connection, due: float) -> None:
        connection.due, connection.message = due, self._sent % len(self._messages)
        connection.unsent = self._messages[connection.message]
        self._sent += 1
        self._send(connection)
        if connection.unsent and connection in self._open:
            self._selector.modify(connection.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, connection)

    def _send(self, connection: _Connection) -> None:
        """As much as the connection takes now: a large request must not hold up those that are due meanwhile."""
        if connection not in self._open:
            return
        watched = self._selector.get_key(connection.socket).events
        try:
            while connection.unsent:
                connection.unsent = connection.unsent[connection.socket.send(connection.unsent) :]
        except BlockingIOError:
            return
        except OSError:
            self._drop(connection)
            return
        if watched & selectors.EVENT_WRITE:
            self._selector.modify(connection.socket, selectors.EVENT_READ, connection)

    def _read(self, connection: _Connection, began: float) -> None:
        if connection not in self._open:
            return
        try:
            piece = connection.socket.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece or connection.due is None:
            self._drop(connection)
            return
        connection.received += piece
        reply = _complete(connection.received)
        if reply is None:
            return
        took = time.perf_counter() - began - connection.due
        if connection.due >= self._warm_up_s:
            self._count(reply, took)
        if self._keep:
            self._remember(connection.message, reply)
        connection.due = None
        connection.received.clear()
        self._idle.append(connection)

    def _count(self, reply: Reply, took: float) -> None:
        if reply.status == 200:
            self._times.append(took)
        else:
            self._refused += 1
            self._overloaded += reply.status == 503
        self._late += reply.status != 200 or took > self._limit_s

    def _remember(self, message: int, reply: Reply) -> None:
        if reply.status != 200:
            if self._first_refusal is None and reply.status != 503:
                self._first_refusal = reply
            return
        key = (message, reply)
        if key not in self._said:
            if self._kept_bytes + len(reply.body) > _KEPT_BYTES:
                return
            self._kept_bytes += len(reply.body)
        self._said[key] = self._said.get(key, 0) + 1

    def _drop(self, connection: _Connection) -> None:
        """What was in flight on it stays unanswered."""
        self._late += connection.due is not None and connection.due >= self._warm_up_s
        if connection in self._idle:
            self._idle.remove(connection)
        self._open.discard(connection)
        self._selector.unregister(connection.socket)
        with contextlib.suppress(OSError):
            connection.socket.close()


def _complete(received: bytearray) -> Reply | None:
    """A whole answer; None while some of it is missing."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(received[:end]).lower()
    length = _number(head, b"content-length")
    if length is None:
        raise Broken("the answer has no Content-Length")
    if len(received) < end + 4 + length:
        return None
    body = bytes(received[end + 4 : end + 4 + length])
    return Reply(int(head.split(b" ", 2)[1]), body, _number(head, b"inference-header-content-length"))


def _number(head: bytes, name: bytes) -> int | None:
    _, found, rest = head.partition(b"\r\n" + name + b":")
    return int(rest.split(b"\r\n", 1)[0]) if found else None
