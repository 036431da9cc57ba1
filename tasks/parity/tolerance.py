"""How far an export may lie from its source, from how far the source lies from itself.

In: the source's answers to some rows, and its answers to the same rows under conditions that change nothing but
rounding. Out: an `Allowance` per output, and which rows stand on an edge where the smallest rounding changes the
answer. Functions of arrays.

Two faithful implementations of one model differ because floating-point sums depend on their order. How much that is
for this model, on these rows, is measured; no tolerance is set by hand.

**With a float64 twin** (the same weights, evaluated in float64) the source's own rounding error is seen directly:
noise = |source - twin|, together with |source - source asked in other batches, in another order, with one thread|. An
export is another draw of the same error, so the allowed difference is `SAFETY` = 8 times the largest noise:

- √2, because a difference carries the errors of both sides;
- √32, because the export may add in order where the source keeps 32 partial sums (an AVX2 kernel with four
  accumulators of eight floats). Rounding errors of a sum of n grow as √n·u (Higham and Mary 2019, "A new approach to
  probabilistic rounding error analysis", SIAM J. Sci. Comput. 41(5), theorem 2.4), with b partial sums as √(n/b)·u
  (Blanchard, Higham, Mary 2020, "A class of fast and accurate summation algorithms", SIAM J. Sci. Comput. 42(3)).

**Without a twin** (the source computes in float64 anyway and the export does not, or its framework cannot) the source's
inputs are moved by `SAFETY` units in the last place, at random up or down: what the answer moves by is what rounding
the inputs that far would do (stochastic arithmetic: Vignes 2004, "Discrete stochastic arithmetic for validating
results of numerical software", Numer. Algorithms 37). Below that stands the probabilistic bound of Higham and Mary for
a sum of n terms, λ·√n·u relative to the output's scale, where λ makes a false alarm over all m values compared less
likely than `FALSE_ALARM`: 2·m·exp(-λ²/2) = `FALSE_ALARM`.

Noise is taken per position of the output (per class, per target), because one tolerance for all would be the largest
one's. A position that happens to show little noise gets the median noise of all, relative to its own scale, and never
less than one unit in the last place, times `SAFETY`.

**Edges.** Trees, argmax and rounding have edges where a difference in the last place changes the answer altogether. A
row whose noise takes more than half of its digits (noise > √u · scale) is such a row: it says nothing about rounding,
so it is left out of the measurement, and has to match one of the source's own answers in its neighbourhood instead
(`tasks.parity.edges`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import Signature, TensorSpec, Tolerance
from tasks.parity.compare import Allowance

#: Conditions under which a faithful source answers the same but for rounding; findings and reports name them.
AGAIN, ALONE, REVERSED, MANY_THREADS, FLOAT64, MOVED = (
    "the same batch again",
    "rows one by one",
    "rows in reverse order",
    "many threads",
    "float64",
    "moved inputs",
)
#: √2 for two erring sides times √32 for the order of summation; see above.
SAFETY = 8.0
#: Accepted probability that a clean export is blocked by the probabilistic bound, per output and pool.
FALSE_ALARM = 1e-4


@dataclass(frozen=True, slots=True)
class Probe:
    """The source's answers to the same rows under one condition that changes nothing but rounding.

    Under `MOVED` its inputs were moved by `SAFETY` units in the last place, so that its change is already what is
    allowed; under any other condition the change is noise, and allowed `SAFETY` times.
    """

    condition: str
    answers: Mapping[str, NDArray[Any]]

    @property
    def moved(self) -> bool:
        return self.condition == MOVED


@dataclass(frozen=True, slots=True)
class Noise:
    """What the probes say about one output over the probed rows.

    `largest` is the largest change of a stable row under each condition, where moved inputs count for one unit in the
    last place. `edges` marks the rows that are not stable, `unstable` counts them under each condition; `twin` says
    whether a float64 twin was among the probes.
    `beside` is what is allowed against an answer to moved inputs.
    """

    allowance: Allowance
    beside: Allowance
    largest: Mapping[str, float]
    edges: NDArray[np.bool_]
    unstable: Mapping[str, int]
    twin: bool

    @property
    def level(self) -> float:
        """The source's own noise: the largest change under any condition; moved inputs count where no twin shows it."""
        return max((change for name, change in self.largest.items() if name != MOVED or not self.twin), default=0.0)

    @property
    def tolerance(self) -> Tolerance:
        """The allowance as one pair of numbers for the whole output, as loose as its loosest position."""
        return Tolerance(float(self.allowance.atol.max(initial=0.0)), self.allowance.rtol)


def unit_roundoff(signature: Signature, output: TensorSpec) -> float:
    """u of the arithmetic behind an output: its own dtype's, or float32's where any input is not float64.

    u = 2^-p for p digits of significand (Higham 2002, "Accuracy and Stability of Numerical Algorithms", section 2.1).
    """
    wide = all(tensor.dtype.value == "float64" for tensor in signature.inputs)
    involved = {"float64" if wide else "float32"} | ({output.dtype.value} if output.dtype.is_float else set())
    return max(float(np.finfo(name).eps) for name in involved) / 2


