"""Whether the export lost too much of a task metric; what has no value blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.contracts import Finding, MetricComparison, Owner, Verdict
from tasks.parity.quality import compare_metrics
from tasks.spec import MetricSpec

LABELS = np.array([0, 1] * 100)


def compared(
    source: Any, export: Any, name: str = "accuracy", max_drop: float = 0.01, labels: np.ndarray = LABELS
) -> tuple[MetricComparison, list[Finding]]:
    wanted = (MetricSpec(name=name, output="y", label="label", max_drop=max_drop),)
    answers = None if export is None else {"y": np.asarray(export)}
    (comparison,), findings = compare_metrics(wanted, {"y": np.asarray(source)}, answers, {"label": labels})
    return comparison, findings


def wrong(count: int) -> np.ndarray:
    answers = LABELS.copy()
    answers[:count] = 1 - answers[:count]
    return answers


def test_no_loss_is_no_finding() -> None:
    comparison, findings = compared(LABELS, LABELS)
    assert (comparison.source, comparison.export, comparison.drop, comparison.rows) == (1.0, 1.0, 0.0, 200)
    assert findings == []


def test_a_loss_of_exactly_what_is_allowed_passes() -> None:
    assert compared(wrong(4), wrong(6))[1] == []  # 0.98 - 0.97 is not 0.01 in floating point


def test_one_row_more_than_what_is_allowed_fails() -> None:
    comparison, (finding,) = compared(wrong(4), wrong(7))
    assert (finding.code, finding.verdict, finding.owner) == ("PARITY_METRIC_DROP", Verdict.FAILED, Owner.MODEL)
    assert comparison.drop == pytest.approx(0.015)


def test_a_better_export_passes_with_a_negative_drop() -> None:
    comparison, findings = compared(wrong(7), wrong(2))
    assert findings == []
    assert (comparison.drop or 0) < 0


def test_a_source_without_a_value_is_inconclusive_and_the_data_owner_s() -> None:
    comparison, (finding,) = compared(LABELS, LABELS, labels=np.full(200, np.nan))
    assert (finding.code, finding.verdict, finding.owner) == (
        "PARITY_METRIC_MISSING",
        Verdict.INCONCLUSIVE,
        Owner.DATA,
    )
    assert comparison.source is None


def test_an_export_without_a_value_fails() -> None:
    scores = np.stack([1.0 - LABELS, LABELS], axis=1)
    broken = scores.copy()
    broken[3] = np.nan
    _, (finding,) = compared(scores, broken)
    assert (finding.code, finding.verdict) == ("PARITY_METRIC_MISSING", Verdict.FAILED)


def test_an_export_that_did_not_answer_every_row_fails() -> None:
    _, (finding,) = compared(LABELS, None)
    assert (finding.code, finding.verdict) == ("PARITY_METRIC_MISSING", Verdict.FAILED)


def test_too_few_rows_to_show_the_loss_is_a_remark() -> None:
    _, (finding,) = compared(LABELS[:20], LABELS[:20], labels=LABELS[:20])
    assert (finding.code, finding.verdict) == ("PARITY_TOO_FEW_ROWS", Verdict.PASSED)
    assert "at least 100" in finding.advice


def test_a_max_drop_of_zero_is_not_a_question_of_rows() -> None:
    assert compared(LABELS, LABELS, max_drop=0.0)[1] == []


def test_two_metrics_of_one_name_are_told_apart_by_their_output() -> None:
    wanted = tuple(MetricSpec(name="accuracy", output=name, label="label", max_drop=0.1) for name in ("a", "b"))
    answers = {"a": LABELS, "b": LABELS}
    comparisons, _ = compare_metrics(wanted, answers, answers, {"label": LABELS})
    assert [comparison.name for comparison in comparisons] == ["accuracy.a", "accuracy.b"]


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 100))
def test_a_drop_passes_exactly_when_no_more_rows_are_lost_than_allowed(source: int, export: int, allowed: int) -> None:
    _, findings = compared(wrong(source), wrong(export), max_drop=allowed / 200)
    assert (findings == []) == (export - source <= allowed)
