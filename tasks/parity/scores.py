"""What each task metric computes: its value, and what each row contributes to it.

In: one output of a model over the evaluation rows, and the truth. Out: `Scored`. A metric that is a mean has its rows'
scores as contributions; any other has the jackknife's pseudo-values, from closed forms of the metric without each row
(O(n log n) for all of them). `tasks.parity.noninferiority` bounds the drop from the contributions of both models.

A row may hold several labels (the positions of a sequence). They are not independent, so the row is the unit: its
contribution is the mean over its positions, which is what the linearised metric adds up to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.parity.noninferiority import Floats, pseudo_values
from tasks.parity.ranking import ndcg_by_query
from tasks.parity.reading import (
    Reading,
    Undefined,
    as_labels,
    as_numbers,
    as_probabilities,
    as_scores,
    class_indexes,
    predicted_classes,
)


@dataclass(frozen=True, slots=True)
class Truth:
    """What answers are measured against. `queries` names each row's query, where a metric ranks rows within one."""

    labels: NDArray[Any]
    reading: Reading
    queries: NDArray[Any] | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """A metric's value and what each unit contributes; their mean is the value, or nearly so for pseudo-values.

    `contributions` is None where the rows are too few to leave one out. `worst` is the most that one unit can take
    from the value, times the number of units, where there is such a limit.
    """

    value: float
    contributions: Floats | None
    worst: float | None = None


# --- means of rows ------------------------------------------------------------------------------------------------


def accuracy(answers: NDArray[Any], truth: Truth) -> Scored:
    """Share of rows whose class is right: the highest score's, or the predicted class itself."""
    predicted, labels = predicted_classes(answers, truth.labels, truth.reading)
    return _mean(predicted == labels, len(answers), worst=1.0)


def top(answers: NDArray[Any], truth: Truth, k: int) -> Scored:
    """Share of rows whose class is among the k highest scores."""
    return _mean(among_highest(answers, truth, k), len(answers), worst=1.0)


def among_highest(answers: NDArray[Any], truth: Truth, k: int) -> NDArray[np.bool_]:
    """Per label, whether its class is among the k highest scores; of equal scores the later class is the higher."""
    labels = as_labels(truth.labels, "labels")
    scores = as_scores(answers, truth.reading, labels)
    if scores.shape[1] <= k:
        raise Undefined(f"needs more than {k} classes, and the output has {scores.shape[1]}")
    indexes = class_indexes(labels, scores.shape[1])
    highest = np.argsort(scores, axis=1, kind="stable")[:, -k:]
    return np.asarray((highest == indexes[:, None]).any(axis=1))


def log_loss(answers: NDArray[Any], truth: Truth) -> Scored:
    """Mean negative log-likelihood of the true class, in nats; scores go through a softmax (or sigmoid) first.

    Probabilities are kept one rounding unit of float64 away from 0, as in scikit-learn: one row never costs infinity.
    """
    labels = as_labels(truth.labels, "labels")
    probabilities = as_probabilities(answers, truth.reading, labels)
    indexes = class_indexes(labels, probabilities.shape[1])
    given = probabilities[np.arange(len(indexes)), indexes]
    unit = float(np.finfo(np.float64).eps)
    return _mean(-np.log(np.clip(given, unit, 1 - unit)), len(answers))


def mae(answers: NDArray[Any], truth: Truth) -> Scored:
    """Mean absolute error, in the label's unit."""
    predicted, labels = as_numbers(answers, truth.labels)
    return _mean(np.abs(predicted - labels), len(answers))


def ndcg(answers: NDArray[Any], truth: Truth, k: int | None) -> Scored:
    """Normalised discounted cumulative gain, averaged over queries (`tasks.parity.ranking`)."""
    queries = ndcg_by_query(answers, truth.labels, truth.queries, k)
    return _mean(queries, len(queries), worst=1.0)


# --- linearised by the jackknife ----------------------------------------------------------------------------------


def macro_f1(answers: NDArray[Any], truth: Truth) -> Scored:
    """F1 averaged over the classes that the labels hold, so that source and export average over the same ones."""
    predicted, labels = predicted_classes(answers, truth.labels, truth.reading)
    classes, true = np.unique(labels, return_inverse=True)
    place = np.clip(np.searchsorted(classes, predicted), 0, len(classes) - 1)
    known = classes[place] == predicted
    guessed = np.where(known, place, len(classes))  # one more place for classes that no label has
    right = guessed == true
    hits = np.bincount(true[right], minlength=len(classes))
    total = np.bincount(true, minlength=len(classes)) + np.bincount(guessed, minlength=len(classes) + 1)[:-1]
    value = float(np.mean(2 * hits / total))
    if len(true) < 2:
        return Scored(value, None)
    # Without a row of its own class that is right; without one that only counts among the labels or the guesses.
    loses_hit = np.append(2 * hits / total - _ratio(2 * (hits - 1), total - 2), 0.0)
    loses_count = np.append(2 * hits / total - _ratio(2 * hits, total - 1), 0.0)
    lost = np.where(right, loses_hit[true], loses_count[true] + loses_count[guessed]) / len(classes)
    return Scored(
        value,
        _by_row(pseudo_values(value, value - lost), len(answers)),
        len(true) * _costliest_mistake(hits.astype(np.float64), total.astype(np.float64)),
    )


