"""A bet against "no worse than allowed": what it has made of 1 is the evidence.

In: what each alternative would have multiplied a stake by, look for look. Out: the wealth, an e-value at any time.

A ratio whose mean is at most 1 whenever the new version is no worse than allowed makes a test supermartingale of the
product; so the wealth reaches 1/α with a chance of at most α, however often it is looked at (Ville 1939, "Étude
critique de la notion de collectif", p. 84; Ramdas, Grünwald, Vovk & Shafer 2023, "Game-theoretic statistics and safe
anytime-valid inference", Stat. Sci. 38, §2). A mean of such products, with weights that are fixed beforehand, is one,
too; that is all that is used here:

    alternatives    how much worse it may be is not known: the stake is spread over a few guesses
    beginnings      *when* it becomes worse is not known: part of the stake stays in hand, a little of it is laid at
                    each look, and more where a step begins. A version that was fine for an hour has used up what was
                    laid in that hour, and no more (a mixture over the moments of change, as in Shin, Ramdas & Rinaldo
                    2024, "E-detectors", New Engl. J. Stat. Data Sci. 2, §4, here with weights that sum to 1)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: e^500: far beyond any threshold, far from float64's end. To cut wealth off only makes evidence smaller.
_ENOUGH = 500.0


#: Of what is in hand, laid where a step begins: what breaks under more traffic breaks then.
_ANEW = 0.25


def _lasting(bets: Floats) -> Floats:
    """The share of a stake that is still in hand after so many bets: 1, 1/2, 1/3 after 3, 1/11 after 1,023.

    Half is laid at once, as most faults are there from the start. The rest lasts: what is laid at the nth bet falls
    a little faster than 1/n, about the slowest that still has a finite sum.
    """
    return 1 / (1 + np.log2(1 + bets))


class Wealth:
    """The wealth of one bet over several alternatives, for a whole array of bets at once.

    `shape` is that of the array; `()` is a single bet, and what a release has. Simulations have thousands.
    """

    def __init__(self, shape: tuple[int, ...], alternatives: int) -> None:
        self._laid: Floats = np.zeros((*shape, alternatives))
        self._bets: Floats = np.zeros(shape)
        self._hand: Floats = np.ones(shape)

    def play(
        self, log_ratios: Floats, *, played: NDArray[np.bool_] | bool = True, anew: NDArray[np.bool_] | bool = False
    ) -> None:
        """One look: `log_ratios[..., j]` is the logarithm of what alternative j multiplies its stake by.

        Where nothing is `played` (no event, so that every ratio is 1), nothing is laid either. `anew`: a step begins.
        """
        on = np.broadcast_to(np.asarray(played), self._bets.shape)
        kept = _lasting(self._bets + 1) / _lasting(self._bets) * np.where(anew & (self._bets > 0), 1 - _ANEW, 1.0)
        kept = np.where(on, kept, 1.0)
        fresh = self._hand * (1 - kept) / self._laid.shape[-1]
        with np.errstate(divide="ignore"):
            grown = np.exp(np.minimum(np.log(self._laid + fresh[..., None]) + log_ratios, _ENOUGH))
        self._laid = np.where(on[..., None], grown, self._laid)
        self._hand, self._bets = self._hand * kept, self._bets + on

    @property
    def value(self) -> Floats:
        """The e-value now: what is in hand and what was made of the rest."""
        return np.asarray(self._hand + self._laid.sum(axis=-1))
