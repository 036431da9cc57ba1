"""An open-loop driver: requests leave when their time has come, whether or not earlier ones were answered.

In: messages ready to be sent, and a plan of arrivals. Out: each request's latency **from its planned moment**, so that
waiting for a connection, or for a server that stands still, is counted (a closed loop would ask later instead, and
never see it: Tene's "coordinated omission"). Arrivals are a Poisson process, as independent clients make them.

One thread on a core of its own, which spins shortly before an arrival is due; how late it was itself is part of the
result, so that a driver that is the bottleneck is seen.
"""

from __future__ import annotations

import gc
import math
import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.serving.wire import read_answer

#: An arrival nearer than this is waited for by spinning: sleeping is exact to about 0.1 ms only.
_SPIN_S = 0.002


@dataclass(frozen=True, slots=True)
class Arrival:
    """When a request is due, in seconds from the start, and which message it is."""

    at_s: float
    kind: int


@dataclass(frozen=True, slots=True)
class Load:
    """What came of a plan. Latencies are in seconds, by kind of message, in order of arrival."""

    latencies: dict[int, tuple[float, ...]]
    failed: int
    late_p99_s: float

    def percentile(self, share: float, kind: int = 0) -> float:
        return percentile(self.latencies[kind], share)


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile: the smallest value that `share` of all did not exceed."""
    ranked = sorted(values)
    return ranked[max(1, math.ceil(share * len(ranked))) - 1]


def poisson(rate: float, seconds: float, every_nth_slow: int = 0, seed: int = 0) -> list[Arrival]:
    """Arrivals at `rate` a second. With `every_nth_slow` every so many-th is of kind 1: exactly that share, spread."""
    random = np.random.default_rng(seed)
    times = np.cumsum(random.exponential(1 / rate, math.ceil(rate * seconds)))
    return [
        Arrival(float(at), int(bool(every_nth_slow) and index % every_nth_slow == every_nth_slow // 2))
        for index, at in enumerate(times)
    ]


@dataclass(slots=True)
class _Connection:
    """One socket, and the request that it waits for."""

    socket: socket.socket
    due: float = 0.0
    kind: int = 0
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))
    received: bytearray = field(default_factory=bytearray)


def drive(
    port: int, messages: Sequence[bytes], arrivals: Sequence[Arrival], connections: int, timeout_s: float = 30.0
) -> Load:
    """Send every arrival's message at its time over `connections` kept-alive connections, the first free one each.

    What is not answered `timeout_s` after the last arrival, or not with status 200, has failed.

    Raises:
        OSError: the server does not accept connections.
    """
    driver = _Driver(port, messages, connections)
    enabled = gc.isenabled()
    gc.disable()  # a collection would be the server's latency
    try:
        return driver.run(arrivals, timeout_s)
    finally:
        if enabled:
            gc.enable()
        driver.close()


class _Driver:
    def __init__(self, port: int, messages: Sequence[bytes], connections: int) -> None:
        self._messages = [memoryview(message) for message in messages]
        self._poll = select.epoll()
        self._all = {}
        for _ in range(connections):
            opened = socket.create_connection(("127.0.0.1", port), 10)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            opened.setblocking(False)
            self._poll.register(opened, select.EPOLLIN)
            self._all[opened.fileno()] = _Connection(opened)
        self._free = deque(self._all.values())
        self._waiting: deque[tuple[float, int]] = deque()
        self._latencies: dict[int, list[float]] = {kind: [] for kind in range(len(messages))}
        self._failed = 0

    def close(self) -> None:
        for connection in self._all.values():
            connection.socket.close()
        self._poll.close()

    def run(self, arrivals: Sequence[Arrival], timeout_s: float) -> Load:
        start, late = time.perf_counter() + 0.05, []
        upcoming = deque((start + arrival.at_s, arrival.kind) for arrival in arrivals)
        deadline = upcoming[-1][0] + timeout_s
        open_requests = len(upcoming)
        while open_requests and (now := time.perf_counter()) < deadline and self._all:
            while upcoming and upcoming[0][0] <= now:
                late.append(now - upcoming[0][0])
                self._waiting.append(upcoming.popleft())
            while self._waiting and self._free:
                self._begin(self._free.popleft(), *self._waiting.popleft())
            idle_s = (upcoming[0][0] - now - _SPIN_S) if upcoming else 0.01
            for number, events in self._poll.poll(max(0.0, idle_s)):
                open_requests -= self._advance(self._all[number], events)
        return Load(
            {kind: tuple(values) for kind, values in self._latencies.items()},
            self._failed + open_requests,
            percentile(late, 0.99) if late else 0.0,
        )

    def _begin(self, connection: _Connection, due: float, kind: int) -> None:
        connection.due, connection.kind, connection.unsent = due, kind, self._messages[kind]
        self._send(connection)
        if connection.unsent:
            self._poll.modify(connection.socket, select.EPOLLIN | select.EPOLLOUT)

    def _send(self, connection: _Connection) -> None:
        try:
            while connection.unsent:
                connection.unsent = connection.unsent[connection.socket.send(connection.unsent) :]
        except BlockingIOError:
            return
        except OSError:
            connection.unsent = memoryview(b"")  # its end is read as such

    def _advance(self, connection: _Connection, events: int) -> int:
        """Go on with a connection that something happened on; how many requests ended by that."""
        if events & select.EPOLLOUT and connection.unsent:
            self._send(connection)
            if not connection.unsent:
                self._poll.modify(connection.socket, select.EPOLLIN)
        if not events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            return 0
        try:
            piece = connection.socket.recv(1 << 20)
        except BlockingIOError:
            return 0
        except OSError:
            piece = b""
        if not piece:
            return self._lose(connection)
        connection.received += piece
        answer = read_answer(connection.received)
        if answer is None:
            return 0
        took = time.perf_counter() - connection.due
        connection.received.clear()
        if answer.status == 200:
            self._latencies[connection.kind].append(took)
        else:
            self._failed += 1
        self._free.append(connection)
        return 1

    def _lose(self, connection: _Connection) -> int:
        """The server closed it: the request on it, if there was one, has failed, and the others share what is left."""
        busy = connection not in self._free
        if not busy:
            self._free.remove(connection)
        self._failed += busy
        self._poll.unregister(connection.socket)
        del self._all[connection.socket.fileno()]
        connection.socket.close()
        return int(busy)
