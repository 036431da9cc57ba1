"""What happened between two looks: counters in, differences out. Pure.

A difference is only taken where it means something. An arm that could not be read is not an arm that did nothing; one
that began to count again did things that nobody knows. Differences are always of both arms over the same time, from the
last look at which both were seen: so a look that failed loses nothing, and an incident is never seen by one arm alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from tasks.release.contracts import ArmCounts, Sample

Classes = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Tally:
    """What one arm did in some stretch of time. Invalid answers (NaN) are among the errors already."""

    requests: int = 0
    errors: int = 0
    slow: int = 0
    rows: int = 0
    answered: int = 0
    predictions: Mapping[str, Classes] = field(default_factory=dict)

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.requests + other.requests,
            self.errors + other.errors,
            self.slow + other.slow,
            self.rows + other.rows,
            self.answered + other.answered,
            {
                output: _sum(self.predictions.get(output, {}), other.predictions.get(output, {}))
                for output in {**self.predictions, **other.predictions}
            },
        )

    @classmethod
    def between(cls, before: ArmCounts, now: ArmCounts) -> Tally | None:
        """The difference; None where a counter fell, so that there is none."""
        numbers = {
            name: getattr(now, name) - getattr(before, name)
            for name in ("requests", "errors", "slow", "rows", "answered", "invalid")
        }
        predictions = {
            output: _difference(before.predictions.get(output, {}), now.predictions.get(output, {}))
            for output in {**before.predictions, **now.predictions}
        }
        counts = [count for classes in predictions.values() for count in classes.values()]
        if min(*numbers.values(), *counts) < 0:
            return None
        invalid = numbers.pop("invalid")
        failed = numbers["errors"] + _requests_of(invalid, numbers["rows"], numbers["answered"])
        # Differences of two looks that were each read over some milliseconds: the parts may exceed the whole by a few.
        requests = max(numbers["requests"], numbers["errors"], numbers["slow"])
        numbers |= {"requests": requests, "errors": min(failed, requests)}
        return cls(**numbers, predictions=predictions)

    @classmethod
    def since_its_start(cls, now: ArmCounts) -> Tally:
        """All that it counted."""
        whole = cls.between(ArmCounts(incarnation=now.incarnation, requests=0, errors=0, slow=0), now)
        assert whole is not None  # noqa: S101  counters are not negative
        return whole


def _sum(one: Classes, other: Classes) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}


def _difference(before: Classes, now: Classes) -> dict[str, int]:
    return {name: now.get(name, 0) - before.get(name, 0) for name in {**before, **now}}


def _requests_of(rows: int, of: int, requests: int) -> int:
    """How many requests so many rows are at least, if all have as many: a request that answers NaN is one failure,
    however many rows it has."""
    return math.ceil(rows * requests / of) if of and requests else rows


class Seen(Enum):
    """What one look could see."""

    BOTH = auto()  # and what both did since the last such look
    FIRST = auto()  # both, but nothing before to compare with
    MISSING = auto()  # an arm could not be read
    RESTARTED = auto()  # an arm began to count again: what lay between is unknown


@dataclass(frozen=True, slots=True)
class Interval:
    """What lay between this look and the last at which both arms were seen.

    `seconds` are those that may count as baked. Of an interval with a restart, `canary` and `stable` hold what is
    certain and may speak against the canary: what a new incarnation has counted itself.
    """

    seen: Seen
    stable: Tally = Tally()
    canary: Tally = Tally()
    seconds: float = 0.0
    missing: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()


class Watch:
    """Looks in, intervals out. Without a stable arm (a first release) the canary is all that there is to see."""

    def __init__(self, *, alone: bool) -> None:
        self._alone = alone
        self._before: tuple[ArmCounts | None, ArmCounts] | None = None
        self._at: float | None = None
        self._missed = False

    def look(self, sample: Sample) -> Interval:
        """The interval that this look ends."""
        stable = None if self._alone else sample.stable
        at, self._at = self._at, sample.at if math.isfinite(sample.at) else self._at
        missing = tuple(
            name
            for name, counts, expected in (("stable", stable, not self._alone), ("canary", sample.canary, True))
            if expected and counts is None
        )
        if missing or sample.canary is None:
            self._missed = True
            return Interval(Seen.MISSING, missing=missing)
        before, self._before = self._before, (stable, sample.canary)
        missed, self._missed = self._missed, False
        if before is None:
            return Interval(Seen.FIRST)
        parts = {"stable": _part(before[0], stable), "canary": _part(before[1], sample.canary)}
        restarted = tuple(name for name, (tally, whole) in parts.items() if not whole or tally is None)
        if restarted:
            return Interval(Seen.RESTARTED, *_certain(parts), restarted=restarted)
        seconds = 0.0 if at is None or missed or not math.isfinite(sample.at) else max(0.0, sample.at - at)
        return Interval(Seen.BOTH, parts["stable"][0] or Tally(), parts["canary"][0] or Tally(), seconds)


def _part(before: ArmCounts | None, now: ArmCounts | None) -> tuple[Tally | None, bool]:
    """What one arm did, and whether that is all that it did. None where the counters contradict each other."""
    if before is None or now is None:
        return Tally(), True
    if before.incarnation != now.incarnation:
        return Tally.since_its_start(now), False
    return Tally.between(before, now), True


def _certain(parts: Mapping[str, tuple[Tally | None, bool]]) -> tuple[Tally, Tally]:
    """Stable's and canary's, where they may be held against each other although an arm began again.

    What a canary lost on its restart can only have been worse than what is known, so the rest speaks for it. What the
    stable arm alone lost would make it look better than it is: then nothing is said.
    """
    (stable, stable_whole), (canary, canary_whole) = parts["stable"], parts["canary"]
    if stable is None or canary is None or (canary_whole and not stable_whole):
        return Tally(), Tally()
    return stable, canary
