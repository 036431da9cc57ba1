"""Task metrics: answers and labels → one number that says how good the model is at its task.

In: one output of a model over the evaluation rows, and the label column. Out: a float, or the reason why there is
none. What cannot be computed (NaN, missing labels, one class only) is never a number, so it can never be a pass.

`METRICS` is the table; adding one is a function and a line. This module imports nothing heavy: spec validation reads
the names and `Metric.problem`.

Answers are read the way the *source model's* answers are (`Reading.of`): a float output whose rows are non-negative
and sum to one holds probabilities, any other float output holds scores (logits). The export is then read the same way,
so an export that lost its softmax cannot look right because it was read more kindly.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from serving.contract import DType, TensorSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: A softmax over C classes carries a relative error of about (C + 4)·u at most, u the unit roundoff of its dtype
#: (Blanchard, Higham, Higham 2021, "Accurately computing the log-sum-exp and softmax functions"), so its sum is that
#: far from one. Rows within `_SUM_UNITS`·C units of eps = 2u are probabilities; logits come that close by no chance.
_SUM_UNITS = 4


class _Undefined(ValueError):
    """The metric has no value here; the message says why."""


class Direction(StrEnum):
    """Which way a metric improves."""

    HIGHER = "higher is better"
    LOWER = "lower is better"


class Reading(StrEnum):
    """What the values of an output mean to a metric."""

    CLASSES = "classes"  # integers, booleans or strings: the predicted class itself
    PROBABILITIES = "probabilities"  # floats in [0, 1]; over a class axis they sum to one
    SCORES = "scores"  # floats: logits or decision values

    @classmethod
    def of(cls, answers: NDArray[Any]) -> Reading:
        """How the source model's answers are to be read."""
        import numpy as np

        if answers.dtype.kind != "f":
            return cls.CLASSES
        unit = float(np.finfo(answers.dtype).eps) * _SUM_UNITS
        values = answers.astype(np.float64)
        classes = values.shape[-1] if values.ndim > 1 else 1
        if not (np.all(values >= 0) and np.all(values <= 1 + unit)):
            return cls.SCORES
        if classes > 1 and not np.all(np.abs(values.sum(axis=-1) - 1) <= classes * unit):
            return cls.SCORES
        return cls.PROBABILITIES


@dataclass(frozen=True, slots=True)
class Measured:
    """A metric's value, or `None` with the reason why there is none."""

    value: float | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Metric:
    """One task metric.

    `problem` answers why an output cannot be measured with it (for spec validation), or None. `compute` takes answers,
    labels and how the answers are read; it may raise ValueError or return a non-finite number where it has no value.
    """

    direction: Direction
    problem: Callable[[TensorSpec], str | None]
    compute: Callable[[NDArray[Any], NDArray[Any], Reading], float]

    def measure(self, answers: NDArray[Any], labels: NDArray[Any], reading: Reading) -> Measured:
        """The metric over all rows. Never raises for what is in the data: the reason stands in the result."""
        if len(answers) != len(labels):
            return Measured(None, f"{len(answers)} answers for {len(labels)} labels")
        if not len(labels):
            return Measured(None, "no rows")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what sklearn warns of comes back as a number that is not finite
                value = float(self.compute(answers, labels, reading))
        except ValueError as error:
            return Measured(None, str(error).strip().splitlines()[0])
        if not math.isfinite(value):
            return Measured(None, f"its value is {value} on these rows")
        return Measured(value)

    def drop(self, source: float | None, export: float | None) -> float | None:
        """How much worse the export is, in the metric's own unit; negative when it is better."""
        if source is None or export is None:
            return None
        drop = source - export if self.direction is Direction.HIGHER else export - source
        return drop if math.isfinite(drop) else None


# --- reading answers and labels -----------------------------------------------------------------------------------


def _as_labels(values: NDArray[Any], what: str) -> NDArray[Any]:
    """Class labels as int64, or as objects of `str`; a trailing axis of one is dropped."""
    import numpy as np

    if values.ndim > 1 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.dtype.kind in "OUS":
        flat = [value.decode() if isinstance(value, bytes) else value for value in values.ravel()]
        if not all(isinstance(value, str) for value in flat):
            raise _Undefined(f"{what} mix strings with something else, or some are missing")
        return np.array(flat, dtype=object).reshape(values.shape)
    if values.dtype.kind == "f":
        if not np.all(np.isfinite(values)):
            raise _Undefined(f"{int(np.sum(~np.isfinite(values)))} of {what} are missing or not finite")
        if not np.all(values == np.floor(values)):
            raise _Undefined(f"{what} are not whole numbers, so they name no classes")
    elif values.dtype.kind == "u" and np.any(values > np.iinfo(np.int64).max):
        raise _Undefined(f"{what} are above the range of int64")
    return values.astype(np.int64)


