"""What the values of an output and of a label column mean to a metric: classes, scores, probabilities or numbers.

In: arrays as a model gives them and as the evaluation data holds them. Out: arrays of one form, or `Undefined`, which
says why they cannot be read so. Whatever is missing or NaN is refused here, so that no metric computes with it.

Answers are read the way the *source model's* answers are (`Reading.of`): a float output whose rows are non-negative
and sum to one holds probabilities, any other float output holds scores (logits). The export is then read the same way,
so an export that lost its softmax cannot look right because it was read more kindly.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: A softmax over C classes carries a relative error of about (C + 4)·u at most, u the unit roundoff of its dtype
#: (Blanchard, Higham, Higham 2021, "Accurately computing the log-sum-exp and softmax functions"), so its sum is that
#: far from one. Rows within `_SUM_UNITS`·C units of eps = 2u are probabilities; logits come that close by no chance.
_SUM_UNITS = 4


class Undefined(ValueError):
    """The metric has no value here; the message says why."""


class Reading(StrEnum):
    """What the values of an output mean to a metric."""

    CLASSES = "classes"  # integers, booleans or strings: the predicted class itself
    PROBABILITIES = "probabilities"  # floats in [0, 1]; over a class axis they sum to one
    SCORES = "scores"  # floats: logits or decision values

    @classmethod
    def of(cls, answers: NDArray[Any]) -> Reading:
        """How the source model's answers are to be read."""
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


def as_labels(values: NDArray[Any], what: str) -> NDArray[Any]:
    """Class labels as int64, or as objects of `str`; a trailing axis of one is dropped."""
    if values.ndim > 1 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.dtype.kind in "OUS":
        flat = [value.decode() if isinstance(value, bytes) else value for value in values.ravel()]
        if not all(isinstance(value, str) for value in flat):
            raise Undefined(f"{what} mix strings with something else, or some are missing")
        return np.array(flat, dtype=object).reshape(values.shape)
    if values.dtype.kind == "f":
        if not np.all(np.isfinite(values)):
            raise Undefined(f"{int(np.sum(~np.isfinite(values)))} of {what} are missing or not finite")
        if not np.all(values == np.floor(values)):
            raise Undefined(f"{what} are not whole numbers, so they name no classes")
    elif values.dtype.kind == "u" and np.any(values > np.iinfo(np.int64).max):
        raise Undefined(f"{what} are above the range of int64")
    return values.astype(np.int64)


def as_scores(answers: NDArray[Any], reading: Reading, labels: NDArray[Any]) -> NDArray[np.float64]:
    """Float answers as rows of per-class values in float64, (n, classes); one value a row becomes two columns.

    One value a row is the positive class's: a probability p gives (1 - p, p), a logit s gives (0, s), which a softmax
    turns into (1 - sigmoid(s), sigmoid(s)).
    """
    if answers.dtype.kind != "f" or reading is Reading.CLASSES:
        raise Undefined(f"it needs scores or probabilities, and the output holds {answers.dtype}")
    if np.any(np.isnan(answers)):
        raise Undefined(f"{int(np.sum(np.isnan(answers)))} answers are NaN")
    values = answers.astype(np.float64)
    if values.ndim == labels.ndim:
        values = values[..., np.newaxis]
    if values.shape[:-1] != labels.shape:
        raise Undefined(f"answers of shape {answers.shape} do not go with labels of shape {labels.shape}")
    values = values.reshape(-1, values.shape[-1])
    if values.shape[1] == 1:
        first = 1 - values if reading is Reading.PROBABILITIES else np.zeros_like(values)
        values = np.concatenate([first, values], axis=1)
    return values


def as_probabilities(answers: NDArray[Any], reading: Reading, labels: NDArray[Any]) -> NDArray[np.float64]:
    """Rows of probabilities, (n, classes): softmax over scores; refused where the source has them and these do not."""
    values = as_scores(answers, reading, labels)
    if reading is Reading.SCORES:
        if not np.all(np.isfinite(values)):
            raise Undefined(f"{int(np.sum(~np.isfinite(values)))} scores are not finite")
        exponentials = np.exp(values - values.max(axis=1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))
    if Reading.of(answers) is not Reading.PROBABILITIES:
        raise Undefined("the source model gives probabilities, and these answers are none")
    return np.clip(values, 0, 1)


def class_indexes(labels: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """Labels as column numbers of a score matrix with `classes` columns."""
    if labels.dtype.kind == "O":
        raise Undefined("labels are strings, and columns of scores have no names: give class numbers")
    if labels.min() < 0 or labels.max() >= classes:
        raise Undefined(f"labels run from {labels.min()} to {labels.max()}, and the output has {classes} classes")
    return np.asarray(labels.ravel(), dtype=np.int64)


def predicted_classes(
    answers: NDArray[Any], labels: NDArray[Any], reading: Reading
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Predicted and true class per row, flat and of one kind (both numbers or both strings)."""
    truth = as_labels(labels, "labels")
    if reading is not Reading.CLASSES:
        scores = as_scores(answers, reading, truth)
        return np.argmax(scores, axis=1), class_indexes(truth, scores.shape[1])
    if answers.dtype.kind == "f":
        raise Undefined(f"the source model gives classes, and these answers are {answers.dtype}")
    predicted = as_labels(answers, "answers")
    if predicted.shape != truth.shape:
        raise Undefined(f"answers of shape {answers.shape} do not go with labels of shape {labels.shape}")
    if predicted.dtype.kind != truth.dtype.kind:
        raise Undefined(f"answers are {answers.dtype} and labels {labels.dtype}: give both as numbers or as strings")
    return predicted.ravel(), truth.ravel()


def as_numbers(answers: NDArray[Any], labels: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Predicted and true values in float64, (n, values a row). Shapes must agree but for a trailing axis of one."""

    def plain(values: NDArray[Any], what: str) -> NDArray[np.float64]:
        if values.dtype.kind not in "biuf":
            raise Undefined(f"{what} are {values.dtype}, not numbers")
        if values.ndim > 1 and values.shape[-1] == 1:
            values = values[..., 0]
        numbers = values.astype(np.float64)
        if not np.all(np.isfinite(numbers)):
            raise Undefined(f"{int(np.sum(~np.isfinite(numbers)))} of {what} are missing or not finite")
        return numbers

    predicted, truth = plain(answers, "answers"), plain(labels, "labels")
    if predicted.shape != truth.shape:
        raise Undefined(f"answers of shape {answers.shape} do not go with labels of shape {labels.shape}")
    return predicted.reshape(len(predicted), -1), truth.reshape(len(truth), -1)
