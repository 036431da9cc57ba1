"""Task metrics: the value where there is one, a reason where there is none, and never a number in its place."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving.contract import DType, TensorSpec
from tasks.parity.metrics import METRICS
from tasks.parity.reading import Reading
from tasks.spec import Direction

LOGITS = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.0, 2.0], [5.0, 4.0, 0.0]], dtype=np.float32)
LABELS = np.array([0, 1, 2, 1])


def value(name: str, answers: np.ndarray, labels: np.ndarray) -> float | None:
    return METRICS[name].measure(answers, labels, Reading.of(answers)).value


def reason(name: str, answers: np.ndarray, labels: np.ndarray) -> str:
    measured = METRICS[name].measure(answers, labels, Reading.of(answers))
    assert measured.value is None
    return measured.reason or ""


def test_the_table_can_be_read_without_numpy_or_sklearn() -> None:
    code = (
        "import sys; import tasks.parity.metrics; "
        "sys.exit(any(name in sys.modules for name in ('numpy', 'sklearn', 'torch', 'pandas')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_accuracy_takes_the_highest_score() -> None:
    assert value("accuracy", LOGITS, LABELS) == 0.75


def test_accuracy_of_predicted_classes_compares_them_whatever_their_width() -> None:
    assert value("accuracy", np.array([0, 1, 2, 0], dtype=np.uint8), LABELS) == 0.75


def test_accuracy_of_strings_compares_them_exactly() -> None:
    answers = np.array(["cat", "dog", "Cat"], dtype=object)
    assert value("accuracy", answers, np.array(["cat", "dog", "cat"], dtype=object)) == pytest.approx(2 / 3)


def test_accuracy_of_one_probability_a_row_is_at_one_half() -> None:
    assert value("accuracy", np.array([0.9, 0.2, 0.6], dtype=np.float32), np.array([1, 0, 0])) == pytest.approx(2 / 3)


def test_accuracy_of_one_logit_a_row_is_at_zero() -> None:
    assert value("accuracy", np.array([[3.0], [-1.0], [0.4]]), np.array([1, 0, 0])) == pytest.approx(2 / 3)


def test_top2_counts_the_second_highest_as_right() -> None:
    assert value("top2", LOGITS, LABELS) == 1.0


def test_macro_f1_averages_over_the_classes_of_the_labels_only() -> None:
    answers = np.array([0, 0, 9])  # class 9 is in no label
    assert value("macro_f1", answers, np.array([0, 0, 1])) == pytest.approx(0.5)


def test_roc_auc_of_perfectly_ranked_rows_is_one() -> None:
    assert value("roc_auc", np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1])) == 1.0


def test_roc_auc_of_several_classes_averages_one_against_the_rest() -> None:
    from sklearn.metrics import roc_auc_score

    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    expected = roc_auc_score(LABELS, probabilities / probabilities.sum(axis=1, keepdims=True), multi_class="ovr")
    assert value("roc_auc", probabilities, LABELS) == pytest.approx(expected)


def test_log_loss_of_logits_is_that_of_their_softmax() -> None:
    probabilities = (np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)).astype(np.float32)
    assert value("log_loss", LOGITS, LABELS) == pytest.approx(value("log_loss", probabilities, LABELS), rel=1e-5)


def test_regression_metrics_drop_a_trailing_axis_of_one_on_either_side() -> None:
    answers, labels = np.array([[1.0], [2.0], [4.0]], dtype=np.float32), np.array([1.0, 2.0, 3.0])
    assert value("rmse", answers, labels) == pytest.approx(np.sqrt(1 / 3))
    assert value("mae", answers, labels) == pytest.approx(1 / 3)
    assert value("r2", answers, labels) == pytest.approx(0.5)


def test_unsigned_answers_do_not_wrap_around() -> None:
    answers, labels = np.array([0, 5], dtype=np.uint8), np.array([1, 5], dtype=np.uint8)
    assert value("mae", answers, labels) == 0.5


@pytest.mark.parametrize("name", METRICS)
def test_one_nan_answer_leaves_no_value(name: str) -> None:
    answers = np.tile(LOGITS, (1, 4)) if name.startswith("top") else LOGITS.copy()
    if name in {"rmse", "mae", "r2"}:
        answers = answers[:, 0]
    answers[1] = np.nan
    assert METRICS[name].measure(answers, LABELS, Reading.SCORES).value is None


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "roc_auc", "log_loss", "rmse", "mae", "r2"])
def test_a_missing_label_leaves_no_value(name: str) -> None:
    answers = LOGITS[:, 0] if name in {"rmse", "mae", "r2"} else LOGITS
    assert "missing or not finite" in reason(name, answers, np.array([0, 1, np.nan, 1]))


def test_a_shape_that_only_broadcasts_leaves_no_value() -> None:
    assert "do not go with" in reason("rmse", np.zeros((3, 3)), np.zeros(3))


def test_labels_off_by_one_leave_no_value() -> None:
    assert "labels run from 1 to 3" in reason("accuracy", LOGITS, np.array([1, 2, 3, 2]))


def test_string_labels_have_no_column_numbers() -> None:
    assert "columns of scores have no names" in reason("accuracy", LOGITS, np.array(["a", "b", "c", "b"], dtype=object))


def test_roc_auc_of_one_class_has_no_value() -> None:
    assert "every class" in reason("roc_auc", np.array([0.1, 0.9]), np.array([1, 1]))


def test_r2_of_constant_labels_has_no_value() -> None:
    assert reason("r2", np.array([1.0, 2.0]), np.array([3.0, 3.0]))


def test_top5_needs_more_than_five_classes() -> None:
    assert "more than 5 classes" in reason("top5", LOGITS, LABELS)


def test_no_rows_have_no_value() -> None:
    assert reason("accuracy", np.zeros((0, 3)), np.zeros(0)) == "no rows"


def test_an_export_without_its_softmax_is_not_read_more_kindly_than_the_source() -> None:
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    measured = METRICS["log_loss"].measure(LOGITS, LABELS, Reading.of(probabilities))
    assert measured.value is None
    assert "gives probabilities" in (measured.reason or "")


def test_an_export_that_gives_scores_for_classes_has_no_value() -> None:
    measured = METRICS["accuracy"].measure(LOGITS, LABELS, Reading.of(np.array([0, 1])))
    assert "gives classes" in (measured.reason or "")


def test_drops_point_the_way_that_is_worse() -> None:
    assert METRICS["accuracy"].drop(0.9, 0.8) == pytest.approx(0.1)
    assert METRICS["rmse"].drop(2.0, 3.0) == 1.0
    assert METRICS["rmse"].drop(3.0, 2.0) == -1.0


def test_a_drop_from_or_to_nothing_is_nothing() -> None:
    assert METRICS["accuracy"].drop(None, 0.8) is None
    assert METRICS["accuracy"].drop(0.8, None) is None
    assert METRICS["mae"].drop(0.0, float("inf")) is None


@pytest.mark.parametrize(
    ("name", "output", "says"),
    [
        ("accuracy", TensorSpec("y", DType.FLOAT32, ("batch", 3)), None),
        ("accuracy", TensorSpec("y", DType.STRING, ("batch",)), None),
        ("accuracy", TensorSpec("y", DType.FLOAT32, ()), "one answer per row"),
        ("log_loss", TensorSpec("y", DType.INT64, ("batch",)), "a float output"),
        ("rmse", TensorSpec("y", DType.STRING, ("batch",)), "needs numbers"),
        ("top5", TensorSpec("y", DType.FLOAT32, ("batch", 5)), "more than 5 classes"),
        ("top5", TensorSpec("y", DType.FLOAT32, ("batch", 10)), None),
    ],
)
def test_what_an_output_must_be_like_is_said_before_anything_runs(
    name: str, output: TensorSpec, says: str | None
) -> None:
    problem = METRICS[name].problem(output)
    assert problem is None if says is None else says in (problem or "")


@given(arrays.arrays(np.float32, (6, 3), elements=st.floats(-50, 50, width=32)))
def test_every_metric_of_finite_scores_is_finite_or_absent(scores: np.ndarray) -> None:
    labels = np.array([0, 1, 2, 0, 1, 2])
    for name in ("accuracy", "top2", "macro_f1", "roc_auc", "log_loss"):
        measured = METRICS[name].measure(scores, labels, Reading.of(scores))
        assert measured.value is None or np.isfinite(measured.value)


@given(
    arrays.arrays(np.float64, (8,), elements=st.floats(-1e6, 1e6)),
    arrays.arrays(np.float64, (8,), elements=st.floats(-1e6, 1e6)),
)
def test_a_model_never_drops_against_itself(answers: np.ndarray, labels: np.ndarray) -> None:
    for metric in METRICS.values():
        measured = metric.measure(answers, labels, Reading.of(answers))
        if measured.value is not None:
            assert metric.drop(measured.value, measured.value) == 0


def test_every_metric_says_which_way_it_improves() -> None:
    lower = {name for name, metric in METRICS.items() if metric.direction is Direction.LOWER}
    assert lower == {"log_loss", "rmse", "mae"}


# --- against scikit-learn, whose definitions these are ------------------------------------------------------------


def oracle(name: str, answers: np.ndarray, labels: np.ndarray) -> float:
    from sklearn import metrics as sklearn

    known = {
        "accuracy": lambda: sklearn.accuracy_score(labels, answers.argmax(1)),
        "top2": lambda: sklearn.top_k_accuracy_score(labels, answers, k=2, labels=np.arange(answers.shape[1])),
        "macro_f1": lambda: sklearn.f1_score(labels, answers.argmax(1), average="macro", labels=np.unique(labels)),
        "roc_auc": lambda: sklearn.roc_auc_score(labels, answers, multi_class="ovr"),
        "log_loss": lambda: sklearn.log_loss(labels, answers, labels=np.arange(answers.shape[1])),
        "rmse": lambda: sklearn.root_mean_squared_error(labels, answers),
        "mae": lambda: sklearn.mean_absolute_error(labels, answers),
        "r2": lambda: sklearn.r2_score(labels, answers),
        "ndcg": lambda: sklearn.ndcg_score(labels, answers),
        "ndcg5": lambda: sklearn.ndcg_score(labels, answers, k=5),
    }
    return float(known[name]())


def example(name: str, seed: int, rows: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Answers and labels for a metric; scores are rounded, so that some are equal."""
    rng = np.random.default_rng(seed)
    scores = np.round(rng.normal(size=(rows, 6)), 1)
    if name in {"rmse", "mae", "r2"}:
        return scores, scores + rng.normal(size=scores.shape)
    if name.startswith("ndcg"):
        return scores, np.maximum(rng.integers(0, 4, scores.shape), np.eye(rows, 6, dtype=int)[np.arange(rows) % 6])
    exponentials = np.exp(scores)
    return exponentials / exponentials.sum(axis=1, keepdims=True), np.arange(rows) % 6


