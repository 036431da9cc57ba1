"""The task metrics of source and export on the evaluation data, and whether the export may have lost too much.

In: both models' answers to every evaluation row, the label columns, what the spec asks for. Out: comparisons and
findings. Functions of arrays. An export passes when it is shown, at the spec's confidence, to lose no more than
`max_drop` (paired non-inferiority, `tasks.parity.noninferiority`). Whatever has no value blocks: a metric that was
never computed is not a pass, and neither is one that the rows are too few to decide.

    bound ≤ max_drop           passed
    drop > max_drop            failed: this is what was measured, whether or not more rows would confirm it
    drop ≤ max_drop < bound    inconclusive: give more rows
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.contracts import Calibration, ClassChange, Finding, MetricComparison, Owner, Verdict
from tasks.ingest.metric_code import MetricFunction
from tasks.parity.classes import calibration, class_changes, regressions
from tasks.parity.metrics import METRICS, Measured, Metric
from tasks.parity.noninferiority import Bound, Changes, bound, changes
from tasks.parity.own_metric import OwnMetric
from tasks.parity.reading import Reading, Undefined
from tasks.parity.scores import Truth
from tasks.spec import ClassRegression, Direction, EvaluationSpec, MetricSpec

Arrays = Mapping[str, NDArray[Any]]

PROPORTIONS = "score interval for paired proportions (Tango 1998)"
MEANS = "score bound of the mean paired difference"
JACKKNIFE = "score bound of paired jackknife pseudo-values"


@dataclass(slots=True)
class Quality:
    """All metrics of a spec, and what they say."""

    metrics: tuple[MetricComparison, ...] = ()
    classes: tuple[ClassChange, ...] = ()
    calibration: tuple[Calibration, ...] = ()
    findings: list[Finding] = field(default_factory=list)


def compare_metrics(
    wanted: EvaluationSpec,
    source: Arrays,
    export: Arrays | None,
    evaluation: Arrays,
    own: Mapping[str, MetricFunction] | None = None,
) -> Quality:
    """Every metric of the spec. `export` is None where it did not answer every row; `own` are the user's functions, by
    the spec's `callable`.
    """
    found, names, told = Quality(), [metric.name for metric in wanted.metrics], set()
    for metric in wanted.metrics:
        name = metric.name if names.count(metric.name) == 1 else f"{metric.name}.{metric.output}"
        asked = _Asked(name, metric, wanted.confidence, source[metric.output], evaluation[metric.label])
        theirs = None if export is None else export[metric.output]
        queries = evaluation[metric.group] if metric.group else None
        if metric.callable is not None:
            comparison, findings = asked.own(
                OwnMetric((own or {})[metric.callable], metric.direction or Direction.HIGHER), theirs
            )
        else:
            comparison, findings = asked.known(METRICS[metric.name], theirs, queries)
        found.metrics += (comparison,)
        found.findings += findings
        # Several metrics of one output hold the same classes: they are told once.
        right = (metric.output, metric.label, _ranks(metric))
        if theirs is None or metric.callable is not None or not METRICS[metric.name].of_classes or right in told:
            continue
        told.add(right)
        _add_classes(found, asked, theirs, wanted.class_regression)
    return found


@dataclass(frozen=True, slots=True)
class _Asked:
    """One metric of the spec with the source's answers and the labels."""

    name: str
    wanted: MetricSpec
    confidence: float
    source: NDArray[Any]
    labels: NDArray[Any]

    def known(
        self, metric: Metric, export: NDArray[Any] | None, queries: NDArray[Any] | None
    ) -> tuple[MetricComparison, list[Finding]]:
        """A metric of the table."""
        reading = Reading.of(self.source)
        ours = metric.measure(self.source, self.labels, reading, queries)
        theirs = _SILENT if export is None else metric.measure(export, self.labels, reading, queries)
        return self._judged(ours, theirs, metric.direction, MEANS if metric.is_mean else JACKKNIFE)

    def own(self, metric: OwnMetric, export: NDArray[Any] | None) -> tuple[MetricComparison, list[Finding]]:
        """A metric of the user's."""
        if export is None:
            ours, theirs = metric.measure(self.source, self.labels), _SILENT
        else:
            ours, theirs = metric.compare(self.source, export, self.labels)
        units = 0 if ours.contributions is None else len(ours.contributions)
        return self._judged(ours, theirs, metric.direction, MEANS if units == len(self.labels) else JACKKNIFE)

    def _judged(
        self, ours: Measured, theirs: Measured, direction: Direction, method: str
    ) -> tuple[MetricComparison, list[Finding]]:
        drop = None if ours.value is None or theirs.value is None else direction.sign * (ours.value - theirs.value)
        comparison = MetricComparison(
            name=self.name,
            source=ours.value,
            export=theirs.value,
            drop=drop,
            max_drop=self.wanted.max_drop,
            confidence=self.confidence,
            rows=len(self.labels),
        )
        if ours.value is None:
            return comparison, [_missing(self.wanted, "source model", ours.reason, Owner.DATA, Verdict.INCONCLUSIVE)]
        if theirs.value is None or drop is None or not np.isfinite(drop):
            return comparison, [_missing(self.wanted, "export", theirs.reason, Owner.PLATFORM, Verdict.FAILED)]
        found = None
        if ours.contributions is not None and theirs.contributions is not None:
            change = changes(
                ours.contributions, theirs.contributions, drop, ours.worst, direction.sign, len(self.labels)
            )
            found = bound(change, self.confidence, self.wanted.max_drop)
            comparison = _with_bound(comparison, found, change, method)
        # Both values carry one rounding of float64; a drop of exactly max_drop must not fail for it.
        rounding = float(np.finfo(np.float64).eps) * max(abs(ours.value), abs(theirs.value))
        if not drop <= self.wanted.max_drop + rounding:
            return comparison, [_dropped(self.wanted, comparison, drop, found)]
        if found is None or not found.upper <= self.wanted.max_drop + rounding:
            return comparison, [_undecided(self.wanted, comparison, drop, found, ours.reason)]
        return comparison, []


