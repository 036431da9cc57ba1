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

from tasks.parity.noninferiority import Floats
from tasks.parity.reading import Undefined, as_numbers


def ndcg_by_query(answers: NDArray[Any], labels: NDArray[Any], queries: NDArray[Any] | None, k: int | None) -> Floats:
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
        found = _ndcg(scores, grades, k)
    else:
        if scores.shape[1] != 1 or len(queries) != len(scores):
            raise Undefined("with a group, each row is one item: one score and one label")
        found = _by_group(scores[:, 0], grades[:, 0], queries, k)
    judged = found[~np.isnan(found)]
    if not len(judged):
        raise Undefined("no query has anything relevant: every label is 0")
    return judged


def _by_group(scores: Floats, grades: Floats, queries: NDArray[Any], k: int | None) -> Floats:
    """Queries of one length make a table; there are far fewer lengths than queries."""
    _, place, sizes = np.unique(queries, return_inverse=True, return_counts=True)
    order = np.argsort(place, kind="stable")
    starts = np.cumsum(sizes) - sizes
    found = np.empty(len(sizes))
    for size in np.unique(sizes):
        alike = np.flatnonzero(sizes == size)
        rows = order[starts[alike][:, None] + np.arange(size)]
        found[alike] = _ndcg(scores[rows], grades[rows], k)
    return found


def _ndcg(scores: Floats, grades: Floats, k: int | None) -> Floats:
    """Of each row of a table of queries × items; NaN where nothing is relevant."""
    discounts = 1 / np.log2(np.arange(2, scores.shape[1] + 2))
    discounts[len(discounts) if k is None else k :] = 0
    ideal = np.sort(grades, axis=1)[:, ::-1] @ discounts
    order = np.argsort(-scores, axis=1, kind="stable")
    ranked, gains = np.take_along_axis(scores, order, axis=1), np.take_along_axis(grades, order, axis=1)
    gained = gains @ discounts
    for row in np.flatnonzero((np.diff(ranked, axis=1) == 0).any(axis=1)):
        starts = np.flatnonzero(np.append(True, np.diff(ranked[row]) != 0))
        shared = np.add.reduceat(discounts, starts) / np.diff(np.append(starts, len(discounts)))
        gained[row] = np.add.reduceat(gains[row], starts) @ shared
    return np.asarray(np.divide(gained, ideal, out=np.full(len(ideal), np.nan), where=ideal > 0))