ORACLES = ("accuracy", "top2", "macro_f1", "roc_auc", "log_loss", "rmse", "mae", "r2", "ndcg", "ndcg5")


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("seed", range(5))
def test_the_value_is_scikit_learns(name: str, seed: int) -> None:
    answers, labels = example(name, seed)
    assert value(name, answers, labels) == pytest.approx(oracle(name, answers, labels), rel=1e-9)


@pytest.mark.parametrize("name", ["macro_f1", "roc_auc", "rmse", "r2"])
def test_contributions_are_what_leaving_each_row_out_gives(name: str) -> None:
    """The closed forms against the metric itself, computed again without each row."""
    answers, labels = example(name, seed=1)
    reading = Reading.of(answers)
    measured = METRICS[name].measure(answers, labels, reading)
    for row in range(len(labels)):
        without = METRICS[name].measure(np.delete(answers, row, 0), np.delete(labels, row, 0), reading)
        assert measured.value is not None
        assert without.value is not None
        assert measured.contributions is not None
        rows = len(labels)
        assert measured.contributions[row] == pytest.approx(rows * measured.value - (rows - 1) * without.value)


@pytest.mark.parametrize("name", ["accuracy", "top2", "log_loss", "mae", "ndcg"])
def test_contributions_of_a_mean_are_its_rows(name: str) -> None:
    answers, labels = example(name, seed=1)
    measured = METRICS[name].measure(answers, labels, Reading.of(answers))
    assert measured.contributions is not None
    assert measured.contributions.mean() == measured.value
    one = METRICS[name].measure(answers[3:4], labels[3:4], Reading.of(answers))
    assert one.value == pytest.approx(measured.contributions[3])


