"""Counters as they were read → what happened between two looks, and over longer spans. Pure.

In: the trace, samples of counters since each arm's own start. Out: differences. An arm that could not be read leaves a
gap, and one that began to count again (another `incarnation`) is counted from zero: what it had counted before and
nobody read is lost, never negative. What a difference is, the judge says (`tasks.release.judge.counting`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tasks.release.contracts import Arm, ArmCounts, Sample
from tasks.release.judge.counting import Tally


@dataclass(frozen=True, slots=True)
class Span:
    """What both arms did from one look to a later one. An arm is None where nothing is known of it."""

    since: float
    until: float
    step: int
    weight: float
    arms: Mapping[Arm, Tally | None]

    def of(self, arm: Arm) -> Tally:
        return self.arms[arm] or Tally()

    @property
    def real_share(self) -> float | None:
        """Percent of requests that the canary really had; None where an arm is unknown or nobody asked."""
        if any(tally is None for tally in self.arms.values()):
            return None
        total = self.of(Arm.STABLE).requests + self.of(Arm.CANARY).requests
        return 100 * self.of(Arm.CANARY).requests / total if total else None


def both_seen(trace: Sequence[Sample]) -> list[Sample]:
    """The looks at which both arms could be read: between two of them, both counted for the same time."""
    return [sample for sample in trace if sample.stable is not None and sample.canary is not None]


def spans(trace: Sequence[Sample]) -> tuple[Span, ...]:
    """One from each look to the next."""
    found = []
    last: dict[Arm, ArmCounts | None] = dict.fromkeys(Arm)
    for before, sample in pairwise(trace):
        for arm in Arm:
            last[arm] = _counts(before, arm) or last[arm]
        found.append(
            Span(
                before.at,
                sample.at,
                sample.step,
                sample.weight,
                {arm: _between(last[arm], _counts(sample, arm)) for arm in Arm},
            )
        )
    return tuple(found)


def merged(of: Iterable[Span]) -> Span | None:
    """Several that follow each other as one; the last one's step and weight. None of none."""
    several = list(of)
    if not several:
        return None
    arms: dict[Arm, Tally | None] = {}
    for arm in Arm:
        known = [span.arms[arm] for span in several if span.arms[arm] is not None]
        arms[arm] = sum((tally for tally in known if tally is not None), Tally()) if known else None
    return Span(several[0].since, several[-1].until, several[-1].step, several[-1].weight, arms)


def binned(of: Sequence[Span], most: int) -> tuple[Span, ...]:
    """At most `most` spans of about the same length, none of which reaches over two steps."""
    if not of:
        return ()
    width = (of[-1].until - of[0].since) / most
    groups: list[list[Span]] = []
    for span in of:
        if groups and groups[-1][0].step == span.step and span.until - groups[-1][0].since <= width:
            groups[-1].append(span)
        else:
            groups.append([span])
    return tuple(found for group in groups if (found := merged(group)) is not None)


def _counts(sample: Sample, arm: Arm) -> ArmCounts | None:
    return sample.stable if arm is Arm.STABLE else sample.canary


def _between(before: ArmCounts | None, now: ArmCounts | None) -> Tally | None:
    if now is None:
        return None
    if before is None:
        return Tally()  # what it counted before the first look belongs to nobody
    if before.incarnation != now.incarnation:
        return Tally.since_its_start(now)
    return Tally.between(before, now)
