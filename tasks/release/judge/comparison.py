"""Both arms over the same time: the tests of `odds.py` and `shares.py`, look for look.

Looks with too few requests to compare are taken together: one request of the canary's and none of the stable arm's say
nothing apart, and something with the stable arm's next ones. When a stretch is long enough is decided by requests
alone, never by what became of them, so it changes nothing about the tests.

Everything here is an array of releases: a real one has the shape `()`, a simulation thousands, by the same code.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tasks.release.judge import odds, shares
from tasks.release.judge.bursts import Bursts
from tasks.release.judge.wealth import Wealth

Floats = NDArray[np.float64]


#: Requests of the stable arm, or rows, that make a stretch: four good ones beside four failures say 1.4 times as much a
#: failure as one beside one (the ratios of `odds.py` at equal traffic), and more would only be waited for.
_STRETCH = 4


class EventComparison:
    """Failed or slow requests: the canary's odds against the stable arm's, at most `allowed` times as high."""

    def __init__(self, shape: tuple[int, ...], allowed: float) -> None:
        self._allowed = allowed
        self._bursts = Bursts(shape)
        self._wealth = Wealth(shape, len(odds.BEYOND))
        self._anew: NDArray[np.bool_] = np.zeros(shape, dtype=bool)
        self._stretch: Floats = np.zeros((4, *shape))

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
        look = np.stack([np.asarray(of, dtype=np.float64) for of in (canary, canary_events, stable, stable_events)])
        self._anew = self._anew | anew
        # A stretch is of one step: what was too little to compare in the last one is left out.
        self._stretch = look if anew else self._stretch + look
        n, x, m, y = self._stretch
        whole = (n > 0) & (m >= _STRETCH)
        played = whole & (x + y > 0)  # without an event nothing is learnt, so nothing is laid
        if played.any():
            ratios = odds.log_ratios(n, x, m, y, self._allowed) / self._bursts.divisor(n, m)[..., None]
            self._wealth.play(ratios, played=played, anew=self._anew)
            self._anew = self._anew & ~played
        self._bursts.take(y, m, whole)
        self._stretch = np.where(whole, 0.0, self._stretch)

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
        self._anew: NDArray[np.bool_] = np.zeros(shape, dtype=bool)
        self._stretch = [np.zeros(shape), np.zeros((*shape, classes)), np.zeros(shape), np.zeros((*shape, classes))]

    def take(
        self,
        canary: Floats,
        canary_classes: Floats,
        stable: Floats,
        stable_classes: Floats,
        together: ArrayLike = 1.0,
        *,
        anew: bool = False,
    ) -> None:
        """One look: rows of both arms since the one before, and how many were of each class (last axis); of them,
        about so many hang `together`."""
        self._anew = self._anew | anew
        look = (canary, canary_classes, stable, stable_classes)
        self._stretch = list(look) if anew else [of + more for of, more in zip(self._stretch, look, strict=True)]
        n, x, m, y = self._stretch
        whole = (n > 0) & (m >= _STRETCH)
        if whole.any():
            rows = [np.broadcast_to(of[..., None], x.shape) for of in (n, m)]
            before = shares.guess(self._rows[..., None], self._of_class)
            ratios = shares.log_ratios(rows[0], x, rows[1], y, before, self._allowed)
            root = np.asarray(together, dtype=np.float64)[..., None, None, None]
            self._wealth.play(ratios / root, played=whole[..., None, None], anew=self._anew[..., None, None])
            self._anew = self._anew & ~whole
        self._stretch = [
            np.where(whole if of.ndim == whole.ndim else whole[..., None], 0.0, of) for of in self._stretch
        ]
        self.learn(np.where(whole, m, 0.0), np.where(whole[..., None], y, 0.0))

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