def measure(
    answers: NDArray[Any], probes: tuple[Probe, ...], output: TensorSpec, unit: float, terms: int, values: int
) -> Noise:
    """The noise of one output, and what it allows.

    Args:
        answers: the source's answers to the probed rows, (rows, *position).
        probes: its answers to the same rows under other conditions; a probe without this output is passed over.
        output: the output as declared.
        unit: unit roundoff of the arithmetic, from `unit_roundoff`.
        terms: length of the longest chain of additions from input to output, where it is known, else a row's values.
        values: how many values will be compared in all.
    """
    taken = tuple(probe for probe in probes if output.name in probe.answers)
    twin = any(probe.condition == FLOAT64 for probe in taken)
    if not output.dtype.is_float:
        unequal = [(probe.condition, _rows(_unequal(answers, probe.answers[output.name]))) for probe in taken]
        exact = Allowance(np.zeros(answers.shape[1:]), 0.0)
        return Noise(exact, exact, {}, *_edges(unequal, len(answers)), twin)

    expected = answers.astype(np.float64)
    scale = scale_of(expected)
    # Below half the digits of the whole output, a position holds nothing but noise.
    floor = np.maximum(scale, math.sqrt(unit) * scale.max(initial=0.0))
    still: list[tuple[str, NDArray[np.float64]]] = []
    moved: list[tuple[str, NDArray[np.float64]]] = []
    jumps: list[tuple[str, NDArray[np.bool_]]] = []
    for probe in taken:
        other = probe.answers[output.name].astype(np.float64)
        change = _change(expected, other)
        weight = SAFETY if probe.moved else 1.0
        jumped = _rows(change > weight * math.sqrt(unit) * floor) | _rows(np.isfinite(expected) != np.isfinite(other))
        jumps.append((probe.condition, jumped))
        (moved if probe.moved else still).append((probe.condition, change))
    edges, unstable = _edges(jumps, len(expected))
    stable = ~edges
    largest = {condition: float(change[stable].max(initial=0.0)) for condition, change in still}
    for condition, change in moved:
        one_unit = float(change[stable].max(initial=0.0)) / SAFETY
        largest[condition] = max(largest.get(condition, 0.0), one_unit)

    noise = _largest([change for _, change in still], stable, scale.shape)
    allowed = SAFETY * np.maximum(evened(noise, scale), unit * scale)
    beside = np.maximum(allowed, evened(_largest([change for _, change in moved], stable, scale.shape), scale))
    if not twin:
        allowed = beside = np.maximum(beside, probable_error(unit, terms, values) * scale)
    # Subnormal numbers may be flushed to zero.
    tiny = float(np.finfo(output.dtype.numpy).tiny)
    rtol = SAFETY * unit
    here, aside = (Allowance(np.maximum(atol, tiny), rtol) for atol in (allowed, beside))
    return Noise(here, aside, largest, edges, unstable, twin)


def _edges(jumps: list[tuple[str, NDArray[np.bool_]]], rows: int) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """The rows that jump under any condition, and how many do under each."""
    edges, counts = np.zeros(rows, dtype=bool), dict[str, NDArray[np.bool_]]()
    for condition, jumped in jumps:
        edges |= jumped
        counts[condition] = counts.get(condition, np.zeros(rows, dtype=bool)) | jumped
    return edges, {condition: int(where.sum()) for condition, where in counts.items()}


def probable_error(unit: float, terms: int, values: int) -> float:
    """λ·√n·u with λ from `FALSE_ALARM` over all values (Higham and Mary 2019, theorem 2.4)."""
    return confidence(values) * math.sqrt(max(terms, 1)) * unit


def confidence(values: int) -> float:
    """λ, of which a subgaussian error exceeds λ standard deviations in any of so many values with `FALSE_ALARM`."""
    return math.sqrt(2 * math.log(2 * max(values, 1) / FALSE_ALARM))


def scale_of(expected: NDArray[np.float64]) -> NDArray[np.float64]:
    """The largest finite magnitude at every position."""
    size = np.where(np.isfinite(expected), np.abs(expected), 0.0)
    return np.asarray(size.max(axis=0, initial=0.0))


def _change(expected: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    both = np.isfinite(expected) & np.isfinite(other)
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(both, np.abs(other - expected), 0.0)


def _unequal(answers: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
    return np.asarray(answers.astype(object) != other.astype(object), dtype=bool)


def _rows(where: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(where.reshape(len(where), -1).any(axis=1))


def _largest(
    changes: list[NDArray[np.float64]], stable: NDArray[np.bool_], shape: tuple[int, ...]
) -> NDArray[np.float64]:
    largest = np.zeros(shape)
    for change in changes:
        largest = np.maximum(largest, change[stable].max(axis=0, initial=0.0))
    return largest


def evened(noise: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """Noise per position, and no less than the median of all positions relative to its own scale."""
    used = scale > 0
    typical = float(np.median(noise[used] / scale[used])) if used.any() else 0.0
    return np.maximum(noise, typical * scale)
