"""How many requests of the canary it takes until a worse version is rolled back, and what users pay."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.release.ladder import GUARDS, PLAN, Floats, stay
from benchmarks.serving.figures import Figure
from tasks.release.judge.comparison import EventComparison, ShareComparison
from tasks.release.judge.guards import ERRORS, PREDICTIONS, threshold_of

#: Requests of the canary, after which a release that was not rolled back counts as missed.
ENOUGH = 100_000
#: Requests that a version answers well before it begins to fail, where it does not fail from the start.
HEALTHY = 1000


def measure(quick: bool) -> list[Figure]:
    """Errors that grow, a total outage in every step, and a class mix that moves."""
    releases = 200 if quick else 2000
    grown = _errors(0.001, 0.02, 1, releases, per_look=2)
    found = [
        _figure("0.1 % → 2 % errors at 1 %: canary requests", "p95 ≤ 600", grown.requests, 600),
        _figure("the same: failed requests", "", grown.failed),
    ]
    for canary in (0.005, 0.01, 0.05):
        more = _errors(0.001, canary, 1, releases, per_look=10)
        found.append(_figure(f"0.1 % → {canary:.1%} errors at 1 %: canary requests", "", more.requests))
    for step in PLAN.steps[:-1]:
        dead = _errors(0.001, 1.0, step, releases, per_look=0.2)
        aim = "p95 ≤ 5" if step == PLAN.steps[0] else ""
        found.append(_figure(f"total outage at {step:g} %: failed requests", aim, dead.failed, 5 if aim else None))
    late = _errors(0.001, 1.0, PLAN.steps[0], releases, per_look=0.2, healthy=HEALTHY)
    found.append(_figure(f"total outage at 1 % after {HEALTHY:,} good requests: failed requests", "", late.failed))
    for rows in (1, 8):
        moved = _mix(releases // 2, 0.05, rows)
        what = "rows" if rows == 1 else f"rows, {rows} equal ones a request"
        found.append(_figure(f"class mix moved by 5 points at 5 %: canary {what}", "found", moved, ENOUGH))
    return found


class _Until:
    """What each release had seen when it was rolled back: requests and failures of the canary."""

    def __init__(self, releases: int) -> None:
        self.requests: Floats = np.zeros(releases)
        self.failed: Floats = np.zeros(releases)
        self.going = np.ones(releases, dtype=bool)

    def take(self, requests: NDArray[np.int64] | Floats, failed: NDArray[np.int64], over: NDArray[np.bool_]) -> None:
        self.requests += requests * self.going
        self.failed += failed * self.going
        self.going &= ~over & (self.requests < ENOUGH)


def _errors(base: float, canary: float, step: float, releases: int, per_look: float, healthy: int = 0) -> _Until:
    rng = np.random.default_rng(4)
    comparison, until = EventComparison((releases,), GUARDS.errors), _Until(releases)
    looks = stay(rng, releases, step, per_look)
    for _ in range(int(healthy / per_look)):
        look = next(looks)
        good = rng.binomial(look.canary, base), rng.binomial(look.stable, base)
        comparison.take(look.canary, good[0], look.stable, good[1], anew=look.anew)
    while until.going.any():
        look = next(looks)
        failed = rng.binomial(look.canary, canary)
        comparison.take(look.canary, failed, look.stable, rng.binomial(look.stable, base), anew=look.anew)
        until.take(look.canary, failed, comparison.value >= threshold_of(PLAN.alpha * ERRORS))
    return until


def _mix(releases: int, by: float, rows: int) -> Floats:
    """Two of four classes change places by so much. Rows until it is found."""
    rng = np.random.default_rng(5)
    mix = np.array([0.5, 0.3, 0.15, 0.05])
    moved = mix + np.array([-by, 0, by, 0])
    comparison, until = ShareComparison((releases,), 4, GUARDS.predictions), _Until(releases)
    for look in stay(rng, releases, 5, 20):
        x, y = (
            (rng.multinomial(asked, shares) * rows).astype(np.float64)
            for asked, shares in ((look.canary, moved), (look.stable, mix))
        )
        comparison.take(x.sum(axis=1), x, y.sum(axis=1), y, rows)
        until.take(x.sum(axis=1), look.canary * 0, comparison.value >= threshold_of(PLAN.alpha * PREDICTIONS / 2))
        if not until.going.any():
            break
    return until.requests


def _figure(what: str, aim: str, of: Floats, most: float | None = None) -> Figure:
    middle, most_of = np.quantile(of, (0.5, 0.95))
    return Figure(
        what,
        aim,
        f"p50 {middle:,.0f}, p95 {most_of:,.0f}, worst {of.max():,.0f} of {of.size:,} releases",
        None if most is None else bool(most_of <= most),
        values={"p50": float(middle), "p95": float(most_of), "worst": float(of.max())},
    )