_SILENT = Measured(None, "the export did not answer every evaluation row")


def _with_bound(comparison: MetricComparison, found: Bound | None, change: Changes, method: str) -> MetricComparison:
    if found is None:
        return comparison
    named = PROPORTIONS if change.is_paired_proportion else method
    if len(change.values) != change.rows:
        named += f", {len(change.values)} units"
    return comparison.model_copy(
        update={"upper": found.upper, "method": named, "rows_needed": found.rows_needed},
    )


def _ranks(metric: MetricSpec) -> int:
    """How many of the highest scores count as right."""
    known = METRICS.get(metric.name)
    return known.arguments[0] or 1 if known is not None and known.function == "top" else 1


def _add_classes(found: Quality, asked: _Asked, export: NDArray[Any], regression: ClassRegression) -> None:
    """What the classes say; nothing where the answers name none, which the metric has said already."""
    truth = Truth(asked.labels, Reading.of(asked.source))
    try:
        moved = class_changes(asked.name, asked.source, export, truth, _ranks(asked.wanted))
    except Undefined:
        return
    found.classes += moved
    verdict = Verdict.FAILED if regression is ClassRegression.BLOCK else Verdict.PASSED
    found.findings += [
        _class_lost(asked.wanted, change, chance, asked.confidence, verdict)
        for change, chance in regressions(moved, asked.confidence)
    ]
    if (error := calibration(asked.name, asked.source, export, truth)) is not None:
        found.calibration += (error,)


# --- findings -----------------------------------------------------------------------------------------------------


