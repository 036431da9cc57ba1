"""Whether the export may have lost too much of a task metric; what has no value, or too few rows, blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.contracts import Finding, MetricComparison, Owner, Verdict
from tasks.ingest.metric_code import MetricFunction
from tasks.parity.metrics import METRICS
from tasks.parity.quality import Quality, compare_metrics
from tasks.spec import ClassRegression, Direction, EvaluationSpec, MetricSpec

ROWS = 1000
LABELS = np.array([0, 1] * (ROWS // 2))


def quality(
    source: Any, export: Any, name: str = "accuracy", max_drop: float = 0.01, labels: Any = LABELS, **changes: Any
) -> Quality:
    metric = MetricSpec(name=name, output="y", label="label", max_drop=max_drop)
    answers = None if export is None else {"y": np.asarray(export)}
    wanted = EvaluationSpec(data="eval.npz", metrics=(metric,), **changes)
    return compare_metrics(wanted, {"y": np.asarray(source)}, answers, {"label": np.asarray(labels)})


def compared(*args: Any, **changes: Any) -> tuple[MetricComparison, list[Finding]]:
    """The one metric, and what blocks."""
    found = quality(*args, **changes)
    return found.metrics[0], [finding for finding in found.findings if finding.verdict is not Verdict.PASSED]


def wrong(count: int, labels: np.ndarray = LABELS) -> np.ndarray:
    answers = labels.copy()
    answers[:count] = 1 - answers[:count]
    return answers


# --- verdicts -----------------------------------------------------------------------------------------------------


def test_the_same_answers_to_enough_rows_are_no_finding() -> None:
    comparison, findings = compared(LABELS, LABELS)
    assert (comparison.source, comparison.export, comparison.drop, comparison.rows) == (1.0, 1.0, 0.0, ROWS)
    assert comparison.upper == pytest.approx(0.0027, abs=1e-5)
    assert "Tango" in comparison.method
    assert comparison.rows_needed is None
    assert findings == []


def test_the_same_answers_to_few_rows_decide_nothing() -> None:
    """A row in fifty could be wrong without any of a hundred rows showing it."""
    comparison, (finding,) = compared(LABELS[:100], LABELS[:100], labels=LABELS[:100])
    assert (finding.code, finding.verdict, finding.owner) == (
        "PARITY_TOO_FEW_ROWS",
        Verdict.INCONCLUSIVE,
        Owner.DATA,
    )
    assert comparison.drop == 0
    assert comparison.rows_needed == 268
    assert "at least 268 evaluation rows" in finding.advice
    enough = np.tile(LABELS, 3)[:268]
    assert compared(enough, enough, labels=enough)[1] == []


def test_a_drop_that_is_allowed_and_may_be_more_decides_nothing() -> None:
    comparison, (finding,) = compared(wrong(4), wrong(12))
    assert (finding.code, finding.verdict) == ("PARITY_TOO_FEW_ROWS", Verdict.INCONCLUSIVE)
    assert comparison.drop == pytest.approx(0.008)
    assert (comparison.upper or 0) > 0.01


def test_a_drop_of_all_that_is_allowed_is_decided_by_no_number_of_rows() -> None:
    comparison, (finding,) = compared(wrong(4), wrong(14))  # 0.996 - 0.986 is not 0.01 in floating point
    assert (finding.code, comparison.rows_needed) == ("PARITY_TOO_FEW_ROWS", None)
    assert "no number of rows" in finding.advice


def test_a_drop_beyond_what_is_allowed_fails_as_measured() -> None:
    comparison, (finding,) = compared(wrong(4), wrong(15))
    assert (finding.code, finding.verdict, finding.owner) == ("PARITY_METRIC_DROP", Verdict.FAILED, Owner.MODEL)
    assert comparison.drop == pytest.approx(0.011)
    assert "at least" not in finding.message  # as few rows would not confirm it


def test_a_drop_that_the_rows_confirm_says_so() -> None:
    _, (finding,) = compared(wrong(4), wrong(60))
    assert "with 0.95 confidence it is at least 0.0" in finding.message


def test_a_better_export_passes_with_a_negative_drop() -> None:
    comparison, findings = compared(wrong(20), wrong(2))
    assert findings == []
    assert (comparison.drop or 0) < 0


def test_more_confidence_takes_more_rows() -> None:
    assert compared(LABELS, LABELS, max_drop=0.003)[1] == []
    comparison, (finding,) = compared(LABELS, LABELS, max_drop=0.003, confidence=0.99)
    assert finding.code == "PARITY_TOO_FEW_ROWS"
    assert comparison.confidence == 0.99


def test_a_source_without_a_value_is_inconclusive_and_the_data_owner_s() -> None:
    comparison, (finding,) = compared(LABELS, LABELS, labels=np.full(ROWS, np.nan))
    assert (finding.code, finding.verdict, finding.owner) == (
        "PARITY_METRIC_MISSING",
        Verdict.INCONCLUSIVE,
        Owner.DATA,
    )
    assert comparison.source is None
    assert comparison.upper is None


@pytest.mark.parametrize("name", [name for name in METRICS if not name.startswith("top")])
def test_one_nan_in_the_export_fails_every_metric(name: str) -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(ROWS, 2))
    answers, labels = (scores, LABELS) if METRICS[name].of_classes else (scores, np.abs(scores).round())
    broken = answers.copy()
    broken[3, 1] = np.nan
    _, (finding,) = compared(answers, broken, name=name, labels=labels, max_drop=1e9)
    assert (finding.code, finding.verdict) == ("PARITY_METRIC_MISSING", Verdict.FAILED)


def test_an_export_that_did_not_answer_every_row_fails() -> None:
    _, (finding,) = compared(LABELS, None)
    assert (finding.code, finding.verdict) == ("PARITY_METRIC_MISSING", Verdict.FAILED)


def test_one_row_of_a_class_is_too_few_for_an_area() -> None:
    labels = np.array([1, 0, 0, 0])
    comparison, (finding,) = compared(np.arange(4.0), np.arange(4.0), name="roc_auc", labels=labels, max_drop=0.5)
    assert (finding.code, finding.verdict, comparison.upper) == ("PARITY_TOO_FEW_ROWS", Verdict.INCONCLUSIVE, None)


def test_two_metrics_of_one_name_are_told_apart_by_their_output() -> None:
    metrics = tuple(MetricSpec(name="accuracy", output=name, label="label", max_drop=0.1) for name in ("a", "b"))
    answers = {"a": LABELS, "b": LABELS}
    wanted = EvaluationSpec(data="eval.npz", metrics=metrics)
    found = compare_metrics(wanted, answers, answers, {"label": LABELS})
    assert [comparison.name for comparison in found.metrics] == ["accuracy.a", "accuracy.b"]


@given(st.integers(0, 200), st.integers(0, 200), st.integers(1, 100))
def test_a_pass_means_that_the_bound_is_within_what_is_allowed(source: int, export: int, allowed: int) -> None:
    comparison, findings = compared(wrong(source), wrong(export), max_drop=allowed / ROWS)
    assert comparison.upper is not None
    assert (findings == []) == (comparison.upper <= allowed / ROWS)
    assert (export - source > allowed) == any(finding.code == "PARITY_METRIC_DROP" for finding in findings)


# --- what one unseen row may cost ---------------------------------------------------------------------------------

SQUARE = 2.7055  # of the normal distribution's 95 % quantile


def one_hot(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.eye(int(labels.max()) + 1)[labels] + 0.1 * rng.normal(size=(len(labels), int(labels.max()) + 1))


@pytest.mark.parametrize(
    ("name", "smallest", "per_row"),
    [("accuracy", 50, 1 / 500), ("macro_f1", 50, 1 / (2 * 50)), ("roc_auc", 50, 1 / 50), ("roc_auc", 200, 1 / 200)],
)
def test_the_same_answers_leave_room_for_the_costliest_row(name: str, smallest: int, per_row: float) -> None:
    labels = np.repeat([1, 0], [smallest, 500 - smallest])
    scores = one_hot(labels, np.random.default_rng(0))
    comparison, _ = compared(scores, scores, name=name, labels=labels, max_drop=1.0)
    assert comparison.drop == 0
    assert (comparison.upper or 0) >= 500 * SQUARE / (500 + SQUARE) * per_row * 0.99
    assert (comparison.upper or 0) <= 500 * SQUARE / (500 + SQUARE) * per_row * 1.3


@pytest.mark.parametrize("name", ["log_loss", "rmse", "mae", "r2"])
def test_a_change_of_every_row_by_rounding_passes_a_small_margin(name: str) -> None:
    rng = np.random.default_rng(0)
    labels = LABELS[:100] if name == "log_loss" else rng.normal(size=100)
    scores = one_hot(labels, rng) if name == "log_loss" else labels + 0.3 * rng.normal(size=100)
    moved = scores * (1 + 1e-7 * rng.normal(size=scores.shape))
    comparison, findings = compared(scores, moved, name=name, labels=labels, max_drop=1e-5)
    assert findings == []
    assert comparison.upper != comparison.drop


# --- classes and calibration --------------------------------------------------------------------------------------

DIGITS = np.arange(ROWS) % 10


def answered(lost: int, of: int = 3) -> np.ndarray:
    answers = DIGITS.copy()
    answers[np.flatnonzero(of == DIGITS)[:lost]] = 8
    return answers


def test_every_class_says_how_it_changed() -> None:
    found = quality(answered(2), answered(5), labels=DIGITS, max_drop=0.1)
    assert len(found.classes) == 10
    three = found.classes[3]
    assert (three.label, three.rows, three.source_right, three.export_right, three.lost, three.gained) == (
        "3",
        100,
        98,
        95,
        3,
        0,
    )


def test_a_class_that_loses_while_the_metric_passes_is_a_remark() -> None:
    found = quality(DIGITS, answered(12), labels=DIGITS, max_drop=0.05)
    [finding] = found.findings
    assert (finding.code, finding.verdict, finding.evidence["class"]) == (
        "PARITY_CLASS_REGRESSION",
        Verdict.PASSED,
        "3",
    )


def test_a_class_that_loses_blocks_where_the_spec_says_so() -> None:
    found = quality(DIGITS, answered(12), labels=DIGITS, max_drop=0.05, class_regression=ClassRegression.BLOCK)
    assert [finding.verdict for finding in found.findings] == [Verdict.FAILED]


def test_what_chance_explains_is_no_regression_of_a_class() -> None:
    """Five rows of ten classes: 1/32, and Holm asks for 1/200."""
    assert quality(DIGITS, answered(5), labels=DIGITS, max_drop=0.05).findings == []


def test_predicted_classes_have_no_calibration() -> None:
    assert quality(LABELS, LABELS).calibration == ()


def test_confidence_that_is_deserved_is_calibrated_and_more_of_it_is_not() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 1)) * [[-1.0, 1.0]]
    chance = 1 / (1 + np.exp(-2 * logits[:, 1]))
    labels = (rng.random(len(chance)) < chance).astype(int)
    [found] = quality(logits, 3 * logits, labels=labels, max_drop=0.9).calibration
    assert found.source < 0.02
    assert found.export > 0.1
    assert found.bins == 15


def test_calibration_is_the_gap_between_confidence_and_share_right() -> None:
    [found] = quality(
        np.full(ROWS, 0.9), np.full(ROWS, 0.6), labels=np.arange(ROWS) % 10 != 0, max_drop=0.9
    ).calibration
    assert found.source == pytest.approx(0.0, abs=1e-9)
    assert found.export == pytest.approx(0.3, abs=1e-9)


def test_two_metrics_of_one_output_tell_its_classes_once() -> None:
    metrics = tuple(
        MetricSpec(name=name, output="y", label="label", max_drop=0.1) for name in ("accuracy", "macro_f1", "log_loss")
    )
    scores = {"y": one_hot(DIGITS, np.random.default_rng(0))}
    found = compare_metrics(EvaluationSpec(data="eval.npz", metrics=metrics), scores, scores, {"label": DIGITS})
    assert len(found.classes) == 10
    assert len(found.calibration) == 1


# --- rankings and the user's own ----------------------------------------------------------------------------------


def test_a_ranking_is_judged_by_its_queries() -> None:
    rng = np.random.default_rng(0)
    grades, queries = rng.integers(0, 4, ROWS).astype(float), np.repeat(np.arange(100), 10)
    metric = MetricSpec(name="ndcg5", output="y", label="label", group="query", max_drop=0.01)
    scores = {"y": grades + rng.normal(size=ROWS)}
    wanted = EvaluationSpec(data="eval.npz", metrics=(metric,))
    found = compare_metrics(wanted, scores, scores, {"label": grades, "query": queries})
    [comparison], [finding] = found.metrics, found.findings
    assert comparison.upper == pytest.approx(0.0269, abs=2e-3)  # of 100 queries, not of 1000 rows
    assert (finding.code, "100 units" in comparison.method) == ("PARITY_TOO_FEW_ROWS", True)
    assert (comparison.rows_needed or 0) > 2600


def own(function: Any, source: Any, export: Any, max_drop: float = 0.05) -> tuple[MetricComparison, list[Finding]]:
    metric = MetricSpec(
        name="profit",
        output="y",
        label="label",
        callable="metric:profit",
        direction=Direction.HIGHER,
        max_drop=max_drop,
    )
    found = compare_metrics(
        EvaluationSpec(data="eval.npz", metrics=(metric,)),
        {"y": np.asarray(source)},
        {"y": np.asarray(export)},
        {"label": LABELS},
        {"metric:profit": MetricFunction("metric:profit", function)},
    )
    return found.metrics[0], found.findings


def per_row(answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.where(answers == labels, 1.0, -1.0)


def one_number(answers: np.ndarray, labels: np.ndarray) -> float:
    return float(per_row(answers, labels).mean())


@pytest.mark.parametrize("function", [per_row, one_number])
def test_the_users_own_metric_is_held_to_its_margin(function: Any) -> None:
    assert own(function, wrong(10), wrong(12))[1] == []
    comparison, (finding,) = own(function, wrong(10), wrong(60))
    assert (finding.code, comparison.source, comparison.export) == ("PARITY_METRIC_DROP", 0.98, 0.88)


@pytest.mark.parametrize("function", [per_row, one_number])
def test_an_own_metric_that_no_row_changes_still_leaves_room(function: Any) -> None:
    comparison, findings = own(function, LABELS, LABELS)
    assert comparison.upper == pytest.approx(2 * 0.0027, rel=0.05)  # a wrong row costs 2
    assert findings == []
    assert own(function, LABELS, LABELS, max_drop=0.001)[1][0].code == "PARITY_TOO_FEW_ROWS"


def test_an_own_metric_that_does_not_look_at_the_answers_shows_nothing() -> None:
    _, (finding,) = own(lambda answers, labels: np.ones(len(labels)), LABELS, LABELS)
    assert (finding.code, finding.verdict) == ("PARITY_TOO_FEW_ROWS", Verdict.INCONCLUSIVE)
    assert "it shows nothing" in finding.message


def raising(answers: np.ndarray, labels: np.ndarray) -> float:
    return float(answers["no such column"])


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (raising, "raised IndexError at test_quality.py:"),
        (lambda answers, labels: np.ones(3), "an array of shape [3]; expected one number, or an array of 1000"),
        (lambda answers, labels: float("nan"), "gave nan"),
        (
            lambda answers, labels: np.where(labels == 1, np.nan, 0),
            "500 values that are no numbers, the first in row 1",
        ),
        (lambda answers, labels: "good", "gave str"),
        (lambda answers, labels: None, "gave NoneType"),
        (lambda answers, labels: [[1], [1, 2]], "unequal lists"),
    ],
)
def test_an_own_metric_that_gives_none_blocks_and_says_where(function: Any, says: str) -> None:
    comparison, (finding,) = own(function, LABELS, LABELS)
    assert (finding.code, finding.owner, comparison.source) == ("PARITY_METRIC_MISSING", Owner.MODEL, None)
    assert says in finding.message


def test_an_own_metric_cannot_alter_the_answers_that_others_see() -> None:
    def greedy(answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
        answers[:] = labels
        return per_row(answers, labels)

    source = wrong(10)
    own(greedy, source, source)
    assert (source == wrong(10)).all()
