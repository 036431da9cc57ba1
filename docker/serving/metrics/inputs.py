"""The quality of what clients send, per input: how much of it is missing, or beyond the declared range."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import DType, TensorSpec
from serving.metrics.counters import Gathered

#: Of each tensor of a request, about so many values are looked at, the first: more would cost more than the request's
#: budget for being watched (20 µs).
LOOKED_AT = 1024


class InputQuality:
    """Counts over one input. Missing are NaN and, of strings, the empty one."""

    __slots__ = ("gathered", "high", "is_float", "is_string", "looked_at", "low", "missing", "name", "outside")

    def __init__(self, spec: TensorSpec, low: float | None = None, high: float | None = None) -> None:
        self.name = spec.name
        self.is_float, self.is_string = spec.dtype.is_float, spec.dtype is DType.STRING
        self.low, self.high = low, high
        self.looked_at = self.missing = self.outside = 0
        self.gathered = Gathered(self._count)

    @property
    def is_ranged(self) -> bool:
        return self.low is not None or self.high is not None

    def observe(self, array: NDArray[Any]) -> None:
        self.gathered.add(array.reshape(-1)[:LOOKED_AT])

    def _count(self, values: NDArray[Any]) -> None:
        self.looked_at += values.size
        if self.is_string:
            self.missing += sum(not value for value in values.tolist())
            return
        if self.is_float:
            self.missing += int(np.count_nonzero(np.isnan(values)))
        # Comparisons with NaN are false: what is missing is not out of range as well.
        if self.low is not None:
            self.outside += int(np.count_nonzero(values < self.low))
        if self.high is not None:
            self.outside += int(np.count_nonzero(values > self.high))