def _missing(wanted: MetricSpec, whose: str, reason: str | None, owner: Owner, verdict: Verdict) -> Finding:
    advice = (
        f"check that column {wanted.label!r} of the evaluation data holds the labels of this output, in every row, or "
        "ask for another metric"
    )
    if wanted.callable is not None:
        advice = (
            f"correct {wanted.callable}: it takes answers and labels as arrays and returns one number per row, or one"
        )
    return Finding(
        code="PARITY_METRIC_MISSING",
        owner=owner if wanted.callable is None else Owner.MODEL,
        verdict=verdict,
        message=f"{wanted.name} of the {whose} on output {wanted.output!r} has no value: {reason or 'no reason given'}",
        advice=advice,
        evidence={"metric": wanted.name, "output": wanted.output, "label": wanted.label},
    )


def _dropped(wanted: MetricSpec, found: MetricComparison, drop: float, limits: Bound | None) -> Finding:
    message = (
        f"{wanted.name} of {wanted.output!r} goes from {found.source:.6g} to {found.export:.6g} over "
        f"{found.rows} rows: a drop of {drop:.3g}, where {wanted.max_drop:g} is allowed"
    )
    if limits is not None and limits.lower > wanted.max_drop:
        message += f"; with {found.confidence:.4g} confidence it is at least {limits.lower:.3g}"
    return Finding(
        code="PARITY_METRIC_DROP",
        owner=Owner.MODEL,
        message=message,
        advice="serve a format that loses less, or raise max_drop if the task can bear the loss",
        evidence=_evidence(wanted, found, drop) | ({} if limits is None else {"lower": limits.lower}),
    )


def _undecided(
    wanted: MetricSpec, found: MetricComparison, drop: float, limits: Bound | None, reason: str | None
) -> Finding:
    seen = f"{wanted.name} of {wanted.output!r} drops by {drop:.3g} over {found.rows} rows"
    if limits is None:
        message = f"{seen}, which are too few to say how far off that may be" + (f": {reason}" if reason else "")
        advice = "give more evaluation rows, of every class"
    else:
        message = (
            f"{seen}, and with {found.confidence:.4g} confidence by no more than {limits.upper:.3g}, where "
            f"{wanted.max_drop:g} is allowed: it may lose too much, and these rows cannot tell"
        )
        rows = limits.rows_needed
        advice = (
            f"give at least {rows:,} evaluation rows (if they change as these do), or set max_drop to what so few rows "
            f"can show, {limits.upper:.3g} here, if the task can bear that"
            if rows is not None
            else "the drop is all that is allowed, so no number of rows would do: serve a format that loses less, or "
            "raise max_drop if the task can bear the loss"
        )
    return Finding(
        code="PARITY_TOO_FEW_ROWS",
        owner=Owner.DATA,
        verdict=Verdict.INCONCLUSIVE,
        message=message,
        advice=advice,
        evidence=_evidence(wanted, found, drop),
    )


def _class_lost(wanted: MetricSpec, change: ClassChange, chance: float, confidence: float, verdict: Verdict) -> Finding:
    return Finding(
        code="PARITY_CLASS_REGRESSION",
        owner=Owner.MODEL,
        verdict=verdict,
        message=f"of the {change.rows} rows of class {change.label}, {change.lost} are no longer right in "
        f"{wanted.output!r} and {change.gained} newly are: more than chance explains at {confidence:.4g} confidence",
        advice="look at this class before releasing; `evaluation.class_regression: block` makes such a loss block",
        evidence={
            "metric": wanted.name,
            "class": change.label,
            "rows": change.rows,
            "lost": change.lost,
            "gained": change.gained,
            "p": chance,
        },
    )


def _evidence(wanted: MetricSpec, found: MetricComparison, drop: float) -> dict[str, str | int | float | bool]:
    figures = {
        "source": found.source,
        "export": found.export,
        "upper": found.upper,
        "rows_needed": found.rows_needed,
    }
    return {
        "metric": wanted.name,
        "output": wanted.output,
        "drop": drop,
        "max_drop": wanted.max_drop,
        "rows": found.rows,
        **{name: value for name, value in figures.items() if value is not None},
    }
