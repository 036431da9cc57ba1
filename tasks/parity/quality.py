"""The task metrics of source and export on the evaluation data, and whether the export lost too much.

In: both models' answers to every evaluation row, the label columns, what the spec asks for. Out: comparisons and
findings. Functions of arrays. Whatever has no value blocks: a metric that was never computed is not a pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.contracts import Finding, MetricComparison, Owner, Verdict
from tasks.parity.metrics import METRICS, Measured, Reading
from tasks.spec import MetricSpec

#: Metrics that are shares of rows: one row more or less moves them by 1/n.
_SHARES = ("accuracy", "top2", "top3", "top5", "top10")


def compare_metrics(
    wanted: Sequence[MetricSpec],
    source: Mapping[str, NDArray[Any]],
    export: Mapping[str, NDArray[Any]] | None,
    evaluation: Mapping[str, NDArray[Any]],
) -> tuple[tuple[MetricComparison, ...], list[Finding]]:
    """Every metric of the spec. `export` is None where it did not answer every row."""
    comparisons, findings, names = [], [], [metric.name for metric in wanted]
    for metric in wanted:
        name = metric.name if names.count(metric.name) == 1 else f"{metric.name}.{metric.output}"
        comparison, found = _compare(name, metric, source, export, evaluation)
        comparisons.append(comparison)
        findings += found
    return tuple(comparisons), findings


def _compare(
    name: str,
    wanted: MetricSpec,
    source: Mapping[str, NDArray[Any]],
    export: Mapping[str, NDArray[Any]] | None,
    evaluation: Mapping[str, NDArray[Any]],
) -> tuple[MetricComparison, list[Finding]]:
    metric, labels = METRICS[wanted.name], evaluation[wanted.label]
    reading = Reading.of(source[wanted.output])
    ours = metric.measure(source[wanted.output], labels, reading)
    theirs = (
        Measured(None, "the export did not answer every evaluation row")
        if export is None
        else metric.measure(export[wanted.output], labels, reading)
    )
    drop = metric.drop(ours.value, theirs.value)
    comparison = MetricComparison(
        name=name,
        source=ours.value,
        export=theirs.value,
        drop=drop,
        max_drop=wanted.max_drop,
        rows=len(labels),
    )
    if ours.value is None:
        return comparison, [_missing(wanted, "source model", ours.reason, Owner.DATA, Verdict.INCONCLUSIVE)]
    if theirs.value is None or drop is None:
        return comparison, [_missing(wanted, "export", theirs.reason, Owner.PLATFORM, Verdict.FAILED)]
    # Both values carry one rounding of float64; a drop of exactly max_drop must not fail for it.
    rounding = float(np.finfo(np.float64).eps) * max(abs(ours.value), abs(theirs.value))
    if not drop <= wanted.max_drop + rounding:
        return comparison, [_dropped(wanted, comparison, drop)]
    if wanted.name in _SHARES and 1 / len(labels) > wanted.max_drop > 0:
        return comparison, [_few_rows(wanted, len(labels))]
    return comparison, []


def _missing(wanted: MetricSpec, whose: str, reason: str | None, owner: Owner, verdict: Verdict) -> Finding:
    return Finding(
        code="PARITY_METRIC_MISSING",
        owner=owner,
        verdict=verdict,
        message=f"{wanted.name} of the {whose} on output {wanted.output!r} has no value: {reason or 'no reason given'}",
        advice=f"check that column {wanted.label!r} of the evaluation data holds the labels of this output, in every "
        "row, or ask for another metric",
        evidence={"metric": wanted.name, "output": wanted.output, "label": wanted.label},
    )


def _dropped(wanted: MetricSpec, found: MetricComparison, drop: float) -> Finding:
    evidence: dict[str, str | int | float | bool] = {
        "metric": wanted.name,
        "output": wanted.output,
        "drop": drop,
        "max_drop": wanted.max_drop,
        "rows": found.rows,
    }
    evidence |= {
        side: value for side, value in (("source", found.source), ("export", found.export)) if value is not None
    }
    return Finding(
        code="PARITY_METRIC_DROP",
        owner=Owner.MODEL,
        message=f"{wanted.name} of {wanted.output!r} goes from {found.source:.6g} to {found.export:.6g} over "
        f"{found.rows} rows: a drop of {drop:.3g}, where {wanted.max_drop:g} is allowed",
        advice="serve a format that loses less, or raise max_drop if the task can bear the loss",
        evidence=evidence,
    )


def _few_rows(wanted: MetricSpec, rows: int) -> Finding:
    return Finding(
        code="PARITY_TOO_FEW_ROWS",
        owner=Owner.DATA,
        verdict=Verdict.PASSED,
        message=f"one of {rows} evaluation rows moves {wanted.name} by {1 / rows:.2%}, more than max_drop "
        f"({wanted.max_drop:.2%}): the metric cannot show a smaller loss",
        advice=f"give at least {int(np.ceil(1 / wanted.max_drop))} evaluation rows to see what max_drop asks for",
        evidence={"metric": wanted.name, "rows": rows, "max_drop": wanted.max_drop},
    )
