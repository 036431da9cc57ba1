"""Events that come together: how much less they say than as many that come alone.

In: events and requests of the stable arm, look for look. Out: the divisor of a test's logarithm in the next look.

A pause of the garbage collector makes every request slow that is in the server just then; two equal versions have their
pauses at different times, and a test that takes each request for itself would be sure that one of them is worse. How
many events come at once is measured on the stable arm, whose pauses nobody blames on the new version: from the second
factorial moment of its events per look, as the variance over the mean of counts that are too variable for a Poisson
distribution (McCullagh & Nelder 1989, "Generalized Linear Models", §6.2.3). It is scaled by the canary's share of
traffic: a pause hits as many requests as come in that time.

The divisor b is known before the look, and at least 1, so that nothing of the test's promise is lost: if the mean of a
ratio is at most 1, that of its bth root is (Jensen's inequality).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: What was seen counts for about so many looks: an incident that hit both arms an hour ago does not blunt the test now.
_LOOKS = 100.0
#: As of so many events that came alone, seen before the first look: a single pair makes no burst.
_ALONE = 5.0


class Bursts:
    """For a whole array of releases at once, like `Wealth`."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._events: Floats = np.zeros(shape)
        self._requests: Floats = np.zeros(shape)
        self._pairs: Floats = np.zeros(shape)
        self._expected: Floats = np.zeros(shape)

    def divisor(self, canary: Floats | np.float64, stable: Floats | np.float64) -> Floats:
        """By which to divide in a look in which the arms had so many requests."""
        excess = np.maximum(self._pairs - self._expected, 0) / (self._events + _ALONE)
        return np.asarray(1 + excess * np.minimum(1, canary / np.maximum(stable, 1)))

    def take(self, events: Floats | np.float64, requests: Floats | np.float64) -> None:
        """The stable arm's look, for those to come."""
        rate = (self._events + events) / np.maximum(self._requests + requests, 1)
        kept = 1 - 1 / _LOOKS
        self._pairs = kept * self._pairs + events * (events - 1)
        self._expected = kept * self._expected + (rate * requests) ** 2
        self._events = kept * self._events + events
        self._requests = kept * self._requests + requests
