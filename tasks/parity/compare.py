"""One output of one batch: the export's answer against the source model's, value by value.

Functions of arrays. Nothing is broadcast: an answer of another shape is a mismatch, whatever NumPy could make of it.
Whole numbers are never subtracted in their own dtype, where unsigned ones wrap around; they are compared exactly, but
where an allowance says otherwise of a value (`tasks.parity.whole_numbers`). NaN and infinities must stand in the same
places with the same signs. Strings are compared exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import DType, TensorSpec
from tasks.parity.arrays import is_text

#: Whole numbers agree when they are nearer than this: the divisor that gives them a margin.
_EXACT = 0.5
_LARGEST = float(np.finfo(np.float64).max)


class Mismatch(StrEnum):
    """How an answer is wrong; the first that applies, in this order."""

    DTYPE = "dtype"
    SHAPE = "shape"
    NON_FINITE = "non-finite"
    VALUE = "value"


@dataclass(frozen=True, slots=True)
class Allowance:
    """How far an output may lie from the source's: `atol[position] + rtol * |expected|`.

    `atol` has the shape of one row of the output, so that no position borrows tolerance from a larger one; or of all
    rows, where each value has its own.
    """

    atol: NDArray[np.float64]
    rtol: float

    def of(self, expected: NDArray[np.float64]) -> NDArray[np.float64]:
        """The allowed difference of every value of `expected`, (rows, *position)."""
        if self.atol.shape not in (expected.shape, expected.shape[1:]):
            raise ValueError(f"an allowance for rows of {self.atol.shape} does not fit rows of {expected.shape[1:]}")
        with np.errstate(invalid="ignore", over="ignore"):
            return np.asarray(np.broadcast_to(self.atol, expected.shape) + self.rtol * np.abs(expected))


@dataclass(frozen=True, slots=True)
class Worst:
    """The value with the largest difference for what is allowed. `row` counts in the batch, `index` within the row."""

    row: int
    index: tuple[int, ...]
    expected: str
    got: str
    allowed: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was found for one output of one batch.

    `wrong_rows` marks the rows with at least one wrong value (all of them for a wrong dtype or shape). Figures are
    None where no finite value could be compared.
    """

    mismatch: Mismatch | None
    reason: str
    wrong_rows: NDArray[np.bool_]
    compared: int = 0
    max_abs_diff: float | None = None
    max_rel_diff: float | None = None
    worst_margin: float | None = None
    worst: Worst | None = field(default=None)


def compare(
    expected: NDArray[Any], answer: NDArray[Any], tensor: TensorSpec, allowance: Allowance | None
) -> Comparison:
    """Hold `answer` against `expected`, which has the rows of the batch and may be wider than the declared dtype.

    `allowance` is needed for floating-point outputs; whole numbers are compared exactly without one, or with one of 0.
    """
    everything = np.ones(len(expected), dtype=bool)
    if (dtype := dtype_problem(answer, tensor)) is not None:
        return Comparison(Mismatch.DTYPE, dtype, everything)
    if answer.shape != expected.shape:
        reason = f"the shape is {list(answer.shape)}, the source model's {list(expected.shape)}"
        return Comparison(Mismatch.SHAPE, reason, everything)
    if tensor.dtype is DType.STRING:
        wrong = np.asarray(answer.astype(object) != expected.astype(object), dtype=bool)
        return _judged(expected, answer, wrong.astype(np.float64), np.full(wrong.shape, _EXACT))
    if not tensor.dtype.is_float:
        exact = np.full(expected.shape, _EXACT)
        allowed = exact if allowance is None else np.maximum(exact, allowance.of(expected.astype(np.float64)))
        return _judged(expected, answer, _whole_difference(expected, answer), allowed)
    if allowance is None:
        raise ValueError(f"output {tensor.name!r} holds {tensor.dtype}, which needs an allowance")
    return _compare_floats(expected.astype(np.float64), answer.astype(np.float64), allowance)


def dtype_problem(answer: NDArray[Any], tensor: TensorSpec) -> str | None:
    """Why `answer` is not of the declared dtype, as a clause; None when it is."""
    if tensor.dtype is DType.STRING:
        return None if is_text(answer) else f"the dtype is {_element(answer)}, the spec declares string"
    if answer.dtype != tensor.dtype.numpy:
        return f"the dtype is {_element(answer)}, the spec declares {tensor.dtype.value}"
    return None


