"""What can be wrong with what a judge gets to see. Each lasts to the release's end, from a look on; none may end in a
promotion, however good the new version is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tasks.release.contracts import ArmCounts, Sample
from tests.unit.release.judge.traffic import Behaviour, Traffic, worse

Broken = Callable[[Sample, int], Sample]


@dataclass(frozen=True)
class Fault:
    """`broken` makes of the nth look what is seen instead; from `since` on."""

    name: str
    broken: Broken
    since: int = 30
    canary: Behaviour = Behaviour()  # noqa: RUF009  frozen

    def __str__(self) -> str:
        return self.name

    def through(self) -> Callable[[Sample, Traffic], Sample]:
        """One release's eyes."""
        looks = 0

        def seen(sample: Sample, _: Traffic) -> Sample:
            nonlocal looks
            looks += 1
            return self.broken(sample, looks) if looks >= self.since else sample

        return seen


def _without(*arms: str) -> Broken:
    return lambda sample, _: sample.model_copy(update=dict.fromkeys(arms))


def _every(period: int, then: Broken) -> Broken:
    return lambda sample, look: then(sample, look) if look % period == 0 else sample


def _counts(arm: str, change: Callable[[ArmCounts, int], dict[str, Any]]) -> Broken:
    def broken(sample: Sample, look: int) -> Sample:
        counts: ArmCounts = getattr(sample, arm)
        return sample.model_copy(update={arm: counts.model_copy(update=change(counts, look))})

    return broken


def _frozen() -> Broken:
    """An exporter that answers what it once knew."""
    known: list[tuple[int, ArmCounts | None]] = []

    def broken(sample: Sample, look: int) -> Sample:
        if not known or look <= known[-1][0]:  # another release
            known[:] = [(look, sample.canary)]
        known.append((look, known[0][1]))
        return sample.model_copy(update={"canary": known[0][1]})

    return broken


def _clock(at: Callable[[float, int], float]) -> Broken:
    return lambda sample, look: sample.model_copy(update={"at": at(sample.at, look)})


def _uneven(name: str) -> Broken:
    """A counter that goes down and up: two processes behind one address."""
    return _counts("canary", lambda counts, look: {name: getattr(counts, name) // (1 + look % 2)})


def _both(sample: Sample, look: int) -> Sample:
    for arm in ("stable", "canary"):
        sample = _counts(arm, lambda *_: {"incarnation": str(look)})(sample, look)
    return sample


def _label(counts: ArmCounts) -> dict[str, int]:
    return dict(counts.predictions.get("label", {}))


FAULTS = (
    Fault("no canary", _without("canary")),
    Fault("no canary from the first look on", _without("canary"), since=1),
    Fault("no stable version", _without("stable")),
    Fault("no stable version from the first look on", _without("stable"), since=1),
    Fault("neither", _without("stable", "canary")),
    Fault("every other look lost", _every(2, _without("canary"))),
    Fault("the canary restarts at every look", _counts("canary", lambda _, look: {"incarnation": str(look)})),
    Fault("both restart at every look", _both),
    Fault("the canary restarts every 20 looks", _counts("canary", lambda _, look: {"incarnation": str(look // 20)})),
    Fault("the canary's counters do not move", _frozen()),
    Fault("requests go up and down", _uneven("requests")),
    Fault("rows go up and down", _uneven("rows")),
    Fault("predictions lost", _counts("canary", lambda *_: {"predictions": {}})),
    Fault("predictions under another output", _counts("canary", lambda c, _: {"predictions": {"score": _label(c)}})),
    Fault("predictions of nothing", _counts("canary", lambda c, _: {"predictions": {"label": {}}, "rows": c.rows})),
    Fault("no rows counted", _counts("canary", lambda *_: {"rows": 0, "answered": 0, "predictions": {}}), since=1),
    Fault("every answer is NaN", _counts("canary", lambda c, _: {"invalid": c.rows, "predictions": {}}), since=1),
    Fault("the clock stands still", _clock(lambda *_: 1_000_030.0)),
    Fault("the clock runs backwards", _clock(lambda at, _: 2_000_060.0 - at)),
    Fault("the clock is not a number", _clock(lambda *_: float("nan"))),
    Fault("the clock is infinite", _clock(lambda *_: float("inf"))),
    Fault("the router gives the canary nothing", lambda s, _: s.model_copy(update={"weight": 0.0})),
    Fault("a canary that fails always, seen every third look", _every(3, _without("canary")), 1, worse(errors=1.0)),
    Fault("a canary that fails always, unseen", _without("canary"), 1, worse(errors=1.0)),
)