def _as_scores(answers: NDArray[Any], reading: Reading, labels: NDArray[Any]) -> NDArray[np.float64]:
    """Float answers as rows of per-class values in float64, (n, classes); one value a row becomes two columns.

    One value a row is the positive class's: a probability p gives (1 - p, p), a logit s gives (0, s), which a softmax
    turns into (1 - sigmoid(s), sigmoid(s)).
    """
    import numpy as np

    if answers.dtype.kind != "f" or reading is Reading.CLASSES:
        raise _Undefined(f"it needs scores or probabilities, and the output holds {answers.dtype}")
    if np.any(np.isnan(answers)):
        raise _Undefined(f"{int(np.sum(np.isnan(answers)))} answers are NaN")
    values = answers.astype(np.float64)
    if values.ndim == labels.ndim:
        values = values[..., np.newaxis]
    if values.shape[:-1] != labels.shape:
        raise _Undefined(f"answers of shape {answers.shape} do not go with labels of shape {labels.shape}")
    values = values.reshape(-1, values.shape[-1])
    if values.shape[1] == 1:
        first = 1 - values if reading is Reading.PROBABILITIES else np.zeros_like(values)
        values = np.concatenate([first, values], axis=1)
    return values


def _as_probabilities(answers: NDArray[Any], reading: Reading, labels: NDArray[Any]) -> NDArray[np.float64]:
    """Rows of probabilities, (n, classes): softmax over scores; refused where the source has them and these do not."""
    import numpy as np

    values = _as_scores(answers, reading, labels)
    if reading is Reading.SCORES:
        if not np.all(np.isfinite(values)):
            raise _Undefined(f"{int(np.sum(~np.isfinite(values)))} scores are not finite")
        exponentials = np.exp(values - values.max(axis=1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))
    if Reading.of(answers) is not Reading.PROBABILITIES:
        raise _Undefined("the source model gives probabilities, and these answers are none")
    return np.clip(values, 0, 1)


