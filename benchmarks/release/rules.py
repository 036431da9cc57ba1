"""The documented rules of other tools, written from their documentation and run on the same counters.

Each gets the ladder and the traffic that Slipway's judge gets, at the pace that its own documentation shows. Where the
documentation leaves a choice, the stricter one is taken, as said below.

    Argo Rollouts   https://argo-rollouts.readthedocs.io/en/stable/features/analysis/ : an analysis in each step,
                    success rate ≥ 95 % (`successCondition: result >= 0.95`), `interval: 60s`, `count: 5`; failureLimit
                    0, its default, so that one measurement that fails aborts. A measurement that cannot be made is an
                    error; more than 4 in a row abort (consecutiveErrorLimit)
    Flagger         https://docs.flagger.app/usage/how-it-works and /usage/metrics : `request-success-rate` ≥ 99 % and
                    `request-duration` (its p99) within the objective over each interval of 1m; a check that fails, or
                    has no values, halts the advance; rolled back at `threshold: 5`, the tutorials' value (the page
                    itself has 10)
    Kayenta         https://spinnaker.io/docs/guides/user/canary/judge/ and …/best-practices/ : series of error and slow
                    shares, 50 points a run ("at least 50"), here of 10 s; Mann-Whitney at 98 % confidence, beyond a
                    tolerance of 0.25 of the Hodges-Lehmann estimate (NetflixACAJudge-v1.0); NaN removed, no data passes
                    over (mustHaveData is off by default); score below marginal 75 fails, at 95 it passes, between waits
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.release.contracts import ArmCounts, Decision, Plan, Sample, ShadowReport
from tasks.release.judge import Judge


class Rule(Protocol):
    """Looks in, decisions out, as the judge's."""

    def look(self, sample: Sample) -> Decision: ...


class Slipway:
    """Ours."""

    def __init__(self, plan: Plan, shadow: ShadowReport) -> None:
        self._judge = Judge(plan, shadow)

    def look(self, sample: Sample) -> Decision:
        return self._judge.look(sample).decision


@dataclass(frozen=True)
class _Counts:
    """Of one arm, over some time."""

    requests: int
    errors: int
    slow: int


def _increase(samples: Sequence[Sample], arm: str) -> _Counts | None:
    """As Prometheus's `increase()`: a counter that fell began again. None where fewer than two samples are there."""
    there: list[ArmCounts] = [counts for sample in samples if (counts := getattr(sample, arm)) is not None]
    if len(there) < 2:
        return None
    total = [0, 0, 0]
    for before, now in itertools.pairwise(there):
        for index, name in enumerate(("requests", "errors", "slow")):
            gained = getattr(now, name) - getattr(before, name)
            total[index] += gained if gained >= 0 else getattr(now, name)
    return _Counts(*total)


@dataclass
class _Windows:
    """Samples of the current step, in windows of so many seconds; `full` once one is."""

    seconds: float
    step: int = -1
    samples: list[Sample] = field(default_factory=list)

    def full(self, sample: Sample) -> list[Sample] | None:
        if sample.step != self.step:
            self.step, self.samples = sample.step, [sample]
            return None
        self.samples.append(sample)
        if self.samples[-1].at - self.samples[0].at < self.seconds:
            return None
        done, self.samples = self.samples, [sample]
        return done


class ArgoRollouts:
    """A success rate in each step, measured `COUNT` times."""

    COUNT, LEAST, ERRORS_IN_A_ROW = 5, 0.95, 4

    def __init__(self) -> None:
        self._windows = _Windows(60)
        self._measured, self._errors, self._step = 0, 0, -1

    def look(self, sample: Sample) -> Decision:
        if sample.step != self._step:
            self._measured, self._errors, self._step = 0, 0, sample.step
        window = self._windows.full(sample)
        if window is None:
            return Decision.WAIT
        counts = _increase(window, "canary")
        if counts is None:  # the query gives nothing: an error, asked again
            self._errors += 1
            return Decision.ROLL_BACK if self._errors > self.ERRORS_IN_A_ROW else Decision.WAIT
        self._errors = 0
        self._measured += 1
        # 0/0 is NaN in PromQL, and no condition holds of it.
        if not counts.requests or 1 - counts.errors / counts.requests < self.LEAST:
            return Decision.ROLL_BACK
        return Decision.ADVANCE if self._measured == self.COUNT else Decision.WAIT


class Flagger:
    """Thresholds on success rate and p99, once a minute."""

    SUCCESS, THRESHOLD = 0.99, 5

    def __init__(self) -> None:
        self._windows = _Windows(60)
        self._failed = 0

    def look(self, sample: Sample) -> Decision:
        window = self._windows.full(sample)
        if window is None:
            return Decision.WAIT
        counts = _increase(window, "canary")
        # A p99 is within the objective where at most one in a hundred is slower.
        good = (
            counts is not None
            and counts.requests > 0
            and 1 - counts.errors / counts.requests >= self.SUCCESS
            and counts.slow / counts.requests <= 0.01
        )
        if good:
            return Decision.ADVANCE
        self._failed += 1
        return Decision.ROLL_BACK if self._failed >= self.THRESHOLD else Decision.WAIT


class Kayenta:
    """Mann-Whitney on series of shares, a run for each step."""

    POINTS, POINT_S = 50, 10.0
    CONFIDENCE, TOLERANCE = 0.98, 0.25
    MARGINAL, PASS = 75.0, 95.0

    def __init__(self) -> None:
        self._windows = _Windows(self.POINT_S)
        self._points: list[tuple[_Counts | None, _Counts | None]] = []
        self._step = -1

    def look(self, sample: Sample) -> Decision:
        if sample.step != self._step:
            self._points, self._step = [], sample.step
        window = self._windows.full(sample)
        if window is None:
            return Decision.WAIT
        self._points.append((_increase(window, "stable"), _increase(window, "canary")))
        if len(self._points) < self.POINTS:
            return Decision.WAIT
        points, self._points = self._points, []
        passed = [self._passes(points, name) for name in ("errors", "slow")]
        score = 100 * sum(passed) / len(passed)
        if score < self.MARGINAL:
            return Decision.ROLL_BACK
        return Decision.ADVANCE if score >= self.PASS else Decision.WAIT

    def _passes(self, points: Sequence[tuple[_Counts | None, _Counts | None]], name: str) -> bool:
        series = [
            np.array([getattr(arm, name) / arm.requests for arm in column if arm is not None and arm.requests])
            for column in zip(*points, strict=True)
        ]
        stable, canary = series
        if not stable.size or not canary.size:
            return True  # NODATA
        lower, estimate = _shift(canary, stable, self.CONFIDENCE)
        return lower <= self.TOLERANCE * abs(estimate)


def _shift(canary: NDArray[np.float64], stable: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """By how much the canary's values are higher: the lower confidence bound and the Hodges-Lehmann estimate
    (Hollander, Wolfe & Chicken 2014, "Nonparametric Statistical Methods", §4.3, by the normal approximation)."""
    differences = np.sort((canary[:, None] - stable[None, :]).ravel())
    n, m = canary.size, stable.size
    spread = NormalDist().inv_cdf((1 + confidence) / 2) * np.sqrt(n * m * (n + m + 1) / 12)
    index = int(np.clip(np.floor(n * m / 2 - spread), 0, differences.size - 1))
    return float(differences[index]), float(np.median(differences))
