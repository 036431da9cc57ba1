"""Whether an objective was kept, and the highest rate that keeps it: decisions over counts, without clock or engine.

The objective is that at most 1 % of requests take longer than so many milliseconds, and it counts as kept only where
that is shown: the share of late requests has an exact upper confidence bound (Clopper and Pearson, Biometrika 26,
1934). Too few requests show nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum

#: What the 99th percentile leaves.
LATE_SHARE = 0.01
#: One-sided confidence that no larger share is late.
CONFIDENCE = 0.95
#: Two rates that are nearer to each other are one: a measurement is not finer.
_RESOLUTION = 1.15


class Held(StrEnum):
    """Whether the objective was kept."""

    KEPT = "kept"
    BROKEN = "broken"
    UNCLEAR = "unclear"


def held(asked: int, late: int) -> Held:
    """What so many late requests of so many say of the 99th percentile."""
    from scipy.stats import beta

    if not asked:
        return Held.UNCLEAR
    upper = 1.0 if late == asked else float(beta.ppf(CONFIDENCE, late + 1, asked - late))
    if upper <= LATE_SHARE:
        return Held.KEPT
    lower = 0.0 if late == 0 else float(beta.ppf(1 - CONFIDENCE, late, asked - late + 1))
    return Held.BROKEN if lower > LATE_SHARE else Held.UNCLEAR


def requests_needed() -> int:
    """How many requests, none of them late, show the objective: (1 - 0.01)^n ≤ 0.05."""
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(1 - LATE_SHARE))


class OutOfTime(Exception):
    """The budget is over."""


def highest(probe: Callable[[float], bool], start: float, least: float = 1.0) -> float | None:
    """The highest rate that holds: doubled or halved from `start` until it is enclosed, then halved in between.

    None where not even `least` holds; the highest that held so far when time runs out.

    Raises:
        OutOfTime: none has held yet.
    """
    kept: float | None = None
    broken: float | None = None
    rate = start
    while kept is None or broken is None or broken / kept > _RESOLUTION:
        try:
            holds = probe(rate)
        except OutOfTime:
            if kept is None:
                raise
            return kept
        if holds:
            kept = rate
        elif kept is None and rate <= least:
            return None
        else:
            broken = rate
        if kept is None:
            rate = max(least, rate / 2)
            continue
        rate = kept * 2 if broken is None else math.sqrt(kept * broken)
    return kept
