"""The spec's task metrics over the labelled rows, of both versions' answers as they came over the wire. Pure.

In: complete pairs. Out: each metric's two values, and findings. The rule is parity's (`tasks.parity.quality`): paired
non-inferiority on the same rows. A retrained version is held against the one in production; a first one against what
parity measured of the same package.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.contracts import Finding, MetricComparison
from tasks.parity.metrics import METRICS
from tasks.parity.quality import compare_metrics
from tasks.release.shadow import findings as say
from tasks.release.shadow.expectations import Expectations
from tasks.release.shadow.replay import Pair
from tasks.release.shadow.requests import Arrays, Origin
from tasks.spec import Direction, EvaluationSpec, MetricSpec


@dataclass(frozen=True, slots=True)
class Quality:
    """Metric → old and new value, and what they mean."""

    values: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()


def quality_of(pairs: Sequence[Pair], wanted: Expectations) -> Quality:
    """All metrics of the spec. Two packages of one model need none: every single answer is compared."""
    if wanted.kind == "equivalent":
        return Quality()
    if wanted.evaluation is None or not wanted.labels:
        missing = wanted.kind == "retrained" and wanted.agreement is None
        reason = "there are no labelled rows, and the spec declares no agreement"
        return Quality(findings=(say.nothing_to_judge_by(reason),) if missing else ())
    try:
        rows = _labelled(pairs, wanted.evaluation, wanted.labels)
    except _Incomplete as error:
        return Quality(findings=tuple(say.metric_missing(metric, str(error)) for metric in wanted.evaluation.metrics))
    measured = compare_metrics(wanted.evaluation, rows.old, rows.new, rows.labels, wanted.own)
    reasons = [finding.message for finding in measured.findings if finding.code == "PARITY_METRIC_MISSING"]
    values: dict[str, tuple[float, float]] = {}
    found: list[Finding] = []
    for metric, compared in zip(wanted.evaluation.metrics, measured.metrics, strict=True):
        held = compared if wanted.kind == "retrained" else _against_parity(metric, compared, wanted)
        if held.source is not None and held.export is not None:
            values[held.name] = (held.source, held.export)
        found += _findings(metric, held, wanted, reasons)
    return Quality(values, tuple(found))


def _findings(
    metric: MetricSpec, found: MetricComparison, wanted: Expectations, reasons: Sequence[str]
) -> Iterator[Finding]:
    """A drop beyond the margin fails; one that may be beyond it is undecided, save where the values to compare with are
    of the very same package."""
    if found.source is None or found.export is None or found.drop is None or not np.isfinite(found.drop):
        yield say.metric_missing(metric, "; ".join(reasons) or "it was not computed")
        return
    # Both values carry one rounding of float64; a drop of exactly max_drop must not fail for it.
    most = found.max_drop + float(np.finfo(np.float64).eps) * max(abs(found.source), abs(found.export))
    if not found.drop <= most:
        before = "the version in production" if wanted.kind == "retrained" else "the same package at parity"
        yield say.metric_dropped(metric, found, before)
    elif wanted.kind == "retrained" and (found.upper is None or not found.upper <= most):
        yield say.metric_undecided(metric, found)


def _against_parity(metric: MetricSpec, found: MetricComparison, wanted: Expectations) -> MetricComparison:
    before = next((known.export for known in wanted.new.parity.metrics if known.name == found.name), None)
    direction = metric.direction or (METRICS[metric.name].direction if metric.name in METRICS else Direction.HIGHER)
    drop = None if before is None or found.export is None else direction.sign * (before - found.export)
    return found.model_copy(update={"source": before, "drop": drop, "upper": None, "rows_needed": None})


# --- the rows -----------------------------------------------------------------------------------------------------


class _Incomplete(Exception):
    """The answers do not make a table; the message says why."""


@dataclass(frozen=True, slots=True)
class _Labelled:
    """Both versions' answers to the same labelled rows, each row once, and their labels."""

    old: Arrays
    new: Arrays
    labels: Arrays


def _labelled(pairs: Sequence[Pair], wanted: EvaluationSpec, labels: Arrays) -> _Labelled:
    """Raises:
    _Incomplete: no row was answered by both, or answers are not of one shape.
    """
    seen: set[int] = set()
    places: list[int] = []
    outputs = tuple(dict.fromkeys(metric.output for metric in wanted.metrics))
    old: dict[str, list[NDArray[Any]]] = {name: [] for name in outputs}
    new: dict[str, list[NDArray[Any]]] = {name: [] for name in outputs}
    for pair in pairs:
        if pair.request.table.origin is not Origin.EVALUATION:
            continue
        rows = []
        for index, place in enumerate(pair.request.places):
            if place not in seen:
                seen.add(place)
                rows.append(index)
        if not rows:
            continue
        places += [pair.request.places[index] for index in rows]
        after = pair.new.outputs or {}
        before = after if pair.old is None else pair.old.outputs or {}
        for name in outputs:
            old[name].append(_taken(before, name, rows, pair))
            new[name].append(_taken(after, name, rows, pair))
    if not places:
        raise _Incomplete("no labelled row was answered by both")
    table = {name: column[places] for name, column in labels.items()}
    return _Labelled(_joined(old), _joined(new), table)


def _taken(answers: Arrays, name: str, rows: Sequence[int], pair: Pair) -> NDArray[Any]:
    if name not in answers or answers[name].shape[:1] != (pair.request.rows,):
        raise _Incomplete(f"output {name!r} has no value for each row of {pair.request.name}")
    return answers[name][list(rows)]


def _joined(parts: Mapping[str, Sequence[NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    try:
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}
    except ValueError as error:
        raise _Incomplete(f"answers are of different shapes ({error})") from error
