"""The smallest limit that is enough: decisions over probes, without clock or engine.

In: `probe`, which says whether a limit was survived, and a limit that was. Out: a `Bracket`, the smallest limit that
was survived and the largest that was not. What is needed lies between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

#: How near the two ends must be: what is promised is 5 %, and what the kernel takes for itself beside the process
#: (page tables, sockets) needs some of that.
WITHIN = 0.025
#: Below this no process starts, and Docker refuses limits under 6 MiB.
LEAST_BYTES = 16 << 20
#: Limits are whole numbers of these: no engine knows finer ones than pages, and no person reads them.
_STEP_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Bracket:
    """What is enough, and what is not; `too_little` is None where everything that was tried was enough."""

    enough: int
    too_little: int | None
    probes: int

    @property
    def is_exact(self) -> bool:
        """Whether the two ends are as near as they were to come."""
        return self.too_little is not None and self.enough <= self.too_little * (1 + WITHIN) + _STEP_BYTES

    @property
    def is_enforced(self) -> bool:
        """Whether limits limited anything: no server lives in the least of them."""
        return self.too_little is not None or self.enough >= 2 * LEAST_BYTES


def smallest(
    probe: Callable[[int], bool], known: int, guess: int, most_probes: int, is_over: Callable[[], bool] = lambda: False
) -> Bracket:
    """Halve or double from `guess` until the need is enclosed, then go on between the ends. `known` was enough.

    Stops when the ends are near enough (`Bracket.is_exact`), after `most_probes`, or when time `is_over`.
    """
    found = Bracket(known, None, 0)
    limit = max(LEAST_BYTES, _whole(guess)) if guess < known else _next(found)
    while found.probes < most_probes and not found.is_exact and LEAST_BYTES <= limit < found.enough and not is_over():
        if probe(limit):
            found = Bracket(limit, found.too_little, found.probes + 1)
        else:
            found = Bracket(found.enough, limit, found.probes + 1)
        limit = _next(found)
    return found


def _next(found: Bracket) -> int:
    if found.too_little is None:
        return _whole(found.enough / 2)
    doubled = 2 * found.too_little
    between = math.sqrt(found.too_little * found.enough)  # the same share of either
    return _whole(doubled if doubled < between else between)


def _whole(limit: float) -> int:
    return round(limit / _STEP_BYTES) * _STEP_BYTES
