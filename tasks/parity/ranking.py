"""Normalised discounted cumulative gain: how far up a model ranks what is relevant.

In: scores of items and their graded relevance (0: not relevant), either one row per item with a column that names its
query, or one row per query with a list of items. Out: one value per query.

Järvelin & Kekäläinen 2002, "Cumulated gain-based evaluation of IR techniques", ACM TOIS 20, §2: the gain is the grade
itself, discounted by log₂(1 + rank), and divided by that of the ideal order. Items of equal score stand in no order, so
each has the mean of the discounts that they share (McSherry & Najork 2008, "Computing information retrieval performance
measures efficiently in the presence of tied scores").
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.parity.reading import Undefined, as_numbers


def ndcg_by_query(
    answers: NDArray[Any], labels: NDArray[Any], queries: NDArray[Any] | None, k: int | None
) -> NDArray[np.float64]:
    """NDCG of each query that has something relevant, of its first `k` ranks or of all; in the order of their names.

    Raises:
        Undefined: scores or grades are missing or negative, or no query has anything relevant.
    """
    scores, grades = as_numbers(answers, labels)
    if np.any(grades < 0):
        raise Undefined(f"{int(np.sum(grades < 0))} labels are negative, and a grade of relevance is at least 0")
    if queries is None:
        if scores.shape[1] == 1:
            raise Undefined("each row holds one score, so rows are ranked within a query: name its column as `group`")
        pairs = list(zip(scores, grades, strict=True))
    else:
        if scores.shape[1] != 1 or len(queries) != len(scores):
            raise Undefined("with a group, each row is one item: one score and one label")
        _, place = np.unique(queries, return_inverse=True)
        order = np.argsort(place, kind="stable")
        cuts = np.flatnonzero(np.diff(place[order])) + 1
        pairs = list(zip(np.split(scores[order, 0], cuts), np.split(grades[order, 0], cuts), strict=True))
    found = [_ndcg(score, grade, k) for score, grade in pairs if np.any(grade > 0)]
    if not found:
        raise Undefined("no query has anything relevant: every label is 0")
    return np.array(found)


def _ndcg(scores: NDArray[np.float64], grades: NDArray[np.float64], k: int | None) -> float:
    discounts = 1 / np.log2(np.arange(2, len(scores) + 2))
    discounts[k if k is not None else len(scores) :] = 0
    ideal = float(np.sort(grades)[::-1] @ discounts)
    order = np.argsort(-scores, kind="stable")
    ranked, gains = scores[order], grades[order]
    starts = np.flatnonzero(np.append(True, np.diff(ranked) != 0))
    sizes = np.diff(np.append(starts, len(ranked)))
    shared = np.add.reduceat(discounts, starts) / sizes
    return float(np.add.reduceat(gains, starts) @ shared / ideal)
