"""How long work of a size takes, and how fast the line drains: what was measured lately.

In: durations as they happen. Out: estimates; None for what was never measured.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

#: By which share of the difference an estimate follows longer and shorter measurements. It rises faster, because what
#: it promises has to be kept; but one measurement in many that an interrupt made longer must not decide.
_RISES = 1 / 16
_FALLS = 1 / 128
#: What takes so many times as long as it computes waits for something, and is not quick however little it computes. On
#: a busy machine it waits for the CPU, which must not make it slow: hence no smaller number.
_MAY_WAIT = 4
#: Batches that the drain rate looks back on.
_DRAIN_BATCHES = 32


@dataclass(frozen=True, slots=True)
class Took:
    """What a piece of work took: the seconds that passed, and those that its thread computed."""

    wall_s: float
    cpu_s: float


class Stopwatch:
    """Measures from its construction on, in the thread that constructed it."""

    __slots__ = ("_cpu", "_wall")

    def __init__(self) -> None:
        self._wall, self._cpu = time.monotonic(), time.thread_time()

    def took(self) -> Took:
        return Took(time.monotonic() - self._wall, time.thread_time() - self._cpu)


class Pace:
    """What work takes by its size, in powers of two: averages on the safe side.

    Nothing is concluded from one size to another: what costs little for one row may cost much for thirty.
    """

    def __init__(self) -> None:
        self._seen: dict[int, Took] = {}

    def seconds(self, work: int) -> float | None:
        """How long work of this size takes; None where that was never measured."""
        seen = self._seen.get(work.bit_length())
        return None if seen is None else seen.wall_s

    def is_below(self, seconds: float, work: int) -> bool:
        """Whether work of this size was measured, and computes for less time than that."""
        seen = self._seen.get(work.bit_length())
        return seen is not None and seen.cpu_s < seconds and seen.wall_s < seconds * _MAY_WAIT

    def saw(self, work: int, took: Took) -> None:
        size = work.bit_length()
        before = self._seen.get(size, took)
        self._seen[size] = Took(_follow(before.wall_s, took.wall_s), _follow(before.cpu_s, took.cpu_s))


def _follow(before: float, now: float) -> float:
    return before + (now - before) * (_RISES if now > before else _FALLS)


class Drain:
    """Rows per second that leave while there is work."""

    def __init__(self) -> None:
        self._rows = 0.0
        self._seconds = 0.0
        self._last = 0.0

    def began(self, now: float) -> None:
        """Work begins after a time in which there was none."""
        self._last = now

    def left(self, now: float, rows: int) -> None:
        keep = 1 - 1 / _DRAIN_BATCHES
        self._rows = self._rows * keep + rows
        self._seconds = self._seconds * keep + max(0.0, now - self._last)
        self._last = now

    def seconds(self, rows: int) -> float | None:
        """How long so many rows take to leave."""
        return rows * self._seconds / self._rows if self._rows else None
