"""Two versions' answers to the same rows: which rows are the same, and by what measure. Functions of arrays.

An answer is the same when it names the same class, where an output holds a value per class; else when it lies within
the tolerance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import Signature, TensorSpec, Tolerance
from serving.golden import differences
from tasks.parity.metrics import METRICS
from tasks.parity.reading import Reading
from tasks.release.shadow.requests import Arrays
from tasks.spec import EvaluationSpec


def together(first: Mapping[str, Tolerance], second: Mapping[str, Tolerance]) -> dict[str, Tolerance]:
    """How far two answers may lie apart that may each lie so far from the same source model's, by output.

    From |a - s| <= p + q|s| and |b - s| <= t + u|s| follows |b - a| <= p + t + (q + u)|s|, and from the first
    |s| <= (|a| + p) / (1 - q). An output that one of them has no tolerance for has none; neither where q is 1 or more,
    which bounds nothing.
    """
    found = {}
    for name in first.keys() & second.keys():
        one, two = first[name], second[name]
        if one.rtol < 1:
            relative = (one.rtol + two.rtol) / (1 - one.rtol)
            found[name] = Tolerance(one.atol + two.atol + relative * one.atol, relative)
    return found


@dataclass(frozen=True, slots=True)
class Measure:
    """By what an output's answers are the same: its class, or a tolerance."""

    name: str
    of_classes: bool
    tolerance: Tolerance

    def same(self, old: NDArray[Any], new: NDArray[Any], rows: int) -> NDArray[np.bool_]:
        """Row by row. Answers of another shape are the same only where they name classes."""
        by_row = old.ndim > 0 and old.ndim == new.ndim and len(old) == len(new) == rows
        if by_row and self.of_classes and old.dtype.kind == new.dtype.kind == "f":
            before, after = _classes(old, Reading.of(old)), _classes(new, Reading.of(old))
            if before.shape == after.shape:
                return _per_row(before == after) & ~_has_nan(new)
        return same_rows({self.name: old}, {self.name: new}, {self.name: self.tolerance}, rows)


def measures(
    raw: Signature, tolerances: Mapping[str, Tolerance], evaluation: EvaluationSpec | None
) -> tuple[Measure, ...]:
    """One for each output. The metrics say which outputs name classes; where none does, a value per class is taken for
    what it looks like: several floats a row."""
    asked: dict[str, list[bool]] = {}
    for metric in evaluation.metrics if evaluation is not None else ():
        if metric.name in METRICS and metric.callable is None:
            asked.setdefault(metric.output, []).append(METRICS[metric.name].of_classes)
    return tuple(
        Measure(
            tensor.name,
            any(asked[tensor.name]) if tensor.name in asked else _looks_like_classes(tensor),
            tolerances.get(tensor.name, Tolerance(0.0, 0.0)),
        )
        for tensor in raw.outputs
    )


def same_rows(old: Arrays, new: Arrays, tolerances: Mapping[str, Tolerance], rows: int) -> NDArray[np.bool_]:
    """Which rows keep to the tolerances, by the rule of golden samples (`serving.golden`)."""
    if not differences(new, old, tolerances):
        return np.ones(rows, dtype=bool)
    if any(
        name not in new or new[name].shape != array.shape or array.shape[:1] != (rows,) for name, array in old.items()
    ):
        return np.zeros(rows, dtype=bool)
    return np.array(
        [
            not differences(
                {name: new[name][row : row + 1] for name in old},
                {name: array[row : row + 1] for name, array in old.items()},
                tolerances,
            )
            for row in range(rows)
        ]
    )


def nan_rows(answers: Arrays, rows: int) -> NDArray[np.bool_]:
    """Which rows hold NaN in any output."""
    found = np.zeros(rows, dtype=bool)
    for array in answers.values():
        if array.dtype.kind == "f":
            found |= _has_nan(array) if array.ndim and len(array) == rows else bool(np.isnan(array).any())
    return found


def _looks_like_classes(tensor: TensorSpec) -> bool:
    return tensor.dtype.is_float and len(tensor.shape) > 1 and tensor.shape[-1] != 1


def _classes(answers: NDArray[Any], reading: Reading) -> NDArray[Any]:
    """The class that each row names: the highest value's; of one value a row, whether it is beyond the middle."""
    if answers.ndim > 1 and answers.shape[-1] > 1:
        return np.asarray(np.argmax(answers, axis=-1))
    return answers > (0.5 if reading is Reading.PROBABILITIES else 0.0)


def _per_row(values: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(values.reshape(len(values), -1).all(axis=1))


def _has_nan(answers: NDArray[Any]) -> NDArray[np.bool_]:
    return np.asarray(np.isnan(answers.reshape(len(answers), -1)).any(axis=1))
