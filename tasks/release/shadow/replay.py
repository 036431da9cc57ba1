"""Sending: the same request to the old and to the new version, answers kept side by side. The only part with a clock.

In: where both listen, and requests. Out: a `Replay` of pairs. Users are served by the old version, and by the same
machine, meanwhile: few connections, each of which rests for longer than its answers took, so that shadow never has more
than `Pace.share` of one worker, and has less as soon as answers become slower. What the old version answered before (a
prediction log) is not asked of it again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum

from serving.contract import Signature
from tasks.load.client import Address, Broken, Connection, Unanswered, post
from tasks.release.contracts import Endpoint
from tasks.release.shadow.requests import ID_PREFIX, Arrays, Request
from tasks.smoke.protocol import NotTheProtocol, decode_response, encode_request

#: Requests in a row that the new version does not answer at all: it is dead, and not asked a thousand times.
_DEAD_AFTER = 20
#: How often the old version, which users come first for, is asked again where it says that it has no room.
_PATIENCE = 3
#: The protocol's answers when there is no room: the server's own 503, a proxy's 429.
_NO_ROOM = (429, 503)


class Fault(StrEnum):
    """Why a request has no answer."""

    REFUSED = "refused"  # 4xx: the request is taken for wrong
    FAILED = "failed"  # 5xx
    UNANSWERED = "unanswered"  # nothing within the time limit
    BROKEN = "broken"  # the connection was refused or lost
    UNREADABLE = "unreadable"  # 200, and not what the protocol and the contract promise


@dataclass(frozen=True, slots=True)
class Answer:
    """What one version made of one request. `outputs` are there exactly when there is no fault."""

    took_ms: float
    outputs: Arrays | None = None
    fault: Fault | None = None
    said: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """One request and both answers; `old` is None where there is no old version. `id` is what the logs know it by."""

    request: Request
    id: str
    new: Answer
    old: Answer | None = None

    @property
    def is_complete(self) -> bool:
        """Whether there is something to compare."""
        return self.new.outputs is not None and (self.old is None or self.old.outputs is not None)


@dataclass(frozen=True, slots=True)
class Replay:
    """All pairs in the order of the requests, and why there are no more of them, where there are fewer than planned."""

    pairs: tuple[Pair, ...]
    stopped: str = ""


@dataclass(frozen=True, slots=True)
class Pace:
    """How gently both are asked. `share` is of one worker's time, for all connections together."""

    connections: int = 2
    share: float = 0.2
    timeout_s: float = 10.0
    within_s: float = 900.0


@dataclass(frozen=True, slots=True)
class Target:
    """One version as it is asked. `raw` is what its clients send and read."""

    endpoint: Endpoint
    model: str
    raw: Signature


def replay(
    requests: Sequence[Request],
    old: Target | None,
    new: Target,
    pace: Pace | None = None,
    is_over: Callable[[], bool] = lambda: False,
) -> Replay:
    """Send every request to both, until all are sent, `is_over` says so, or time is up."""
    asked = _Asking(requests, old, new, pace or Pace(), is_over)
    with ThreadPoolExecutor(asked.pace.connections) as pool:
        pairs = [pair for found in pool.map(asked.work, range(asked.pace.connections)) for pair in found]
    return Replay(tuple(pair for _, pair in sorted(pairs, key=lambda item: item[0])), asked.stopped)


class _Asking:
    """What the connections share: the next request, and whether to go on."""

    def __init__(
        self,
        requests: Sequence[Request],
        old: Target | None,
        new: Target,
        pace: Pace,
        is_over: Callable[[], bool],
    ) -> None:
        self.pace, self.stopped = pace, ""
        self._old, self._new, self._is_over = old, new, is_over
        self._next = iter(enumerate(requests))
        self._turn = threading.Lock()
        self._deadline = time.monotonic() + pace.within_s
        self._in_a_row = 0

    def work(self, _: int) -> list[tuple[int, Pair]]:
        """One connection to each version, as long as there is something to send."""
        found = []
        with _Line(self._new, self.pace) as new, _Line(self._old or self._new, self.pace) as old:
            for number, request in self._requests():
                pair = self._ask(number, request, old if self._old is not None else None, new)
                found.append((number, pair))
                busy_s = (pair.new.took_ms + (pair.old.took_ms if pair.old is not None else 0.0)) / 1000
                self._rest(busy_s * (self.pace.connections / self.pace.share - 1))
        return found

    def _requests(self) -> Iterator[tuple[int, Request]]:
        while True:
            with self._turn:
                if self._has_ended() or (item := next(self._next, None)) is None:
                    return
            yield item

    def _has_ended(self) -> bool:
        if not self.stopped and self._is_over():
            self.stopped = "it was stopped"
        if not self.stopped and time.monotonic() > self._deadline:
            self.stopped = f"its {self.pace.within_s:g} s were over"
        if not self.stopped and self._in_a_row >= _DEAD_AFTER:
            self.stopped = f"the new version left {_DEAD_AFTER} requests in a row without an answer"
        return bool(self.stopped)

    def _ask(self, number: int, request: Request, old: _Line | None, new: _Line) -> Pair:
        identity = f"{ID_PREFIX}{number}"
        before: Answer | None = None
        if old is not None and request.recorded is not None:
            before = Answer(0.0, request.recorded)
        elif old is not None:
            before = old.ask(request, identity, tries=_PATIENCE)
        after = new.ask(request, identity)
        with self._turn:
            silent = after.fault in {Fault.UNANSWERED, Fault.BROKEN}
            self._in_a_row = self._in_a_row + 1 if silent else 0
        return Pair(request, identity, after, before)

    def _rest(self, seconds: float) -> None:
        time.sleep(min(max(seconds, 0.0), max(self._deadline - time.monotonic(), 0.0)))


class _Line:
    """One connection to one version."""

    def __init__(self, target: Target, pace: Pace) -> None:
        self._raw, self._path = target.raw, f"/v2/models/{target.model}/infer"
        self._connection = Connection(Address(target.endpoint.host, target.endpoint.port), pace.timeout_s)

    def __enter__(self) -> _Line:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(self, request: Request, identity: str, tries: int = 1) -> Answer:
        """One request; again, after a while, where there is no room and `tries` are left."""
        body = encode_request(request.inputs, request.recorded or {}, self._raw, identity)
        message = post(self._path, body.content, body.json_bytes)
        began = time.perf_counter()
        try:
            reply = self._connection.request(message)
        except Unanswered as error:
            return Answer(_ms_since(began), fault=Fault.UNANSWERED, said=str(error))
        except Broken as error:
            return Answer(_ms_since(began), fault=Fault.BROKEN, said=str(error))
        took_ms = _ms_since(began)
        if reply.status in _NO_ROOM and tries > 1:
            time.sleep(1.0)  # what the server's own `retry-after` says at least
            return self.ask(request, identity, tries - 1)
        if reply.status != 200:
            wrong = 400 <= reply.status < 500 and reply.status not in _NO_ROOM
            fault = Fault.REFUSED if wrong else Fault.FAILED
            said = f"status {reply.status}: {reply.body[:300].decode(errors='replace')}"
            return Answer(took_ms, fault=fault, said=said)
        try:
            return Answer(took_ms, decode_response(reply.body, self._raw, reply.json_bytes))
        except NotTheProtocol as error:
            return Answer(took_ms, fault=Fault.UNREADABLE, said=str(error))


def _ms_since(began: float) -> float:
    return 1000 * (time.perf_counter() - began)
