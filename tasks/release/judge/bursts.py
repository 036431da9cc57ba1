"""What comes together: how much less it says than as much that comes alone.

In: events and requests of the stable arm, look for look. Out: the divisor of a test's logarithm in the next look.

A pause of the garbage collector makes every request slow that is in the server just then; two equal versions have their
pauses at different times, and a test that takes each request for itself would be sure that one of them is worse. How
many events come at once is seen on the stable arm, whose pauses nobody blames on the new version: the most by which a
recent look exceeded what independent requests explain. It is scaled by the canary's share of traffic: a pause hits as
many requests as come in that time.

The divisor b is known before the look, and at least 1, so that nothing of the test's promise is lost: if the mean of a
ratio is at most 1, that of its bth root is (Jensen's inequality).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: What was seen counts for about so many looks: an incident that hit both arms an hour ago does not blunt the test now.
_LOOKS = 100.0
#: Independent events exceed their mean by so many standard deviations in one look of a thousand.
_CHANCE = 3.0


class Bursts:
    """For a whole array of releases at once, like `Wealth`."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._events: Floats = np.zeros(shape)
        self._requests: Floats = np.zeros(shape)
        self._largest: Floats = np.zeros(shape)

    def divisor(self, canary: Floats, stable: Floats) -> Floats:
        """By which to divide in a look in which the arms had so many requests."""
        return np.asarray(1 + self._largest * np.minimum(1, canary / np.maximum(stable, 1)))

    def take(self, events: Floats, requests: Floats, whole: NDArray[np.bool_]) -> None:
        """The stable arm's look, for those to come; where it is a `whole` one."""
        expected = requests * self._events / np.maximum(self._requests, 1)
        beyond = events - 1 - expected - _CHANCE * np.sqrt(expected)  # one event is no burst
        known = self._requests > 0
        kept = 1 - 1 / _LOOKS
        largest = np.maximum(kept * self._largest, np.where(known, beyond, 0))
        self._largest = np.where(whole, largest, self._largest)
        self._events = np.where(whole, kept * self._events + events, self._events)
        self._requests = np.where(whole, kept * self._requests + requests, self._requests)


class RequestSizes:
    """How many rows hang together: the mean request's rows where all are alike, and more where some are far larger.

    It is the mean size that a *row* sees, E[m²]/E[m] (Kish 1965, "Survey Sampling", §5.4: the effect of clusters of
    unequal size). Only sums over looks are counted, so the spread of m is that of rows about their mean per request.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._sums: Floats = np.zeros((5, *shape))

    def take(self, rows: Floats, requests: Floats) -> None:
        """One look of one arm."""
        self._sums = self._sums + np.stack([rows, requests, rows * rows, rows * requests, requests * requests])

    @property
    def together(self) -> Floats:
        """At least 1. Without a number of requests, all rows may hang together."""
        rows, requests, squares, products, squared = self._sums
        mean = rows / np.maximum(requests, 1)
        spread = (squares - 2 * mean * products + mean**2 * squared) / np.maximum(requests, 1)
        return np.asarray(np.maximum(1, mean + np.maximum(spread, 0) / np.maximum(mean, 1)))
