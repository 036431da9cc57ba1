"""What training did otherwise with numbers: another factor or offset, mean or standard deviation, another fill.

`scale` and `standardize` are linear, so a changed constant shows as `training = a * declared + b`: for all values, or
for each position of an axis on its own. What training had follows from `a` and `b` and the last step's own constants.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import PreprocessStep
from serving.preprocess.operation import along, axis_of
from tasks.parity.skew.causes import Cause
from tasks.parity.skew.compare import Case, rounding

#: Digits to which constants are told: the fit carries the rounding of what it is fitted to.
_DIGITS = 4
#: Values to fit a line through: two always lie on one.
_LEAST = 3


@dataclass(frozen=True, slots=True)
class Line:
    """training = a * declared + b."""

    a: float
    b: float

    @property
    def is_identity(self) -> bool:
        return abs(self.a - 1) < 1e-6 and abs(self.b) < 1e-6


def explain(case: Case) -> Iterator[Cause]:
    """Another fill first: it is about some values alone. Then one line for all values, then one for each position."""
    made, expected = case.made[case.name], case.expected
    if made.shape != expected.shape or expected.dtype.kind != "f":
        return
    yield from _fill(case)
    whole = _line(case, made, expected, rounding(case, expected))
    if whole is not None:
        yield Cause("constants", _said(whole, case))
        return
    for axis in _axes(case):
        lines = _lines(case, axis)
        if lines is not None:
            moved = [index for index, line in enumerate(lines) if not line.is_identity]
            first = moved[0]
            where = f"position {first} of axis {axis}" + (f" (and {len(moved) - 1} others)" if len(moved) > 1 else "")
            yield Cause("constants", f"at {where}, {_said(lines[first], case, first)}")
            return


def _fill(case: Case) -> Iterator[Cause]:
    impute = next((step for step in case.steps if step.op == "impute"), None)
    if impute is None:
        return
    missing = np.isnan(case.source)
    made, expected = case.made[case.name].astype(np.float64), case.expected.astype(np.float64)
    if missing.shape != made.shape or not missing.any():
        return
    apart = np.abs(made - expected) > rounding(case, case.expected)
    if not apart.any() or (apart & ~missing).any():
        return
    place = tuple(int(index) for index in np.argwhere(apart)[0])
    sentence = "only values that are missing in the raw rows differ: training filled them in otherwise"
    if case.steps[-1] is impute:
        filled = np.broadcast_to(along(impute.fill, impute, case.tensor), made.shape)
        there, here = _number(expected[place]), _number(filled[place])
        sentence += f", the first with {there}, the declared step with {here}"
    yield Cause("fill", sentence)


def _axes(case: Case) -> list[int]:
    """The axes that constants lie along, in any step; then the last."""
    rank = len(case.tensor.shape)
    named = [axis_of(step) % rank for step in case.steps if step.op in ("standardize", "impute")]
    return [axis for axis in dict.fromkeys([*named, rank - 1]) if axis]


def _lines(case: Case, axis: int) -> list[Line] | None:
    """The line at each position of the axis; None where one of them is not."""
    made, expected = (np.moveaxis(array, axis, 0) for array in (case.made[case.name], case.expected))
    allowed = np.moveaxis(rounding(case, case.expected), axis, 0)
    lines = []
    for here, there, bound in zip(made, expected, allowed, strict=True):
        line = _line(case, here, there, bound)
        if line is None:
            return None
        lines.append(line)
    return lines


def _line(case: Case, made: NDArray[Any], expected: NDArray[Any], allowed: NDArray[Any]) -> Line | None:
    """The line through all values; None where they are on none."""
    x, y = made.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    bound = allowed.ravel()
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return None
    if (np.abs(x - y) <= bound + case.atol).all():
        return Line(1.0, 0.0)
    spread = np.ptp(x)
    if len(np.unique(x)) < _LEAST or not spread:
        return None
    low, high = int(np.argmin(x)), int(np.argmax(x))
    a = (y[high] - y[low]) / (x[high] - x[low])
    b = y[low] - a * x[low]
    slack = 4 * (bound.max() * (1 + abs(a)) + case.atol)
    if not a or (np.abs(a * x + b - y) > slack).any():
        return None
    return Line(float(a), float(b) if abs(b) > slack else 0.0)


def _said(line: Line, case: Case, position: int | None = None) -> str:
    """The line in words, and the constants that training had if only the last step's were others."""
    sentence = f"training's values are {_number(line.a)} times those of the declared steps"
    if line.b:
        sentence = f"training's values are {_number(line.a)} × those of the declared steps {line.b:+.{_DIGITS}g}"
    last = next((step for step in reversed(case.steps) if step.op in ("scale", "standardize")), None)
    if last is None:
        return sentence
    return f"{sentence}, as if {last.op} had {_constants(last, line, position)}"


def _constants(step: PreprocessStep, line: Line, position: int | None) -> str:
    if step.op == "scale":
        by, offset = 1.0 if step.by is None else step.by, step.offset or 0.0
        moved = line.a * offset + line.b
        said = f"by: {_number(line.a * by)}"
        near_zero = abs(moved) <= 1e-6 * max(abs(line.b), abs(offset))
        return said if near_zero else f"{said}, offset: {_number(moved)}"
    mean, std = (values[position] if position is not None and len(values) > 1 else values[0] for values in _of(step))
    said_mean, said_std = mean - line.b * std / line.a, std / line.a
    return f"mean {_number(said_mean)} and std {_number(said_std)}, not {_number(mean)} and {_number(std)}"


def _of(step: PreprocessStep) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return step.mean or (0.0,), step.std or (1.0,)


def _number(value: float) -> str:
    return f"{value:.{_DIGITS}g}"
