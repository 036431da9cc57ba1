"""Which operator is the first to differ, and which add most. Pure.

In: a `Place` for every pair of values, in the graph's order. Out: numbers of places.

A difference counts only where it reaches an output: from an output that differs, back along values that differ. An
optimiser may give a value's name to another one that it computes on the way; nothing that follows from such a value
differs, and so it is passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: A layer of a file in reduced precision stands out when it adds so many times what any other adds: eight is what
#: parity grants two faithful implementations of the same sums (`tasks.parity.tolerance`).
_STANDS_OUT = 8.0


@dataclass(frozen=True, slots=True)
class Place:
    """How far off a value is. `whole` is its margin on the whole way from the inputs; `alone` that of its operator when
    it is given the source's own values, None where it was not asked alone. `upstream` are numbers of places.
    """

    whole: float
    alone: float | None
    upstream: tuple[int, ...]
    output: bool

    def added(self, places: Sequence[Place]) -> float:
        """How much this operator adds: alone, or else its margin against the worst of its inputs'."""
        if self.alone is not None:
            return self.alone
        return self.whole / max(1.0, *(places[number].whole for number in self.upstream), 0.0)


def reached(places: Sequence[Place]) -> frozenset[int]:
    """The places whose difference leads to an output that differs.

    Where no output differs, by one number for a whole value, which is coarser than parity's own for each position: the
    places whose difference is passed on at all.
    """
    differs = [place.whole > 1 for place in places]
    waiting = [number for number, place in enumerate(places) if place.output and differs[number]]
    if not waiting:
        waiting = [number for number, place in enumerate(places) if differs[number] and _any(differs, place.upstream)]
    found = set[int]()
    while waiting:
        number = waiting.pop()
        if number not in found:
            found.add(number)
            waiting.extend(earlier for earlier in places[number].upstream if differs[earlier])
    return frozenset(found)


def _any(differs: Sequence[bool], numbers: Sequence[int]) -> bool:
    return any(differs[number] for number in numbers)


def trusted(places: Sequence[Place]) -> frozenset[int]:
    """The places that are what their names say: they agree, or their difference leads to an output that differs."""
    return reached(places) | {number for number, place in enumerate(places) if place.whole <= 1}


def first(places: Sequence[Place]) -> int | None:
    """The first place that differs by more than is allowed while nothing that it is computed from does.

    Where its operator does no wrong when it is asked alone, a difference that was still within what is allowed was
    made larger here: then it is the operator before it that is worst when it is asked alone, if any is.
    """
    counted = reached(places)
    if not counted:
        alone = {number: place.alone or 0.0 for number, place in enumerate(places) if place.whole <= 1}
        largest = max(alone, key=lambda number: alone[number], default=None)
        return largest if largest is not None and alone[largest] > 1 else None
    starts = [
        number for number in sorted(counted) if all(places[earlier].whole <= 1 for earlier in places[number].upstream)
    ]
    if not starts:
        return None
    start = starts[0]
    by_itself = places[start].alone
    if by_itself is None or by_itself > 1:
        return start
    before = {number: places[number].alone or 0.0 for number in _before(places, start)}
    worst = max(before, key=lambda number: before[number], default=start)
    return worst if before.get(worst, 0.0) > 1 else start


def worst(places: Sequence[Place], count: int) -> tuple[int, ...]:
    """Those that add most, most first; only such as add more than is allowed."""
    added = {number: places[number].added(places) for number in reached(places)}
    found = [number for number in added if added[number] > 1]
    return tuple(sorted(found, key=lambda number: (-added[number], number))[:count])


def outstanding(places: Sequence[Place], modules: Sequence[str]) -> int | None:
    """In reduced precision: the place that adds far more than any of another module does."""
    ranked = worst(places, len(places))
    if not ranked:
        return None
    top = ranked[0]
    second = next((number for number in ranked if modules[number] != modules[top]), None)
    if second is not None and places[top].added(places) < _STANDS_OUT * places[second].added(places):
        return None
    return top


def _before(places: Sequence[Place], start: int) -> frozenset[int]:
    found, waiting = set[int](), list(places[start].upstream)
    while waiting:
        number = waiting.pop()
        if number not in found:
            found.add(number)
            waiting.extend(places[number].upstream)
    return frozenset(found)
