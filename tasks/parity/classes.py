"""What a metric over all rows hides: classes that lose, and confidence that is no longer deserved.

In: labels, and what both models say. Out: how each class changed, which of them lost more than chance explains, and the
expected calibration error of both. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.contracts import Calibration, ClassChange
from tasks.parity.reading import Undefined, as_labels, as_probabilities, class_indexes, predicted_classes
from tasks.parity.scores import Truth, among_highest

#: Bins of equal numbers of rows: Guo et al. 2017, "On calibration of modern neural networks", §2, use 15 bins.
CALIBRATION_BINS = 15
#: A report travels between tasks, so it keeps those classes that changed most; labels of no more classes are whole.
_MOST_CLASSES = 1000


def class_changes(
    metric: str, source: NDArray[Any], export: NDArray[Any], truth: Truth, k: int = 1
) -> tuple[ClassChange, ...]:
    """Each class of the labels: who is right on its rows, where right means among the `k` highest.

    Raises:
        Undefined: the answers name no classes.
    """
    labels = as_labels(truth.labels, "labels").ravel()
    ours, theirs = _right(source, truth, k), _right(export, truth, k)
    found = []
    for label in np.unique(labels):
        mine, other = ours[labels == label], theirs[labels == label]
        found.append(
            ClassChange(
                metric=metric,
                label=str(label),
                rows=len(mine),
                source_right=int(mine.sum()),
                export_right=int(other.sum()),
                lost=int((mine & ~other).sum()),
                gained=int((~mine & other).sum()),
            )
        )
    if len(found) > _MOST_CLASSES:
        found = sorted(found, key=lambda change: -(change.lost + change.gained))[:_MOST_CLASSES]
    return tuple(found)


def _right(answers: NDArray[Any], truth: Truth, k: int) -> NDArray[np.bool_]:
    if k > 1:
        return among_highest(answers, truth, k)
    predicted, labels = predicted_classes(answers, truth.labels, truth.reading)
    return np.asarray(predicted == labels)


def regressions(changes: Sequence[ClassChange], confidence: float) -> list[tuple[ClassChange, float]]:
    """Classes that lost more rows than they gained by more than chance, with their p-values.

    McNemar's exact test on a class's discordant rows, one-sided: under no change each falls on either side with even
    chances (McNemar 1947). Holm's procedure keeps the chance of any false alarm over all classes at 1 - confidence
    (Holm 1979).
    """
    from scipy.special import bdtrc

    level = 1 - confidence
    tested = [
        (change, float(bdtrc(change.lost - 1, change.lost + change.gained, 0.5)) if change.lost else 1.0)
        for change in changes
    ]
    found: list[tuple[ClassChange, float]] = []
    for position, (change, chance) in enumerate(sorted(tested, key=lambda item: item[1])):
        if chance * (len(tested) - position) > level:
            break
        found.append((change, chance))
    return found


def calibration(metric: str, source: NDArray[Any], export: NDArray[Any], truth: Truth) -> Calibration | None:
    """Expected calibration error of the winning probability; None where answers hold none."""
    try:
        errors = [_calibration_error(answers, truth) for answers in (source, export)]
    except Undefined:
        return None
    return Calibration(metric=metric, source=errors[0], export=errors[1], bins=CALIBRATION_BINS)


def _calibration_error(answers: NDArray[Any], truth: Truth) -> float:
    labels = as_labels(truth.labels, "labels")
    probabilities = as_probabilities(answers, truth.reading, labels)
    indexes = class_indexes(labels, probabilities.shape[1])
    won = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == indexes
    # Equal confidences are in one bin, so that the order of the rows does not matter.
    edges = np.quantile(won, np.arange(1, CALIBRATION_BINS) / CALIBRATION_BINS)
    bins = np.searchsorted(edges, won, side="left")
    gaps = np.bincount(bins, weights=right.astype(np.float64) - won, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(won))