def _class_indexes(labels: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """Labels as column numbers of a score matrix with `classes` columns."""
    import numpy as np

    if labels.dtype.kind == "O":
        raise _Undefined("labels are strings, and columns of scores have no names: give class numbers")
    if labels.min() < 0 or labels.max() >= classes:
        raise _Undefined(f"labels run from {labels.min()} to {labels.max()}, and the output has {classes} classes")
    return np.asarray(labels.ravel(), dtype=np.int64)


def _predicted(answers: NDArray[Any], labels: NDArray[Any], reading: Reading) -> tuple[NDArray[Any], NDArray[Any]]:
    """Predicted and true class per row, flat and of one kind (both numbers or both strings)."""
    import numpy as np

    truth = _as_labels(labels, "labels")
    if reading is not Reading.CLASSES:
        scores = _as_scores(answers, reading, truth)
        return np.argmax(scores, axis=1), _class_indexes(truth, scores.shape[1])
    if answers.dtype.kind == "f":
        raise _Undefined(f"the source model gives classes, and these answers are {answers.dtype}")
    predicted = _as_labels(answers, "answers")
    if predicted.shape != truth.shape:
        raise _Undefined(f"answers of shape {answers.shape} do not go with labels of shape {labels.shape}")
    if predicted.dtype.kind != truth.dtype.kind:
        raise _Undefined(f"answers are {answers.dtype} and labels {labels.dtype}: give both as numbers or as strings")
    return predicted.ravel(), truth.ravel()


def _numbers(answers: NDArray[Any], labels: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Predicted and true values in float64, (n, values a row). Shapes must agree but for a trailing axis of one."""
    import numpy as np

    def plain(values: NDArray[Any], what: str) -> NDArray[np.float64]:
        if values.dtype.kind not in "biuf":
            raise _Undefined(f"{what} are {values.dtype}, not numbers")
        if values.ndim > 1 and values.shape[-1] == 1:
            values = values[..., 0]
        numbers = values.astype(np.float64)
        if not np.all(np.isfinite(numbers)):
            raise _Undefined(f"{int(np.sum(~np.isfinite(numbers)))} of {what} are missing or not finite")
        return numbers

    predicted, truth = plain(answers, "answers"), plain(labels, "labels")
    if predicted.shape != truth.shape:
        raise _Undefined(f"answers of shape {answers.shape} do not go with labels of shape {labels.shape}")
    return predicted.reshape(len(predicted), -1), truth.reshape(len(truth), -1)


# --- what an output must be like ----------------------------------------------------------------------------------


def _problem_classes(output: TensorSpec) -> str | None:
    if not output.shape:
        return "needs one answer per row, and this output is a single number"
    return None


def _problem_scores(output: TensorSpec) -> str | None:
    if not output.dtype.is_float:
        return f"needs scores or probabilities (a float output), and this output is {output.dtype}"
    return _problem_classes(output)


def _problem_numbers(output: TensorSpec) -> str | None:
    if output.dtype is DType.STRING:
        return "needs numbers, and this output holds strings"
    return _problem_classes(output)


def _problem_top(k: int) -> Callable[[TensorSpec], str | None]:
    def problem(output: TensorSpec) -> str | None:
        classes = output.shape[-1] if len(output.shape) > 1 else 1
        if isinstance(classes, int) and classes <= k:
            return f"needs more than {k} classes on the last axis, and this output has {classes}"
        return _problem_scores(output)

    return problem


# --- the metrics --------------------------------------------------------------------------------------------------


def _accuracy(answers: NDArray[Any], labels: NDArray[Any], reading: Reading) -> float:
    """Share of rows whose class is right: the highest score's, or the predicted class itself."""
    from sklearn.metrics import accuracy_score

    predicted, truth = _predicted(answers, labels, reading)
    return float(accuracy_score(truth, predicted))


def _top(k: int) -> Callable[[NDArray[Any], NDArray[Any], Reading], float]:
    def top(answers: NDArray[Any], labels: NDArray[Any], reading: Reading) -> float:
        """Share of rows whose class is among the k highest scores."""
        import numpy as np
        from sklearn.metrics import top_k_accuracy_score

        truth = _as_labels(labels, "labels")
        scores = _as_scores(answers, reading, truth)
        classes = scores.shape[1]
        if classes <= k:
            raise _Undefined(f"needs more than {k} classes, and the output has {classes}")
        return float(top_k_accuracy_score(_class_indexes(truth, classes), scores, k=k, labels=np.arange(classes)))

    return top


def _macro_f1(answers: NDArray[Any], labels: NDArray[Any], reading: Reading) -> float:
    """F1 averaged over the classes that the labels hold, so that source and export average over the same ones."""
    import numpy as np
    from sklearn.metrics import f1_score

    predicted, truth = _predicted(answers, labels, reading)
    return float(f1_score(truth, predicted, labels=np.unique(truth), average="macro", zero_division=0.0))


def _roc_auc(answers: NDArray[Any], labels: NDArray[Any], reading: Reading) -> float:
    """Area under the ROC curve; with more than two classes, one class against the rest, averaged (macro)."""
    import numpy as np
    from sklearn.metrics import roc_auc_score

    truth = _as_labels(labels, "labels")
    scores = _as_scores(answers, reading, truth)
    indexes = _class_indexes(truth, scores.shape[1])
    if len(np.unique(indexes)) < scores.shape[1]:
        raise _Undefined("the labels do not hold every class, so the area is not defined for all of them")
    if scores.shape[1] == 2:
        # The margin ranks rows as the probability does, and keeps the order where probabilities saturate.
        return float(roc_auc_score(indexes, scores[:, 1] - scores[:, 0]))
    probabilities = _as_probabilities(answers, reading, truth)
    return float(
        np.mean([roc_auc_score(indexes == column, probabilities[:, column]) for column in range(scores.shape[1])])
    )


def _log_loss(answers: NDArray[Any], labels: NDArray[Any], reading: Reading) -> float:
    """Mean negative log-likelihood of the true class, in nats; scores go through a softmax (or sigmoid) first."""
    import numpy as np
    from sklearn.metrics import log_loss

    truth = _as_labels(labels, "labels")
    probabilities = _as_probabilities(answers, reading, truth)
    classes = probabilities.shape[1]
    return float(log_loss(_class_indexes(truth, classes), probabilities, labels=np.arange(classes)))


def _rmse(answers: NDArray[Any], labels: NDArray[Any], _reading: Reading) -> float:
    """Root of the mean squared error, in the label's unit."""
    from sklearn.metrics import root_mean_squared_error

    predicted, truth = _numbers(answers, labels)
    return float(root_mean_squared_error(truth, predicted))


def _mae(answers: NDArray[Any], labels: NDArray[Any], _reading: Reading) -> float:
    """Mean absolute error, in the label's unit."""
    from sklearn.metrics import mean_absolute_error

    predicted, truth = _numbers(answers, labels)
    return float(mean_absolute_error(truth, predicted))


def _r2(answers: NDArray[Any], labels: NDArray[Any], _reading: Reading) -> float:
    """Share of the labels' variance that is explained; not defined for constant labels."""
    from sklearn.metrics import r2_score

    predicted, truth = _numbers(answers, labels)
    return float(r2_score(truth, predicted, force_finite=False))


#: Name in model.yaml → metric.
METRICS: dict[str, Metric] = {
    "accuracy": Metric(Direction.HIGHER, _problem_classes, _accuracy),
    "top2": Metric(Direction.HIGHER, _problem_top(2), _top(2)),
    "top3": Metric(Direction.HIGHER, _problem_top(3), _top(3)),
    "top5": Metric(Direction.HIGHER, _problem_top(5), _top(5)),
    "top10": Metric(Direction.HIGHER, _problem_top(10), _top(10)),
    "macro_f1": Metric(Direction.HIGHER, _problem_classes, _macro_f1),
    "roc_auc": Metric(Direction.HIGHER, _problem_scores, _roc_auc),
    "log_loss": Metric(Direction.LOWER, _problem_scores, _log_loss),
    "rmse": Metric(Direction.LOWER, _problem_numbers, _rmse),
    "mae": Metric(Direction.LOWER, _problem_numbers, _mae),
    "r2": Metric(Direction.HIGHER, _problem_numbers, _r2),
}
