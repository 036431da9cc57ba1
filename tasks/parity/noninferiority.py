"""How much an export may have lost, at a level of confidence: the one-sided upper bound of a paired drop.

In: for each row (or query) what it adds to the drop. Out: the bound, and how many rows would decide. Pure.

The rows are taken as a multinomial sample and the bound inverts Rao's score test in that model (Rao 1948): it is the
drop δ at which n·(δ - d̄)² = q²·V(δ), where V(δ) is the variance under the most likely distribution whose mean is δ.
That distribution may put weight on the rows that were seen (Owen 2001, "Empirical Likelihood", §2) and on `worst`, the
most that a row which was *not* seen could add (as the pseudo-observation of Chen, Variyath & Abraham 2008, J. Comput.
Graph. Stat. 17, "Adjusted empirical likelihood"). Consequences:

    rows that are right or wrong    it is Tango's interval for paired proportions (Tango 1998, Stat. Med. 17, eq. 4)
    rows that all agree             δ = worst · q²/(n + q²): an unseen change may be that frequent. Never certainty
    skewed losses                   V grows with δ where large losses are rare, so a few of them widen the bound, where
                                    Student's t with the sample's own variance is too short (measured in
                                    benchmarks/noninferiority.py). It is never shorter than Student's

Metrics that are no means of rows are linearised by the jackknife: the pseudo-value of a row is n·θ - (n-1)·θ₋ᵢ (Tukey
1958; Efron & Stein 1981 show that its variance errs upwards; Shao & Tu 1995, ch. 2). docs/parity-statistics.md derives
all of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Where a row's loss has no limit, an unseen one may be twice the largest change that was seen: the largest of a few is
#: an underestimate. Measured (benchmarks/noninferiority.py): with 1 the bound is too short for losses with exponential
#: tails, with 2 it holds for them and is no wider for light tails, with 3 light tails pay for it at 100 rows.
_UNSEEN = 2.0
#: Roots are sought in logarithms: one that is known to 1e-12 gives a bound to about as many digits.
_EXACT = 1e-12
#: e^±40 of the data's own scale: beyond, float64 holds no difference.
_WIDEST = 40.0


@dataclass(frozen=True, slots=True)
class Changes:
    """What each unit (a row, a query, a group of rows) adds to the drop; the mean of `values` is the drop.

    `worst` is the most that one unit could add; `rows` are the evaluation rows behind the units.
    """

    values: Floats
    worst: float
    rows: int

    @property
    def mean(self) -> float:
        """The drop."""
        return float(self.values.mean())

    @property
    def is_paired_proportion(self) -> bool:
        """Each row is right or wrong in either model."""
        return self.worst == 1 and bool(np.isin(self.values, (-1.0, 0.0, 1.0)).all())


@dataclass(frozen=True, slots=True)
class Bound:
    """One-sided upper bound of the drop; `rows_needed` where it is above the margin and the drop is not."""

    upper: float
    lower: float
    rows_needed: int | None


def changes(source: Floats, export: Floats, drop: float, worst: float | None, sign: int, rows: int) -> Changes:
    """From each unit's contribution to the metric in both models. `sign` is 1 where higher is better, else -1.

    Pseudo-values are centred on the drop itself: the jackknife gives their spread, the metric its own value.
    """
    values = sign * (source - export)
    values = values - values.mean() + drop if not np.isin(values, (-1.0, 0.0, 1.0)).all() else values
    largest = float(np.max(np.abs(values), initial=0.0))
    return Changes(values, _UNSEEN * largest if worst is None else max(worst, largest), rows)


def bound(of: Changes, confidence: float, margin: float) -> Bound | None:
    """The bounds of the drop at `confidence` on either side; None where there are too few units for a variance.

    Raises:
        ValueError: a value is not finite, which no bound may be made of.
    """
    if not (np.isfinite(of.values).all() and math.isfinite(of.worst)):
        raise ValueError("a row's change is not finite")
    units = len(of.values)
    if units < 2:
        return None
    quantile = _quantile(of, confidence, units)
    upper = _upper(of.values, of.worst, quantile)
    lower = -_upper(-of.values, of.worst, quantile)
    if not of.is_paired_proportion:
        # Rare gains make the score bound shorter than Student's, and no longer safe.
        student = quantile * float(of.values.std(ddof=1)) / math.sqrt(units)
        upper, lower = max(upper, of.mean + student), min(lower, of.mean - student)
    return Bound(upper, lower, _rows_needed(of, confidence, margin) if upper > margin else None)


def _quantile(of: Changes, confidence: float, units: int) -> float:
    """Of the normal distribution for proportions, of Student's t where the scale is estimated from values."""
    if of.is_paired_proportion:
        return NormalDist().inv_cdf(confidence)
    from scipy.special import stdtrit

    return float(stdtrit(units - 1, confidence))


