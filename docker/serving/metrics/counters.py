"""The cheapest counters that can be rendered as Prometheus' later: no locks, because one thread records and reads."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Up to so many values a loop in Python is quicker than a call of NumPy.
_FEW = 16

#: So many requests are counted at once: their share of NumPy's overhead is then below a microsecond each, and the pause
#: is still below the time of one request.
_TOGETHER = 32

#: Arrays above this size are counted at once: their work outweighs the call, and they should not be kept.
_LARGE = 1 << 13


class Histogram:
    """Counts of values at most as large as each edge, as Prometheus' `le`; the last count is of those beyond."""

    __slots__ = ("counts", "edges", "sum")

    def __init__(self, edges: Sequence[float]) -> None:
        self.edges = tuple(edges)
        self.counts = [0] * (len(self.edges) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.edges, value)] += 1
        self.sum += value

    def observe_each(self, values: NDArray[Any]) -> None:
        """Count every value of an array; none of them may be NaN."""
        if values.size <= _FEW:
            for value in values.ravel().tolist():
                self.observe(value)
            return
        places = np.searchsorted(np.asarray(self.edges), values.ravel())
        for place, count in enumerate(np.bincount(places, minlength=len(self.counts)).tolist()):
            self.counts[place] += count
        self.sum += float(values.sum())

    def cumulative(self) -> list[tuple[float, int]]:
        """Each edge with the number of values up to it, the last edge being infinity."""
        totals = np.cumsum(self.counts).tolist()
        return list(zip((*self.edges, float("inf")), totals, strict=True))


class Gathered:
    """Small arrays of many requests, counted together: NumPy's calls cost more than their work on a single row.

    `count` takes what was gathered, joined along the first axis. What waits is a copy of at most `_LARGE` bytes a
    request, so nothing that a client sent is kept alive by it; strings, however long, do not wait.
    """

    __slots__ = ("_count", "_waiting")

    def __init__(self, count: Callable[[NDArray[Any]], None]) -> None:
        self._count = count
        self._waiting: list[NDArray[Any]] = []

    def add(self, array: NDArray[Any]) -> None:
        if array.nbytes > _LARGE or array.dtype == object:
            self._count(array)
            return
        self._waiting.append(array.copy())
        if len(self._waiting) == _TOGETHER:
            self.settle()

    def settle(self) -> None:
        """Count what waits."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self._count(np.concatenate(waiting))