def _costliest_mistake(hits: Floats, total: Floats) -> float:
    """The most that one right answer less can take from macro-F1: the own class loses a hit and a guess, another gains
    a wrong guess. F1 is 2·hits / (labels + guesses), so the first costs at most 2·(total - hits)/(total·(total - 1)).
    """
    own = np.where(hits > 0, 2 * (total - hits) / (total * np.maximum(total - 1, 1)), 0.0)
    other = 2 * hits / (total * (total + 1))
    return float((own.max() + other.max()) / len(hits))


def roc_auc(answers: NDArray[Any], truth: Truth) -> Scored:
    """Area under the ROC curve; with more than two classes, one class against the rest, averaged (macro)."""
    labels = as_labels(truth.labels, "labels")
    scores = as_scores(answers, truth.reading, labels)
    classes = scores.shape[1]
    indexes = class_indexes(labels, classes)
    members = np.bincount(indexes, minlength=classes)
    if not members.all():
        raise Undefined("the labels do not hold every class, so the area is not defined for all of them")
    if classes == 2:
        # The margin ranks rows as the probability does, and keeps the order where probabilities saturate.
        columns, positives = [scores[:, 1] - scores[:, 0]], [1]
    else:
        probabilities = as_probabilities(answers, truth.reading, labels)
        columns, positives = [probabilities[:, column] for column in range(classes)], list(range(classes))
    placements = [_placements(column, indexes == positive) for column, positive in zip(columns, positives, strict=True)]
    areas = np.array(
        [np.mean(found[indexes == positive]) for found, positive in zip(placements, positives, strict=True)]
    )
    value, rows = float(areas.mean()), len(indexes)
    if members.min() < 2:
        return Scored(value, None)
    lost = np.zeros(rows)
    cost = np.zeros(classes)
    for found, area, positive in zip(placements, areas, positives, strict=True):
        size = np.where(indexes == positive, members[positive], rows - members[positive])
        lost += (found - area) / (size - 1) / len(areas)
        cost += np.where(np.arange(classes) == positive, 1 / members[positive], 1 / (rows - members[positive]))
    contributions = pseudo_values(value, value - lost)
    return Scored(value, _by_row(contributions, len(answers)), rows * float(cost.max()) / len(areas))


def _placements(scores: Floats, positive: NDArray[np.bool_]) -> Floats:
    """Per row, the share of the other side that it is ranked right against, ties by half: the structural components
    of DeLong, DeLong & Clarke-Pearson 1988, from ranks (Sun & Xu 2014, IEEE Signal Process. Lett. 21).
    """
    everyone = _ranks(scores)
    found = np.empty(len(scores))
    found[positive] = (everyone[positive] - _ranks(scores[positive])) / np.sum(~positive)
    found[~positive] = 1 - (everyone[~positive] - _ranks(scores[~positive])) / np.sum(positive)
    return found


def _ranks(scores: Floats) -> Floats:
    """From 1; equal scores share the mean of their ranks."""
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[place])


def rmse(answers: NDArray[Any], truth: Truth) -> Scored:
    """Root of the mean squared error, in the label's unit; of several values a row, the mean of their roots."""
    predicted, labels = as_numbers(answers, truth.labels)
    squares = (predicted - labels) ** 2
    value, rows = float(np.mean(np.sqrt(squares.mean(axis=0)))), len(squares)
    if rows < 2:
        return Scored(value, None)
    without = np.sqrt(np.maximum(squares.sum(axis=0) - squares, 0) / (rows - 1)).mean(axis=1)
    return Scored(value, pseudo_values(value, without))


def r2(answers: NDArray[Any], truth: Truth) -> Scored:
    """Share of the labels' variance that is explained, not defined for constant labels; of several values a row, the
    mean of their shares.
    """
    predicted, labels = as_numbers(answers, truth.labels)
    squares, spread = (predicted - labels) ** 2, (labels - labels.mean(axis=0)) ** 2
    if not np.all(spread.sum(axis=0) > 0):
        raise Undefined("the labels are constant, so there is no variance to explain")
    value, rows = float(np.mean(1 - squares.sum(axis=0) / spread.sum(axis=0))), len(squares)
    rest = spread.sum(axis=0) - spread * rows / max(rows - 1, 1)  # without a row, about the mean of the others
    if rows < 3 or not np.all(rest > 0):
        return Scored(value, None)
    return Scored(value, pseudo_values(value, (1 - (squares.sum(axis=0) - squares) / rest).mean(axis=1)))


# --- parts --------------------------------------------------------------------------------------------------------


def _mean(scores: NDArray[Any], units: int, worst: float | None = None) -> Scored:
    contributions = _by_row(scores.astype(np.float64), units)
    return Scored(float(contributions.mean()), contributions, worst)


def _by_row(contributions: Floats, rows: int) -> Floats:
    return np.asarray(contributions.reshape(rows, -1).mean(axis=1))


def _ratio(above: NDArray[Any], below: NDArray[Any]) -> Floats:
    """0 where nothing is left of a class."""
    return np.asarray(np.where(below > 0, np.maximum(above, 0) / np.maximum(below, 1), 0.0))
