"""How long work of a size takes, and how fast the line drains: what was measured lately.

In: durations as they happen. Out: estimates; None for what was never measured.
"""

from __future__ import annotations

#: By which share of the difference an estimate follows longer and shorter measurements. It rises faster, because what
#: it promises has to be kept; but one measurement in many that an interrupt made longer must not decide.
_RISES = 1 / 16
_FALLS = 1 / 128
#: Batches that the drain rate looks back on.
_DRAIN_BATCHES = 32


class Pace:
    """Seconds by size of work, in powers of two: averages on the safe side.

    Nothing is concluded from one size to another: what costs little for one row may cost much for thirty.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def seconds(self, work: int) -> float | None:
        return self._seconds.get(work.bit_length())

    def saw(self, work: int, seconds: float) -> None:
        size = work.bit_length()
        before = self._seconds.get(size, seconds)
        self._seconds[size] = before + (seconds - before) * (_RISES if seconds > before else _FALLS)


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