def test_the_positions_of_a_row_are_one_unit() -> None:
    answers = np.array([[0, 1, 1], [0, 0, 0]])
    measured = METRICS["accuracy"].measure(answers, np.array([[0, 1, 0], [0, 0, 0]]), Reading.CLASSES)
    assert measured.contributions == pytest.approx([2 / 3, 1])


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "roc_auc"])
def test_no_single_row_takes_more_than_the_worst(name: str) -> None:
    """Every row in turn gets every wrong answer: the value never falls by more than `worst` / rows."""
    rng = np.random.default_rng(3)
    labels = np.array([0] * 12 + [1] * 6 + [2] * 4)
    answers = 2.0 * np.eye(3)[labels] + rng.normal(size=(22, 3))
    measured = METRICS[name].measure(answers, labels, Reading.SCORES)
    assert measured.value is not None
    assert measured.worst is not None
    for row in range(22):
        for instead in (9 * np.eye(3)[0], 9 * np.eye(3)[1], 9 * np.eye(3)[2]):
            changed = answers.copy()
            changed[row] = instead
            other = METRICS[name].measure(changed, labels, Reading.SCORES).value
            assert other is not None
            assert measured.value - other <= measured.worst / 22 + 1e-12


# --- rankings -----------------------------------------------------------------------------------------------------


