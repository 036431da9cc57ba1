"""Two arrays of the same rows, element by element: equal up to rounding, or where they first differ and by how much.

The order in which training multiplied and subtracted is not known, so floating-point elements may differ by the
roundings of a few such operations. Each rounds by at most half a unit in the last place of its own result, however
small the final value is: 0.501 - 0.5 carries the error of 0.501. So the bound is on the magnitudes that the declared
steps went through (Higham 2002, "Accuracy and Stability of Numerical Algorithms", section 3.1), not on their result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import PreprocessStep, TensorSpec
from serving.preprocess import Preprocessing
from serving.preprocess.operation import along

#: Units in the last place of the largest magnitude: a conversion and up to three operations on either side, each half a
#: unit. float16 is computed in float32 on this side and rounded once; one unit lets the other side do so as well.
_UNITS = {"float16": 1.0, "float32": 4.0, "float64": 4.0}
ARITHMETIC = ("scale", "standardize", "clip", "impute")


@dataclass(frozen=True, slots=True)
class Case:
    """One of the model's inputs, and all that is known about how it comes about.

    `raw` are the rows as clients send them, `made` what the declared steps make of them, `fed` what training fed the
    model for them; `atol` is allowed beside rounding.
    """

    name: str
    raw: Mapping[str, NDArray[Any]]
    made: Mapping[str, NDArray[Any]]
    fed: Mapping[str, NDArray[Any]]
    preprocessing: Preprocessing
    atol: float

    @property
    def tensor(self) -> TensorSpec:
        return next(tensor for tensor in self.preprocessing.signature.inputs if tensor.name == self.name)

    @property
    def steps(self) -> tuple[PreprocessStep, ...]:
        """The steps of this input."""
        return tuple(step for step in self.preprocessing.steps if step.input == self.name)

    @property
    def expected(self) -> NDArray[Any]:
        return self.fed[self.name]

    @property
    def source(self) -> NDArray[Any]:
        """The raw column that this input is made of."""
        name = next((step.source for step in self.steps if step.source is not None), self.name)
        return self.raw[name]

    def only(self, rows: int) -> Case:
        """The first rows alone: enough to tell a cause by, and cheap to try many on."""
        first = {name: array[:rows] for name, array in self.raw.items()}
        fed = {name: array[:rows] for name, array in self.fed.items()}
        return replace(self, raw=first, made=self.preprocessing(first), fed=fed)


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs, in a clause, and its figures."""

    what: str
    evidence: dict[str, str | int | float | bool]


def difference(case: Case, made: NDArray[Any], expected: NDArray[Any]) -> Difference | None:
    """Where `made` differs from `expected`; None where it does not."""
    if made.shape != expected.shape:
        return Difference(
            f"training's has the shape {list(expected.shape)} for {len(expected)} rows, the declared steps give "
            f"{list(made.shape)}",
            {"training_shape": str(list(expected.shape)), "declared_shape": str(list(made.shape))},
        )
    wrong = ~close(case, made, expected)
    if not wrong.any():
        return None
    place = tuple(int(index) for index in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
    there, here = expected[place], made[place]
    count, share = int(wrong.sum()), wrong.mean()
    at = f"at row {place[0]}" + (f", position {list(place[1:])}" if len(place) > 1 else "")
    evidence: dict[str, str | int | float | bool] = {
        "row": place[0],
        "position": str(list(place[1:])),
        "training": _plain(there),
        "declared": _plain(here),
        "differing": count,
        "compared": int(wrong.size),
    }
    if expected.dtype.kind in "biuf":
        with np.errstate(invalid="ignore", over="ignore"):
            apart = np.abs(made.astype(np.float64) - expected.astype(np.float64))
        evidence["largest_difference"] = float(np.max(apart, where=np.isfinite(apart), initial=0.0))
    shown = f"training {_plain(there)}, the declared steps {_plain(here)}"
    return Difference(f"first {at}: {shown}; {count} of {wrong.size} values differ ({share:.2%})", evidence)


def close(case: Case, made: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.bool_]:
    """Which elements are equal up to rounding and `atol`."""
    if expected.dtype.kind != "f":
        same = np.asarray(made == expected)
        if not case.atol or expected.dtype.kind not in "iu":
            return same
        apart = np.abs(made.astype(np.float64) - expected.astype(np.float64))
        return np.asarray(same | (apart <= case.atol))
    there, here = expected.astype(np.float64), made.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(here - there)
        return np.asarray((here == there) | (apart <= case.atol + rounding(case, expected)))


def rounding(case: Case, expected: NDArray[Any]) -> NDArray[np.float64]:
    """How far rounding alone may take each element; infinities none."""
    unit = float(np.finfo(expected.dtype).eps) * _UNITS.get(expected.dtype.name, 4.0)
    size = np.abs(expected.astype(np.float64))
    magnitudes = _magnitudes(case)
    if magnitudes is not None and magnitudes.shape == size.shape:
        size = np.maximum(size, magnitudes)
    # Below the least normal number digits are lost, and some libraries round to zero there.
    return np.where(np.isfinite(size), unit * size + float(np.finfo(expected.dtype).tiny), 0.0)


def _magnitudes(case: Case) -> NDArray[np.float64] | None:
    """The largest magnitude that each element went through in the declared arithmetic; None where there is none."""
    arithmetic = [step for step in case.steps if step.op in ARITHMETIC]
    if not arithmetic:
        return None
    others = tuple(step for step in case.preprocessing.steps if step not in arithmetic)
    before = Preprocessing(others, case.preprocessing.signature, case.preprocessing.folder)
    size = np.abs(before(case.raw)[case.name].astype(np.float64))
    tensor = case.tensor
    for step in arithmetic:
        match step.op:
            case "scale":
                size = size * abs(1.0 if step.by is None else step.by) + abs(step.offset or 0.0)
            case "standardize":
                std = along(step.std, step, tensor).astype(np.float64)
                size = (size + np.abs(along(step.mean, step, tensor).astype(np.float64))) / std
            case "impute":
                size = np.where(np.isnan(size), np.abs(along(step.fill, step, tensor).astype(np.float64)), size)
    return size


def _plain(value: Any) -> str | int | float | bool:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.7g}") if np.isfinite(value) else str(value)
    return value if isinstance(value, bool | int) else str(value)
