"""Rows where the source itself jumps: is the export's answer one that the source gives right beside the row?

Trees, argmax and rounding answer by thresholds. A row that lies within rounding of one is answered one way by the
source and another way by a faithful export. Such a row is excused only if the export's answer, all outputs of it
together, agrees with an answer that the source gives when the row is moved by a few units in the last place.

Functions of arrays; asking the source is the caller's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import TensorSpec
from tasks.parity.compare import Allowance, compare

#: How often a row that differs is moved: 2^-16 is the chance to miss an edge that half of the directions cross.
NEIGHBOURS = 16
#: At most this share of a pool's rows may stand on edges: more, and the comparison of the others proves too little.
MOST_ON_EDGE = 0.05


def may_be_edges(wrong: int, rows: int) -> bool:
    """Whether so few rows are wrong that edges can explain them."""
    return wrong <= MOST_ON_EDGE * rows


def excused(
    answer: Mapping[str, NDArray[Any]],
    expected: Mapping[str, NDArray[Any]],
    neighbours: tuple[Mapping[str, NDArray[Any]], ...],
    outputs: tuple[TensorSpec, ...],
    allowed: Mapping[str, Allowance],
    beside: Mapping[str, Allowance],
) -> NDArray[np.bool_]:
    """Which rows of `answer` agree with the same row of one neighbour, or of `expected`, in each of the outputs.

    `beside` is what may lie between an answer and a neighbour's, `allowed` between it and what is expected.

    All outputs have to agree with the same neighbour: a class and its scores do not jump apart from each other.
    """
    found = np.zeros(len(next(iter(answer.values()))), dtype=bool)
    for neighbour in neighbours:
        agrees = np.ones(len(found), dtype=bool)
        for tensor in outputs:
            given = answer[tensor.name]
            here = compare(expected[tensor.name], given, tensor, allowed[tensor.name])
            there = compare(neighbour[tensor.name], given, tensor, beside[tensor.name])
            agrees &= ~here.wrong_rows | ~there.wrong_rows
        found |= agrees
    return found