def _element(answer: NDArray[Any]) -> str:
    if answer.dtype == object:
        return "string" if is_text(answer) else "object"
    return "string" if answer.dtype.kind == "U" else str(answer.dtype)


def _whole_difference(expected: NDArray[Any], answer: NDArray[Any]) -> NDArray[np.float64]:
    """|answer - expected| of integers or booleans: 0 exactly where they are equal, else at least 1."""
    difference = np.abs(answer.astype(np.float64) - expected.astype(np.float64))
    return np.where(answer == expected, 0.0, np.maximum(difference, 1.0))


def _compare_floats(expected: NDArray[np.float64], answer: NDArray[np.float64], allowance: Allowance) -> Comparison:
    same = (expected == answer) | (np.isnan(expected) & np.isnan(answer))
    finite = np.isfinite(expected) & np.isfinite(answer)
    misplaced = ~finite & ~same
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.where(finite, np.abs(answer - expected), 0.0)
    if misplaced.any():
        place = _place(expected, answer, misplaced, 0.0)
        reason = (
            f"{int(misplaced.sum())} of {misplaced.size} values are NaN or infinite on one side only, or with another "
            f"sign; at {[place.row, *place.index]} {place.got} instead of {place.expected}"
        )
        wrong = misplaced.reshape(len(expected), -1).any(axis=1)
        return Comparison(Mismatch.NON_FINITE, reason, wrong, int(finite.sum()), worst=place)
    return _judged(expected, answer, difference, allowance.of(expected), finite)


def _judged(
    expected: NDArray[Any],
    answer: NDArray[Any],
    difference: NDArray[np.float64],
    allowed: NDArray[np.float64],
    counted: NDArray[np.bool_] | None = None,
) -> Comparison:
    counted = np.ones(difference.shape, dtype=bool) if counted is None else counted
    rows = len(expected)
    if not counted.any():
        return Comparison(None, "", np.zeros(rows, dtype=bool))
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        margin = np.where(difference == 0, 0.0, difference / allowed)
    margin = np.where(counted, np.minimum(np.nan_to_num(margin, nan=_LARGEST), _LARGEST), 0.0)
    wrong = margin > 1
    figures = {
        "compared": int(counted.sum()),
        "max_abs_diff": float(np.minimum(difference[counted].max(), _LARGEST)),
        "max_rel_diff": _relative(expected, difference, counted),
        "worst_margin": float(margin.max()),
    }
    where = margin == margin.max()
    worst = _place(expected, answer, where, float(allowed[np.unravel_index(int(np.argmax(margin)), margin.shape)]))
    if not wrong.any():
        return Comparison(None, "", np.zeros(rows, dtype=bool), **figures, worst=worst)  # type: ignore[arg-type]
    reason = (
        f"{int(wrong.sum())} of {wrong.size} values differ by more than is allowed, the worst at "
        f"{[worst.row, *worst.index]}: {worst.got} instead of {worst.expected}"
    )
    return Comparison(Mismatch.VALUE, reason, wrong.reshape(rows, -1).any(axis=1), **figures, worst=worst)  # type: ignore[arg-type]


def _relative(expected: NDArray[Any], difference: NDArray[np.float64], counted: NDArray[np.bool_]) -> float | None:
    if expected.dtype.kind not in "biuf":
        return None
    size = np.abs(expected.astype(np.float64))
    there = counted & (size > 0)
    if not there.any():
        return None
    with np.errstate(over="ignore"):
        return float(np.minimum((difference[there] / size[there]).max(), _LARGEST))


def _place(expected: NDArray[Any], answer: NDArray[Any], where: NDArray[np.bool_], allowed: float) -> Worst:
    index = tuple(int(position) for position in np.argwhere(where)[0])
    return Worst(index[0], index[1:], _said(expected[index]), _said(answer[index]), allowed)


def _said(value: Any) -> str:
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:39] + "…")
    return f"{value:.9g}" if isinstance(value, float | np.floating) else str(value)