@dataclass(frozen=True, slots=True)
class _Scaled:
    """Distinct values about their mean and in units of the largest, with their shares, and the worst likewise."""

    mean: float
    scale: float
    values: Floats
    shares: Floats
    worst: float

    @classmethod
    def of(cls, values: Floats, worst: float) -> _Scaled:
        distinct, counts = np.unique(values, return_counts=True)
        shares = counts / len(values)
        mean = float(shares @ distinct)
        top = max(worst, float(distinct[-1]))
        scale = max(top - mean, float(mean - distinct[0]))
        if scale <= 0:
            return cls(mean, 0.0, distinct * 0.0, shares, 0.0)
        return cls(mean, scale, (distinct - mean) / scale, shares, (top - mean) / scale)

    def tilted(self, beyond: float) -> tuple[float, float]:
        """Mean and variance of the most likely distribution on what was seen; `beyond` → 0 tilts it furthest."""
        weights = self.shares / (self.worst - self.values + beyond)
        weights = weights / weights.sum()
        mean = float(weights @ self.values)
        return mean, float(weights @ (self.values - mean) ** 2)

    @property
    def spread(self) -> float:
        """The variance of what was seen."""
        return float(self.shares @ self.values**2)

    @property
    def has_seen_worst(self) -> bool:
        return bool(self.values[-1] >= self.worst)

    def variance(self, mean: float) -> float:
        """Of the most likely distribution with this mean, 0 < mean < worst."""
        if not self.has_seen_worst:
            inner, spread = self.tilted(0.0)
            if mean >= inner:
                share = (mean - inner) / (self.worst - inner)
                return (1 - share) * spread + share * (1 - share) * (self.worst - inner) ** 2
        found = _root(lambda log: mean - self.tilted(math.exp(log))[0], math.log(self.spread / mean))
        return self.tilted(math.exp(found))[1]


def _upper(values: Floats, worst: float, quantile: float) -> float:
    """Where the score statistic reaches the quantile."""
    data, units = _Scaled.of(values, worst), len(values)
    if data.scale == 0:
        return data.mean
    square = quantile**2
    if not data.has_seen_worst:
        inner, spread = data.tilted(0.0)
        if units * inner**2 < square * spread or spread == 0:
            # Weight on the worst: with a share s of it the equation is quadratic in s.
            gap = data.worst - inner
            a = (units + square) * gap**2
            b = 2 * units * inner * gap + square * (spread - gap**2)
            c = units * inner**2 - square * spread
            share = (-b + math.sqrt(max(b * b - 4 * a * c, 0.0))) / (2 * a)
            return data.mean + data.scale * (inner + share * gap)

    def short_of(log: float) -> float:
        mean, spread = data.tilted(math.exp(log))
        return quantile * math.sqrt(spread) - math.sqrt(units) * mean

    found = _root(short_of, math.log(math.sqrt(data.spread * units) / quantile))
    return data.mean + data.scale * data.tilted(math.exp(found))[0]


def _root(function: Callable[[float], float], guess: float) -> float:
    """Where an increasing function crosses 0, or the end of the range that it does not leave: a bracket around the
    guess, then the Illinois variant of false position (Dowell & Jarratt 1971).
    """
    low = high = min(max(guess, -_WIDEST), _WIDEST)
    at_low = at_high = function(low)
    step = 1.0
    while at_low > 0 and low > -_WIDEST:
        high, at_high, low = low, at_low, max(low - step, -_WIDEST)
        at_low, step = function(low), 2 * step
    while at_high < 0 and high < _WIDEST:
        low, at_low, high = high, at_high, min(high + step, _WIDEST)
        at_high, step = function(high), 2 * step
    if at_low >= 0 or at_high <= 0:
        return low if at_low >= 0 else high
    moved = 0
    while high - low > _EXACT:
        middle = high - at_high * (high - low) / (at_high - at_low)
        if not low < middle < high:
            break
        value = function(middle)
        side = -1 if value < 0 else 1
        if side < 0:
            low, at_low, at_high = middle, value, at_high / 2 if moved == side else at_high
        else:
            high, at_high, at_low = middle, value, at_low / 2 if moved == side else at_low
        moved = side
        if abs(value) < _EXACT**2:
            break
    return low if moved < 0 else high


def _rows_needed(of: Changes, confidence: float, margin: float) -> int | None:
    """How many rows that change as these do would bring the bound to the margin; None where none would."""
    data = _Scaled.of(of.values, of.worst)
    distance = (margin - data.mean) / data.scale if data.scale else 0.0
    if not 0 < distance < data.worst:
        return None
    needed = float(len(of.values))
    spread = data.variance(distance)
    if not of.is_paired_proportion:
        spread = max(spread, data.spread)
    for _ in range(3):  # the quantile depends on the number a little; it settles at once
        needed = _quantile(of, confidence, max(2, math.ceil(needed))) ** 2 * spread / distance**2
    per_unit = of.rows / len(of.values)
    return max(math.ceil(math.ceil(needed) * per_unit), of.rows + 1)


def pseudo_values(whole: float, without: NDArray[Any]) -> Floats:
    """The jackknife's: n·θ - (n-1)·θ₋ᵢ, from the statistic of all units and with each left out."""
    units = len(without)
    return np.asarray(units * whole - (units - 1) * without, dtype=np.float64)