def grouped(scores: list[float], grades: list[float], queries: list[str], name: str = "ndcg") -> float | None:
    columns = np.array(scores), np.array(grades), Reading.SCORES, np.array(queries, dtype=object)
    return METRICS[name].measure(*columns).value


def test_a_group_makes_queries_of_rows_in_any_order() -> None:
    by_row = value("ndcg", np.array([[3.0, 1.0, 2.0], [1.0, 2.0, 3.0]]), np.array([[0, 1, 2], [0, 1, 2]]))
    by_group = grouped([3, 1, 1, 2, 2, 3], [0, 0, 1, 1, 2, 2], ["a", "b", "a", "b", "a", "b"])
    assert by_row == pytest.approx(by_group)


def test_queries_may_have_any_number_of_items() -> None:
    assert grouped([2, 1, 1, 2, 3], [1, 0, 0, 0, 1], ["a", "a", "b", "b", "b"]) == 1.0


def test_ndcg_is_what_the_paper_computes() -> None:
    """Grades 3, 2, 0 in the order 2, 3, 0: (2 + 3/log2(3)) / (3 + 2/log2(3))."""
    found = value("ndcg", np.array([[1.0, 2.0, 0.0]]), np.array([[3, 2, 0]]))
    assert found == pytest.approx((2 + 3 / np.log2(3)) / (3 + 2 / np.log2(3)))


def test_items_of_equal_score_have_no_order_of_their_own() -> None:
    first = value("ndcg", np.array([[1.0, 1.0]]), np.array([[1, 0]]))
    assert first == value("ndcg", np.array([[1.0, 1.0]]), np.array([[0, 1]]))
    assert first == pytest.approx((1 + 1 / np.log2(3)) / 2)


def test_a_query_without_anything_relevant_says_nothing() -> None:
    assert grouped([2, 1, 1, 2], [0, 1, 0, 0], ["a", "a", "b", "b"]) == pytest.approx(1 / np.log2(3))


@pytest.mark.parametrize(
    ("scores", "grades", "says"),
    [
        ([[1.0, 2.0]], [[0, 0]], "no query has anything relevant"),
        ([[1.0, 2.0]], [[-1, 1]], "negative"),
        ([1.0, 2.0], [0, 1], "name its column as `group`"),
    ],
)
def test_a_ranking_that_cannot_be_judged_says_why(scores: list, grades: list, says: str) -> None:
    assert says in reason("ndcg", np.array(scores), np.array(grades))
