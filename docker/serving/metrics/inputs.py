"""The quality of what clients send, per input: how much of it is missing. What a request was refused for counts apart
(`serving.tensors.BadRequest`)."""

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

    __slots__ = ("gathered", "is_float", "is_string", "looked_at", "missing", "name")

    def __init__(self, spec: TensorSpec) -> None:
        self.name = spec.name
        self.is_float, self.is_string = spec.dtype.is_float, spec.dtype is DType.STRING
        self.looked_at = self.missing = 0
        self.gathered = Gathered(self._count)

    def observe(self, array: NDArray[Any]) -> None:
        self.gathered.add(array.reshape(-1)[:LOOKED_AT])

    def _count(self, values: NDArray[Any]) -> None:
        self.looked_at += values.size
        if self.is_string:
            self.missing += sum(not value for value in values.tolist())
            return
        if self.is_float:
            self.missing += int(np.count_nonzero(np.isnan(values)))
