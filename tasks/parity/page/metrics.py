"""Task metrics as intervals: the drop, how large it may be, and how large it is allowed to be. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tasks.contracts import MetricComparison

#: Room beyond the outermost figure, as a share of the axis: what lies at its end can still be seen.
_ROOM = 0.08


@dataclass(frozen=True, slots=True)
class Interval:
    """One metric. Places on its axis are in per cent; None where the figure is missing.

    `right` says whether the bound is within `max_drop`; without a bound nothing was shown.
    """

    metric: MetricComparison
    right: bool
    zero_at: float
    allowed_at: float
    drop_at: float | None = None
    upper_at: float | None = None


def interval(metric: MetricComparison) -> Interval:
    """Zero, the drop, its bound and `max_drop` on one linear axis."""
    right = metric.upper is not None and math.isfinite(metric.upper) and metric.upper <= metric.max_drop
    known = [0.0, metric.max_drop, *(each for each in (metric.drop, metric.upper) if _shown(each))]
    low, high = min(each for each in known if each is not None), max(each for each in known if each is not None)
    span = (high - low) or 1.0
    low, span = low - _ROOM * span, span * (1 + 2 * _ROOM)

    def at(value: float | None) -> float | None:
        return None if value is None or not _shown(value) else round(100 * (value - low) / span, 2)

    return Interval(
        metric=metric,
        right=right,
        zero_at=at(0.0) or 0.0,
        allowed_at=at(metric.max_drop) or 0.0,
        drop_at=at(metric.drop),
        upper_at=at(metric.upper),
    )


def _shown(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
