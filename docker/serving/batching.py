"""Which requests form the next batch: the scheduler's decisions, without clock, threads or arrays.

In: requests as they come (`Ticket`), batches as they end, and the time, all told by the caller. Out: the next `Batch`,
or why there is none yet. The rules:

    parts       a request of more rows than a batch holds is answered in parts of nearly equal size; after each part it
                goes to the end of the line, so that no request waits for more than a part of each of the others
    shapes      only rows of one `key` (all sizes but the batch's) share a batch: nothing is ever padded
    lanes       a request of far more work than is usual here is heavy, and heavy ones never take the last free worker
                while light ones come: so a slow request holds up others of its kind alone
    idle        where no worker is at work nothing waits: requests gather while workers are busy, and the window, where
                there is one, counts only then
    order       in each lane and shape, first come, first served; of several, the one that waits longest goes first
    deadline    a request whose deadline is over leaves the line before it costs anything

The lines are served in the manner of fair queueing by rounds (Nagle, RFC 970, section 4): a turn is a part.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

#: A request is heavy when a part of it is more work than this many usual ones: twice or four times as long is the
#: ordinary spread of sizes, and what a light one waits for it then is of its own order.
_HEAVY_FACTOR = 8.0
#: Below this nothing is heavy: it is the order of what a request takes anyway to come in and go out (0.2 ms), tenfold.
_HEAVY_FROM_S = 0.002
#: What is usual follows the last hundred requests or so; in the logarithm, so that a few giants do not move it.
_USUAL_WEIGHT = 1 / 64
#: A light request within this time keeps a worker free for the next; after it, all workers are for whoever comes.
_LIGHT_RECENTLY_S = 10.0


class Full(Exception):
    """There is no room for the request; `surplus` rows would have to leave the line first."""

    def __init__(self, waiting: int, surplus: int) -> None:
        self.waiting = waiting
        self.surplus = surplus
        super().__init__(f"{waiting} rows wait already")


@dataclass(frozen=True, slots=True)
class Limits:
    """What batches must keep to. `min_rows` is the least that the model takes at once."""

    max_rows: int
    queue_rows: int
    workers: int
    min_rows: int = 1
    window_s: float = 0.0


@dataclass(eq=False, slots=True)
class Ticket:
    """One request in line.

    `work` measures a whole part of it in any unit that grows with its cost; `seconds` is what such a part takes, where
    that is known. Times are on one clock of the caller's.
    """

    key: Hashable
    rows: int
    arrived: float
    deadline: float | None = None
    work: float = 1.0
    seconds: float | None = None
    heavy: bool = field(default=False, init=False)
    gone: bool = field(default=False, init=False)
    sizes: tuple[int, ...] = field(default=(), init=False)
    taken: int = field(default=0, init=False)
    given: int = field(default=0, init=False)
    order: int = field(default=0, init=False)


T = TypeVar("T", bound=Ticket)


@dataclass(frozen=True, slots=True)
class Part(Generic[T]):
    """Rows `start` to `stop` of a request: its part number `index`."""

    ticket: T
    index: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Batch(Generic[T]):
    """Parts that are run at once. Must be given back to `Line.done`."""

    parts: tuple[Part[T], ...]
    heavy: bool = False

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)


def part_sizes(rows: int, limits: Limits) -> tuple[int, ...]:
    """Sizes of the parts that a request is answered in: as few as fit, nearly equal, none below `min_rows`.

    A request that cannot be cut so (9 rows in parts of 5 to 8) stays whole: the model takes it, the batch is larger.
    """
    count = max(1, -(-rows // limits.max_rows))
    if count > 1 and rows // count < limits.min_rows:
        count = max(1, rows // limits.min_rows)
    small, larger = divmod(rows, count)
    return (small + 1,) * larger + (small,) * (count - larger)


class Line(Generic[T]):
    """Requests that wait, and which of them go next. Not for several threads."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.rows = 0
        self._waiting: dict[tuple[bool, Hashable], deque[T]] = {}
        self._ready: dict[tuple[bool, Hashable], int] = {}
        self._count = 0
        self._busy = 0
        self._busy_heavy = 0
        self._usual: float | None = None
        self._last_light = -math.inf

    @property
    def busy(self) -> int:
        """Batches that were given out and not given back."""
        return self._busy

    def admit(self, rows: int) -> None:
        """Take room for a request that is about to come; `leave` gives it back, or `add` uses it.

        An empty line takes whatever the contract allows: else the largest requests could never be answered.

        Raises:
            Full
        """
        if self.rows and self.rows + rows > self.limits.queue_rows:
            raise Full(self.rows, self.rows + rows - self.limits.queue_rows)
        self.rows += rows

    def leave(self, rows: int) -> None:
        """Give back room that was admitted and is not used."""
        self.rows -= rows

    def add(self, ticket: T) -> None:
        """Put an admitted request into the line."""
        ticket.sizes = part_sizes(ticket.rows, self.limits)
        ticket.heavy = self._is_heavy(ticket)
        if not ticket.heavy:
            self._last_light = ticket.arrived
        self._push(ticket)

    def remove(self, ticket: T) -> None:
        """Take a request out, whatever of it still waits."""
        if ticket.gone or ticket.taken == len(ticket.sizes):
            return
        ticket.gone = True
        self.rows -= ticket.rows - ticket.given
        self._ready[ticket.heavy, ticket.key] -= ticket.sizes[ticket.taken]

    def next(self, now: float) -> Batch[T] | float | None:
        """The next batch; or the time at which to ask again; or nothing until something is added or done."""
        if self._busy >= self.limits.workers:
            return None
        choice, until = None, math.inf
        for lane, line in list(self._waiting.items()):
            self._skip(lane, line, now)
            if not line:
                del self._waiting[lane], self._ready[lane]
                continue
            if lane[0] and not self._is_free_for_heavy(now):
                continue
            opens = self._opens(lane, line[0])
            if opens > now:
                until = min(until, opens)
            elif choice is None or line[0].order < self._waiting[choice][0].order:
                choice = lane
        if choice is None:
            return None if until == math.inf else until
        return self._take(choice, now)

    def done(self, batch: Batch[T]) -> None:
        """A batch has been run, however it ended."""
        self._busy -= 1
        self._busy_heavy -= batch.heavy

    def clear(self) -> Iterator[T]:
        """Take every waiting request out."""
        for line in self._waiting.values():
            for ticket in line:
                if not ticket.gone:
                    self.remove(ticket)
                    yield ticket

    # --- parts of the rules ---------------------------------------------------------------------------------------

    def _is_heavy(self, ticket: T) -> bool:
        work = math.log(max(ticket.work, 1e-9))
        if self._usual is None:
            self._usual = work
        heavy = work - self._usual > math.log(_HEAVY_FACTOR)
        self._usual += (work - self._usual) * _USUAL_WEIGHT
        return heavy and (ticket.seconds is None or ticket.seconds > _HEAVY_FROM_S)

    def _is_free_for_heavy(self, now: float) -> bool:
        reserved = 1 if now - self._last_light < _LIGHT_RECENTLY_S else 0
        return self._busy_heavy < max(1, self.limits.workers - reserved)

    def _opens(self, lane: tuple[bool, Hashable], first: T) -> float:
        """From when on a batch of this lane may be taken."""
        if not self.limits.window_s or not self._busy or self._ready[lane] >= self.limits.max_rows:
            return -math.inf
        return first.arrived + self.limits.window_s

    def _push(self, ticket: T) -> None:
        lane = (ticket.heavy, ticket.key)
        self._count += 1
        ticket.order = self._count
        if lane not in self._waiting:
            self._waiting[lane], self._ready[lane] = deque(), 0
        self._waiting[lane].append(ticket)
        self._ready[lane] += ticket.sizes[ticket.taken]

    def _skip(self, lane: tuple[bool, Hashable], line: deque[T], now: float) -> None:
        """Let go of requests at the head that are gone, or whose deadline is over."""
        while line and (line[0].gone or _is_over(line[0], now)):
            self.remove(line.popleft())

    def _take(self, lane: tuple[bool, Hashable], now: float) -> Batch[T]:
        """Fill a batch from the head of a lane, in order, as far as it fits."""
        line, parts, room = self._waiting[lane], list[Part[T]](), self.limits.max_rows
        again: list[T] = []
        while line:
            ticket = line[0]
            size = ticket.sizes[ticket.taken]
            if parts and size > room:
                break
            line.popleft()
            parts.append(Part(ticket, ticket.taken, ticket.given, ticket.given + size))
            ticket.given += size
            room -= size
            self.rows -= size
            self._ready[lane] -= size
            ticket.taken += 1
            if ticket.taken < len(ticket.sizes):
                again.append(ticket)
            self._skip(lane, line, now)
        for ticket in again:
            self._push(ticket)
        if not line:
            del self._waiting[lane], self._ready[lane]
        self._busy += 1
        self._busy_heavy += lane[0]
        return Batch(tuple(parts), heavy=lane[0])


def _is_over(ticket: Ticket, now: float) -> bool:
    return ticket.deadline is not None and now >= ticket.deadline
