"""What the evidence cannot exclude: bounds of a rate that hold at every look at once. Pure.

In: events among independent trials. Out: the largest (or smallest) rate that a bet has not refuted so far.

The bet spreads 1 over all rates by Jeffreys' prior, which makes of it B(k + ½, n - k + ½) / (B(½, ½) p^k (1 - p)^(n-k))
against a rate p; the rates against which it stands below 1/α are a confidence sequence: they hold the true one at all
looks together with a chance of 1 - α (Robbins 1970, "Statistical methods related to the law of the iterated logarithm",
Ann. Math. Stat. 41, §2; Howard, Ramdas, McAuliffe & Sekhon 2021, Ann. Stat. 49, §3, call it the method of mixtures).
"""

from __future__ import annotations

import math

#: Halvings of an interval of length 1: beyond float64's digits.
_HALVINGS = 60


def upper_rate(events: float, trials: float, alpha: float) -> float:
    """The largest rate that is not refuted. Without trials, 1."""
    if trials <= 0 or events >= trials:
        return 1.0
    return _edge(events, trials, alpha, low=events / trials, high=1.0)


def lower_rate(events: float, trials: float, alpha: float) -> float:
    """The smallest rate that is not refuted. Without events, 0."""
    return 1 - upper_rate(trials - events, trials, alpha)


def _edge(events: float, trials: float, alpha: float, low: float, high: float) -> float:
    """Between the share that was seen, which nothing refutes, and 1, which it does. The upper end, so as to err up."""
    others = trials - events
    mixed = math.lgamma(events + 0.5) + math.lgamma(others + 0.5) - math.lgamma(trials + 1) - math.log(math.pi)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        likelihood = (events * math.log(middle) if events else 0.0) + others * math.log1p(-middle)
        low, high = (middle, high) if mixed - likelihood < -math.log(alpha) else (low, middle)
    return high
