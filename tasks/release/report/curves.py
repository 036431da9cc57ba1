"""A release's trace and judgements → the page's plots: shares, evidence, errors, slow requests, classes. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tasks.release.contracts import Arm, GuardState, Judgement, Release, Sample
from tasks.release.judge.counting import Tally
from tasks.release.report.looks import Span, binned, both_seen, merged, spans
from tasks.release.report.plots import SMALL, Plot, Point, Series, Times, plot

#: Spans that rates are shown for: each holds enough requests to be a rate, and a wide screen tells them apart.
_SPANS = 40
#: Evidence for "no worse than allowed" goes on growing without end; beyond a thousand to one it says nothing new.
_FLOOR = -3.0
#: Classes of one output that are drawn: those that moved most.
_CLASSES = 12
#: Classes of one output are drawn over so many spans: their lines are small.
_CLASS_SPANS = 24


@dataclass(frozen=True, slots=True)
class Guard:
    """One guard: its latest state, whether it fired, and its evidence over time."""

    state: GuardState
    fired: bool
    plot: Plot


@dataclass(frozen=True, slots=True)
class Class:
    """One class' (or value's, or bin's) share of an output's answers in both arms, in all and over time."""

    label: str
    stable: float | None
    canary: float | None
    plot: Plot

    @property
    def moved(self) -> float:
        """By how much its share is another; nothing where one is not known."""
        return 0.0 if self.stable is None or self.canary is None else self.canary - self.stable


@dataclass(frozen=True, slots=True)
class Mix:
    """One output's answers: the classes that moved most first."""

    output: str
    classes: tuple[Class, ...]
    more: int
    rows: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Curves:
    """All plots of a release; what was not seen is None or empty."""

    share: Plot | None = None
    guards: tuple[Guard, ...] = ()
    errors: Plot | None = None
    slow: Plot | None = None
    mixes: tuple[Mix, ...] = ()


def curves(release: Release, trace: Sequence[Sample], judgements: Sequence[Judgement]) -> Curves:
    """Everything that can be drawn of what was seen."""
    moments = [sample.at for sample in trace] + [judgement.at for judgement in judgements]
    if len(set(moments)) < 2:
        return Curves()
    seen = spans(trace)
    times = Times(min(moments), max(moments), _steps(release, seen))
    bins = binned(seen, _SPANS)
    return Curves(
        share=_share(binned(spans(both_seen(trace)), _SPANS), times) if bins else None,
        guards=tuple(_guard(name, judgements, times) for name in _names(judgements)),
        errors=_rates("errors", bins, times, lambda tally: tally.errors) if bins else None,
        slow=_rates("slow requests", bins, times, lambda tally: tally.slow) if bins else None,
        mixes=_mixes(seen, times),
    )


def _steps(release: Release, seen: Sequence[Span]) -> tuple[tuple[float, float, str], ...]:
    """When each step was, by the looks."""
    found: dict[int, tuple[float, float]] = {}
    for span in seen:
        since, _ = found.get(span.step, (span.since, span.until))
        found[span.step] = (since, span.until)
    steps = release.plan.steps
    return tuple(
        (since, until, f"{steps[step]:g} %") for step, (since, until) in sorted(found.items()) if step < len(steps)
    )


def _share(bins: Sequence[Span], times: Times) -> Plot:
    target: list[Point] = []
    for span in bins:
        target += [(span.since, span.weight / 100), (span.until, span.weight / 100)]
    real = [(_middle(span), None if span.real_share is None else span.real_share / 100) for span in bins]
    series = (Series("target", "target", tuple(target)), Series("real share", "canary", tuple(real)))
    return plot("share of requests that the canary was to have, and really had", series, times, percent=True)


def _rates(what: str, bins: Sequence[Span], times: Times, count: Callable[[Tally], int]) -> Plot:
    def points(arm: Arm) -> tuple[Point, ...]:
        tallies = [(span, span.arms[arm]) for span in bins]
        return tuple((_middle(span), _rate(tally, count)) for span, tally in tallies)

    series = (Series("stable", "stable", points(Arm.STABLE)), Series("canary", "canary", points(Arm.CANARY)))
    return plot(f"share of {what} of the stable and of the canary version", series, times, percent=True)


def _rate(tally: Tally | None, count: Callable[[Tally], int]) -> float | None:
    """Of its requests; None where nothing is known, or nobody asked."""
    return count(tally) / tally.requests if tally is not None and tally.requests else None


def _names(judgements: Sequence[Judgement]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(guard.name for judgement in judgements for guard in judgement.guards))


def _guard(name: str, judgements: Sequence[Judgement], times: Times) -> Guard:
    states = [(said.at, guard) for said in judgements for guard in said.guards if guard.name == name]
    latest = states[-1][1]
    points = tuple((at, state.evidence) for at, state in states)
    limit = (latest.threshold, f"rolls back at {latest.threshold:.2f}")
    drawn = plot(
        f"evidence of the guard {name} over time; it rolls back at {latest.threshold:.2f}",
        (Series("evidence", "evidence", points),),
        times,
        low=_FLOOR,
        high=max(2 * latest.threshold, latest.threshold + 1),
        limit=limit,
    )
    return Guard(latest, any(state.evidence >= state.threshold for _, state in states), drawn)


# --- answers ------------------------------------------------------------------------------------------------------


def _mixes(seen: Sequence[Span], times: Times) -> tuple[Mix, ...]:
    total = merged(seen)
    if total is None:
        return ()
    outputs = {**total.of(Arm.STABLE).predictions, **total.of(Arm.CANARY).predictions}
    bins = binned(seen, _CLASS_SPANS)
    return tuple(_mix(output, total, bins, times) for output in outputs)


def _mix(output: str, total: Span, bins: Sequence[Span], times: Times) -> Mix:
    stable, canary = (total.of(arm).predictions.get(output, {}) for arm in Arm)
    labels = {**stable, **canary}
    shares = {label: (_part(stable, label), _part(canary, label)) for label in labels}
    largest = max((share or 0.0 for both in shares.values() for share in both), default=1.0)
    ordered = sorted(labels, key=lambda label: (-_moved(*shares[label]), label))
    classes = tuple(
        Class(label, *shares[label], _over_time(output, label, bins, times, largest)) for label in ordered[:_CLASSES]
    )
    return Mix(output, classes, len(ordered) - len(classes), (sum(stable.values()), sum(canary.values())))


def _over_time(output: str, label: str, bins: Sequence[Span], times: Times, largest: float) -> Plot:
    def points(arm: Arm) -> tuple[Point, ...]:
        return tuple((_middle(span), _part(span.of(arm).predictions.get(output, {}), label)) for span in bins)

    series = (Series("stable", "stable", points(Arm.STABLE)), Series("canary", "canary", points(Arm.CANARY)))
    return plot(
        f"share of {label} in {output}", series, times, high=min(1.0, 1.5 * largest), percent=True, height=SMALL
    )


def _part(counts: Mapping[str, int], label: str) -> float | None:
    total = sum(counts.values())
    return counts.get(label, 0) / total if total else None


def _moved(stable: float | None, canary: float | None) -> float:
    return 0.0 if stable is None or canary is None else abs(canary - stable)


def _middle(span: Span) -> float:
    return (span.since + span.until) / 2
