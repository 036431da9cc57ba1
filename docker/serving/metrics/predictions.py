"""The distribution of a model's answers, per output, with every bin fixed when the server starts.

What an output is, its shape and the golden samples say:

    [rows, classes] of floats   the class with the highest value of each row, and, where the golden rows are
                                probabilities, their logarithms or logits, how sure the model was of it
    one float per row           a histogram; edges are the deciles of the golden answers
    one word, integer or bool   the values that golden answers have, and `other`
    anything else               not counted

So the number of series follows from the package, never from the traffic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import Signature, TensorSpec
from serving.metrics.counters import Gathered, Histogram
from serving.metrics.inputs import LOOKED_AT

#: More classes than this share their bins: neighbours together, at most so many bins.
MOST_CLASSES = 128

#: Of each request, at least so many rows are counted however many classes they have.
_ROWS = 8

#: Edges of confidence: even, and finer where a sure model spends its time.
CONFIDENCE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0)

#: A row of probabilities sums to 1 within what float16 loses over a thousand classes.
_SUMS_TO_ONE = 5e-3

#: From a row's highest value, and the row, to the probability of its class.
_Confidence = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]


class Classes:
    """An output of [rows, classes]: which class won, and how surely."""

    def __init__(self, name: str, classes: int, golden: NDArray[Any] | None) -> None:
        self.name = name
        self._classes = classes
        self._width = -(-classes // MOST_CLASSES)
        self.counts = [0] * -(-classes // self._width)
        self.invalid = 0
        self._probability = _meaning(name, golden)
        self.confidence = None if self._probability is None else Histogram(CONFIDENCE)
        self.gathered = Gathered(self._count)

    def label(self, index: int) -> str:
        """The class that a bin counts, or the first and last of those that share it."""
        first = index * self._width
        last = min(first + self._width, self._classes) - 1
        return str(first) if first == last else f"{first}-{last}"

    def observe(self, array: NDArray[Any]) -> None:
        self.gathered.add(array[: max(_ROWS, LOOKED_AT // self._classes)])

    def _count(self, rows: NDArray[Any]) -> None:
        highest = rows.max(1)
        winners = rows.argmax(1)
        wrong = np.isnan(highest)
        if invalid := int(np.count_nonzero(wrong)):
            self.invalid += invalid
            valid = ~wrong
            rows, highest, winners = rows[valid], highest[valid], winners[valid]
        for place, count in enumerate(np.bincount(winners // self._width).tolist()):
            self.counts[place] += count
        if self.confidence is not None and self._probability is not None:
            self.confidence.observe_each(self._probability(highest, rows))


class Scores:
    """An output of one float per row."""

    def __init__(self, name: str, golden: NDArray[Any]) -> None:
        self.name = name
        self.histogram = Histogram(_deciles(golden))
        self.invalid = 0
        self.gathered = Gathered(self._count)

    def observe(self, array: NDArray[Any]) -> None:
        self.gathered.add(array.reshape(-1)[:LOOKED_AT])

    def _count(self, values: NDArray[Any]) -> None:
        wrong = np.isnan(values)
        if invalid := int(np.count_nonzero(wrong)):
            self.invalid += invalid
            values = values[~wrong]
        self.histogram.observe_each(values)


class Labels:
    """An output of one word, integer or boolean per row."""

    OTHER = "other"

    def __init__(self, name: str, golden: NDArray[Any]) -> None:
        self.name = name
        known = sorted({_word(value) for value in golden.reshape(-1).tolist()})[:MOST_CLASSES]
        self.counts = dict.fromkeys((*known, self.OTHER), 0)
        self.gathered = Gathered(self._count)

    def observe(self, array: NDArray[Any]) -> None:
        self.gathered.add(array.reshape(-1)[:LOOKED_AT])

    def _count(self, values: NDArray[Any]) -> None:
        for value in values.tolist():
            word = _word(value)
            self.counts[word if word in self.counts else self.OTHER] += 1


#: What watches one output.
Watch = Classes | Scores | Labels


def watches(signature: Signature, golden: Mapping[str, NDArray[Any]]) -> tuple[Watch, ...]:
    """One watch for each output whose distribution says something."""
    found = (_watch(spec, golden.get(spec.name)) for spec in signature.outputs if signature.batch)
    return tuple(watch for watch in found if watch is not None)


def _watch(spec: TensorSpec, golden: NDArray[Any] | None) -> Watch | None:
    rest = spec.shape[1:]
    if rest in ((), (1,)):
        if golden is None or not golden.size:
            return None
        return Scores(spec.name, golden) if spec.dtype.is_float else Labels(spec.name, golden)
    if len(rest) == 1 and isinstance(rest[0], int) and spec.dtype.is_float:
        return Classes(spec.name, rest[0], golden)
    return None


def _meaning(name: str, golden: NDArray[Any] | None) -> _Confidence | None:
    """How the rows of an output say how sure the model is; `None` where they do not.

    Golden rows that are no probabilities may be logits or the answers of a regression: their name decides.
    """
    if golden is None or not golden.size or not np.isfinite(golden).all():
        return None
    rows = golden.astype(np.float64)
    if (rows >= 0).all() and np.allclose(rows.sum(1), 1, atol=_SUMS_TO_ONE):
        return lambda highest, _: highest
    if (rows <= 0).all() and np.allclose(np.exp(rows).sum(1), 1, atol=_SUMS_TO_ONE):
        return lambda highest, _: np.exp(highest)
    if "logit" in name.lower():
        return lambda highest, rows: 1 / np.exp(rows - highest[:, None]).sum(1)
    return None


def _deciles(golden: NDArray[Any]) -> list[float]:
    """Edges at the tenths of the golden answers, rounded to three digits for people."""
    finite = golden.astype(np.float64).reshape(-1)
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return [0.0]
    return sorted({float(f"{edge:.3g}") for edge in np.quantile(finite, np.linspace(0, 1, 11))})


def _word(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
