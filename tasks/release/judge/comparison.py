"""Both arms over the same time: the tests of `odds.py` and `shares.py`, look for look.

Everything here is an array of releases: a real one has the shape `()`, a simulation thousands, by the same code.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tasks.release.judge import odds, shares
from tasks.release.judge.bursts import Bursts
from tasks.release.judge.wealth import Wealth

Floats = NDArray[np.float64]


class EventComparison:
    """Failed or slow requests: the canary's odds against the stable arm's, at most `allowed` times as high."""

    def __init__(self, shape: tuple[int, ...], allowed: float) -> None:
        self._allowed = allowed
        self._bursts = Bursts(shape)
        self._wealth = Wealth(shape, len(odds.BEYOND))
        self._anew: NDArray[np.bool_] = np.zeros(shape, dtype=bool)

    def take(
        self,
        canary: ArrayLike,
        canary_events: ArrayLike,
        stable: ArrayLike,
        stable_events: ArrayLike,
        *,
        anew: bool = False,
    ) -> None:
        """One look: requests and events of both since the one before. `anew`: a step began."""
        n, x, m, y = (np.asarray(value, dtype=np.float64) for value in (canary, canary_events, stable, stable_events))
        self._anew = self._anew | anew
        played = x + y > 0  # without an event nothing is learnt, so nothing is laid
        if played.any():
            ratios = odds.log_ratios(n, x, m, y, self._allowed) / self._bursts.divisor(n, m)[..., None]
            self._wealth.play(ratios, played=played, anew=self._anew)
            self._anew = self._anew & ~played
        self._bursts.take(y, m)

    @property
    def value(self) -> Floats:
        """The e-value."""
        return self._wealth.value


class ShareComparison:
    """Rows by class: the canary's shares against the stable arm's, at most `allowed` apart, in both directions."""

    def __init__(self, shape: tuple[int, ...], classes: int, allowed: float) -> None:
        self._allowed = allowed
        self._wealth = Wealth((*shape, classes, 2), len(shares.BEYOND))
        self._rows: Floats = np.zeros(shape)
        self._of_class: Floats = np.zeros((*shape, classes))

    def take(
        self,
        canary: Floats,
        canary_classes: Floats,
        stable: Floats,
        stable_classes: Floats,
        rows_per_request: ArrayLike = 1.0,
        *,
        anew: bool = False,
    ) -> None:
        """One look: rows of both arms since the one before, and how many were of each class (last axis)."""
        n, m = (np.broadcast_to(of[..., None], self._of_class.shape) for of in (canary, stable))
        before = shares.guess(self._rows[..., None], self._of_class)
        ratios = shares.log_ratios(n, canary_classes, m, stable_classes, before, self._allowed)
        together = np.maximum(1.0, np.asarray(rows_per_request, dtype=np.float64))[..., None, None, None]
        self._wealth.play(ratios / together, played=((n > 0) & (m > 0))[..., None], anew=anew)
        self.learn(stable, stable_classes)

    def learn(self, stable: Floats, stable_classes: Floats) -> None:
        """What the stable arm did, for the guess at its shares in the next look."""
        self._rows, self._of_class = self._rows + stable, self._of_class + stable_classes

    @property
    def by_class(self) -> Floats:
        """The e-value of each class and direction: [..., classes, 2]."""
        return self._wealth.value

    @property
    def value(self) -> Floats:
        """Their mean, which is one, too."""
        return np.asarray(self.by_class.mean(axis=(-1, -2)))
