"""How often an equal version is rolled back. Aim: at most α = 1 % of releases, over the whole way up.

The judge's own comparisons, each against its own share of α, looked at every second. A release is falsely rolled back
when any of its looks reaches the threshold.
"""

from __future__ import annotations

import numpy as np

from benchmarks.release.ladder import GUARDS, PLAN, Floats, climb
from benchmarks.serving.figures import Figure
from tasks.release.judge.bursts import RequestSizes
from tasks.release.judge.comparison import EventComparison, ShareComparison
from tasks.release.judge.guards import ERRORS, PREDICTIONS, SLOW, threshold_of

RATES = (0.0001, 0.001, 0.005, 0.01, 0.02, 0.05)
PER_S = 200.0
#: Rows of one request that all get the same answer.
TOGETHER = 8
#: Chance that a server pauses in a second, and the share of that second's requests that it makes slow.
PAUSE, PAUSED = 0.1, 0.2
CLASSES = np.array([0.4, 0.25, 0.15, 0.1, 0.06, 0.04])


def measure(quick: bool) -> list[Figure]:
    """Errors over base rates, slow requests with pauses, predictions with rows that hang together."""
    releases, seconds = (500, 10) if quick else (10_000, 60)
    figures = [
        _figure(f"errors, base rate {rate:.2%}", _events(rate, rate, ERRORS, GUARDS.errors, releases, seconds))
        for rate in RATES
    ]
    worst = _events(0.01, 0.015, ERRORS, GUARDS.errors, releases, seconds)
    figures.append(_figure("errors 1 % → 1.5 %, as many as are allowed", worst))
    for rate in (0.01, 0.05):
        figures.append(_figure(f"slow, {rate:.0%}", _events(rate, rate, SLOW, GUARDS.slow, releases, seconds)))
    figures.append(_figure("slow, 1 % and pauses of 0.2 s in either", _paused(releases, seconds), aimed=False))
    figures.append(_figure("predictions, six classes", _shares(CLASSES, 1, releases, seconds)))
    figures.append(
        _figure(f"predictions, {TOGETHER} equal rows a request", _shares(CLASSES, TOGETHER, releases, seconds))
    )
    figures.append(_figure("predictions, requests of 1 to 30 equal rows", _shares(CLASSES, None, releases, seconds)))
    moved = CLASSES + np.array([0.02, -0.02, 0, 0, 0, 0])
    figures.append(_figure("predictions moved by what is allowed", _shares(moved, 1, releases, seconds)))
    return figures


def _figure(what: str, rolled_back: Floats, *, aimed: bool = True) -> Figure:
    share = float(rolled_back.mean())
    return Figure(
        f"false rollbacks: {what}",
        f"≤ {PLAN.alpha:.0%}" if aimed else "",
        f"{int(rolled_back.sum())} of {rolled_back.size:,}",
        share <= PLAN.alpha if aimed else None,
        values={"share": share},
    )


def _events(base: float, canary: float, of_alpha: float, allowed: float, releases: int, seconds: int) -> Floats:
    rng = np.random.default_rng(1)
    comparison, over = EventComparison((releases,), allowed), np.zeros(releases, dtype=bool)
    for look in climb(rng, releases, PER_S, seconds):
        failed = rng.binomial(look.canary, canary), rng.binomial(look.stable, base)
        comparison.take(look.canary, failed[0], look.stable, failed[1], anew=look.anew)
        over |= comparison.value >= threshold_of(PLAN.alpha * of_alpha)
    return over


def _paused(releases: int, seconds: int) -> Floats:
    """Each server pauses by itself, and everything that it is asked meanwhile is slow."""
    rng = np.random.default_rng(2)
    comparison, over = EventComparison((releases,), GUARDS.slow), np.zeros(releases, dtype=bool)
    for look in climb(rng, releases, PER_S, seconds):
        slow = [
            rng.binomial(asked, np.where(rng.random(releases) < PAUSE, PAUSED, 0.01))
            for asked in (look.canary, look.stable)
        ]
        comparison.take(look.canary, slow[0], look.stable, slow[1], anew=look.anew)
        over |= comparison.value >= threshold_of(PLAN.alpha * SLOW)
    return over


def _shares(canary: Floats, rows: int | None, releases: int, seconds: int) -> Floats:
    """Requests of so many rows, all of one class; None is from 1 to 30."""
    rng = np.random.default_rng(3)
    comparison = ShareComparison((releases,), len(CLASSES), GUARDS.predictions)
    over = np.zeros(releases, dtype=bool)
    sizes = (rows,) if rows else (1, 2, 30)
    together = RequestSizes((2, releases))
    for look in climb(rng, releases, PER_S / 4, seconds):
        counts = []
        for asked, shares in ((look.canary, canary), (look.stable, CLASSES)):
            of_size = rng.multinomial(asked, np.full(len(sizes), 1 / len(sizes)))
            drawn = [rng.multinomial(of_size[:, i], shares) * size for i, size in enumerate(sizes)]
            counts.append(np.sum(drawn, axis=0, dtype=np.float64))
        x, y = np.stack(counts)
        n, m = x.sum(axis=1), y.sum(axis=1)
        together.take(np.stack([n, m]), np.stack([look.canary, look.stable]).astype(np.float64))
        comparison.take(n, x, m, y, together.together.max(axis=0), anew=look.anew)
        over |= comparison.value >= threshold_of(PLAN.alpha * PREDICTIONS / 2)  # one output has half of what is left
    return over
