"""The guards: what is compared, with which share of the release's α, and what the evidence stands at.

One α for a whole release: the chance that a version that is no worse than allowed is rolled back, by whichever guard
and at whichever look. It is split by a union bound; each guard's evidence is one e-value (`wealth.py`), which reaches
1/share with a chance of at most its share.

    errors        1/2    of α: what users notice first
    slow          1/4
    predictions   1/4    over outputs: half of what is left to those seen first, half of the rest to the next …
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.release.contracts import GuardState
from tasks.release.judge import odds
from tasks.release.judge.bounds import upper_rate
from tasks.release.judge.bursts import RequestSizes
from tasks.release.judge.comparison import EventComparison, ShareComparison
from tasks.release.judge.counting import Classes, Tally
from tasks.release.judge.wealth import Wealth

ERRORS, SLOW, PREDICTIONS = 0.5, 0.25, 0.25

#: Of a counting guard's stake: what is bet while both arms serve, and what is kept for when only the canary does. The
#: second is for outages of an arm that takes all traffic, where evidence comes fast: a fiftieth is plenty.
_TOGETHER, _ALONE = 0.98, 0.02


def threshold_of(share: float) -> float:
    """The e-value that is reached with a chance of at most `share` (Ville's inequality)."""
    return 1 / share


@dataclass(frozen=True, slots=True)
class Moved:
    """A class whose share moved, as far as counted."""

    output: str
    name: str
    stable: float
    canary: float


class CountGuard:
    """Failed or slow requests: the canary's odds against the stable arm's, at most `allowed` times as high.

    Where only the canary serves (the last step, a first release) there is nothing to compare with at the same time. It
    is then held against `limit`: for a first release what was agreed; in the last step the largest rate that the stable
    arm may have had in this release, by a bound that fails with a fiftieth of this guard's share of α.
    """

    def __init__(
        self, name: str, of: Callable[[Tally], int], allowed: float, share: float, limit: float | None
    ) -> None:
        self.name = name
        self._of = of
        self._allowed = allowed
        self._share = share
        self._limit = limit
        self._together = EventComparison((), allowed)
        self._alone = Wealth((), len(odds.BEYOND))
        self.stable = (0, 0)  # events and requests over the release
        self.canary = (0, 0)

    def take(self, stable: Tally, canary: Tally, *, alone: bool, anew: bool = False) -> None:
        """One interval's evidence. `alone`: the canary has all traffic; `anew`: a step begins."""
        s, c = self._of(stable), self._of(canary)
        if alone:
            limit = self._reckoned_limit()
            if canary.requests and limit < 1:
                self._alone.play(odds.log_ratios_alone(canary.requests, c, limit))
        else:
            self._together.take(canary.requests, c, stable.requests, s, anew=anew)
        self.stable = (self.stable[0] + s, self.stable[1] + stable.requests)
        self.canary = (self.canary[0] + c, self.canary[1] + canary.requests)

    def _reckoned_limit(self) -> float:
        if self._limit is None:
            rate = upper_rate(*self.stable, self._share * _ALONE)
            # Fixed when the canary has everything for the first time: a bound that is looked at once.
            self._limit = odds.times(rate, self._allowed)
        return self._limit

    @property
    def evidence(self) -> float:
        return math.log10(_TOGETHER * float(self._together.value) + _ALONE * float(self._alone.value))

    @property
    def threshold(self) -> float:
        return math.log10(threshold_of(self._share) / _TOGETHER)

    def state(self, upper: float | None = None) -> GuardState:
        return GuardState(
            name=self.name,
            evidence=self.evidence,
            threshold=self.threshold,
            stable=_rate(*self.stable),
            canary=_rate(*self.canary),
            upper=upper,
        )


def _rate(events: int, of: int) -> float | None:
    return events / of if of else None


@dataclass(frozen=True, slots=True)
class _Cohort:
    """Classes that were seen for the first time at the same look, and the stake on them."""

    names: tuple[str, ...]
    weight: float
    bets: ShareComparison


class SharesGuard:
    """One output's predictions: each class' share, the canary's against the stable arm's, at most `allowed` apart.

    The evidence is the mean over classes and directions, with weights that are fixed when a class is seen first: the
    first ones have half of the stake, the next half of the rest.
    """

    def __init__(self, output: str, allowed: float, share: float) -> None:
        self.output = output
        self.name = f"predictions of {output}"
        self._allowed = allowed
        self._share = share
        self._cohorts: list[_Cohort] = []
        self._left = 1.0
        self._stable: dict[str, int] = {}
        self._canary: dict[str, int] = {}

    def take(self, stable: Classes, canary: Classes, together: float, *, anew: bool = False) -> None:
        """One interval's evidence, then what was seen in it becomes part of the guess for the next."""
        n, m = np.float64(sum(canary.values())), np.float64(sum(stable.values()))
        for cohort in self._cohorts:
            of_canary, of_stable = _array(canary, cohort.names), _array(stable, cohort.names)
            cohort.bets.take(np.asarray(n), of_canary, np.asarray(m), of_stable, together, anew=anew)
        known = {name for cohort in self._cohorts for name in cohort.names}
        new = sorted({name for seen in (stable, canary) for name, count in seen.items() if count} - known)
        if new:
            self._left /= 2
            bets = ShareComparison((), len(new), self._allowed)
            bets.learn(np.asarray(m), _array(stable, new))
            self._cohorts.append(_Cohort(tuple(new), self._left, bets))
        for mine, seen in ((self._stable, stable), (self._canary, canary)):
            for name, count in seen.items():
                mine[name] = mine.get(name, 0) + count

    @property
    def evidence(self) -> float:
        value = self._left + sum(cohort.weight * float(cohort.bets.value) for cohort in self._cohorts)
        return math.log10(value)

    @property
    def threshold(self) -> float:
        return math.log10(threshold_of(self._share))

    @property
    def moved(self) -> Moved | None:
        """The class that speaks most against the canary."""
        best: tuple[float, str] | None = None
        for cohort in self._cohorts:
            values = cohort.weight / len(cohort.names) * cohort.bets.by_class.max(axis=-1)
            top = int(values.argmax())
            best = max(best or (0.0, ""), (float(values[top]), cohort.names[top]))
        stable, canary = sum(self._stable.values()), sum(self._canary.values())
        if best is None or not stable or not canary:
            return None
        name = best[1]
        return Moved(self.output, name, self._stable.get(name, 0) / stable, self._canary.get(name, 0) / canary)

    def state(self) -> GuardState:
        moved = self.moved
        return GuardState(
            name=self.name,
            evidence=self.evidence,
            threshold=self.threshold,
            stable=None if moved is None else moved.stable,
            canary=None if moved is None else moved.canary,
        )


def _array(counts: Mapping[str, int], names: Sequence[str]) -> NDArray[np.float64]:
    return np.array([counts.get(name, 0) for name in names], dtype=np.float64)


class PredictionGuards:
    """A guard for each output: the first ones that are seen share half of α's part, the next half of the rest."""

    def __init__(self, allowed: float, share: float) -> None:
        self._allowed = allowed
        self._left = share
        self._sizes = RequestSizes((2,))
        self.guards: dict[str, SharesGuard] = {}

    def take(self, stable: Tally, canary: Tally, *, anew: bool = False) -> None:
        """One interval's evidence."""
        seen = {name for arm in (stable, canary) for name, classes in arm.predictions.items() if sum(classes.values())}
        if new := sorted(seen - set(self.guards)):
            self._left /= 2
            self.guards |= {name: SharesGuard(name, self._allowed, self._left / len(new)) for name in new}
        self._sizes.take(
            np.array([float(stable.rows), float(canary.rows)]),
            np.array([float(stable.answered), float(canary.answered)]),
        )
        together = float(self._sizes.together.max())  # of the arm with the longer requests
        for name, guard in self.guards.items():
            guard.take(stable.predictions.get(name, {}), canary.predictions.get(name, {}), together, anew=anew)
