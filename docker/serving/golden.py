"""Golden samples: raw inputs and the source model's answers, and what keeping to them means.

An `.npz` of `input/<name>` (what clients send) and `output/<name>` (what the source model answered). An answer keeps to
them when names, dtypes and shapes are equal, NaN and infinities are where they are in the source's answer, and
`|answer - expected| <= atol + rtol * |expected|` in float64; booleans, integers and strings within the same rule where
they are numbers, equal where they are not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import DimRange, Signature, Tolerance


@dataclass(frozen=True, slots=True)
class Golden:
    """Inputs and expected outputs by name; along the batch dimension where the signature has one."""

    inputs: dict[str, NDArray[Any]]
    outputs: dict[str, NDArray[Any]]

    def batches(self, signature: Signature, rows: int) -> Iterator[Golden]:
        """The samples in batches of at most `rows`, within the batch dimension's range; whole without one.

        Rows that are left over and too few for the range are taken from the end again.
        """
        if signature.batch is None:
            yield self
            return
        allowed = signature.dynamic.get(signature.batch, DimRange(1, rows))
        size = max(allowed.min, min(rows, allowed.max))
        total = min(len(array) for array in (*self.inputs.values(), *self.outputs.values()))
        for start in range(0, total, size):
            first = start if start + size <= total or total - start >= allowed.min else max(0, total - allowed.min)
            yield self._rows(slice(first, first + size))

    def _rows(self, rows: slice) -> Golden:
        return Golden(
            {name: array[rows] for name, array in self.inputs.items()},
            {name: array[rows] for name, array in self.outputs.items()},
        )


@dataclass(frozen=True, slots=True)
class Margin:
    """How far answers of one output lie from the expected ones: the largest `|answer - expected|`, and the largest
    share that it takes of what is allowed there. Above 1 is a wrong answer; infinite where nothing may differ and
    something does, or where there is no number to measure."""

    difference: float = 0.0
    of_allowed: float = 0.0

    def worst(self, other: Margin) -> Margin:
        """What both together come to."""
        return Margin(max(self.difference, other.difference), max(self.of_allowed, other.of_allowed))


def merge(*found: Mapping[str, Margin]) -> dict[str, Margin]:
    """The worst of all, by output."""
    worst: dict[str, Margin] = {}
    for one in found:
        for name, margin in one.items():
            worst[name] = margin.worst(worst.get(name, Margin()))
    return worst


def read_golden(path: Path) -> Golden:
    """Read the samples; pickles are refused.

    Raises:
        ValueError: it is not such a file, or holds no samples.
    """
    inputs: dict[str, NDArray[Any]] = {}
    outputs: dict[str, NDArray[Any]] = {}
    with np.load(path, allow_pickle=False) as archive:
        for key in archive.files:
            kind, _, name = key.partition("/")
            array = archive[key]
            if array.dtype.kind in "US":  # strings, and the bytes of images
                array = array.astype(object)
            if kind == "input":
                inputs[name] = array
            elif kind == "output":
                outputs[name] = array
    if not inputs or not outputs:
        raise ValueError(f"{path.name} holds no golden samples")
    return Golden(inputs, outputs)


def differences(
    answers: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]], tolerances: Mapping[str, Tolerance]
) -> tuple[str, ...]:
    """A sentence for each expected output that the answers do not keep to; empty when they do."""
    return tuple(
        sentence
        for name, wanted in expected.items()
        if (sentence := _difference(name, answers.get(name), wanted, tolerances.get(name, Tolerance(0.0, 0.0))))
    )


def margins(
    answers: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]], tolerances: Mapping[str, Tolerance]
) -> dict[str, Margin]:
    """How near each output is to being wrong, as far as it can be measured: numbers of the expected dtype and shape."""
    return {
        name: _margin(answers[name], wanted, tolerances.get(name, Tolerance(0.0, 0.0)))
        for name, wanted in expected.items()
        if wanted.dtype != object
        and name in answers
        and (answers[name].dtype, answers[name].shape) == (wanted.dtype, wanted.shape)
    }


def _margin(answer: NDArray[Any], wanted: NDArray[Any], tolerance: Tolerance) -> Margin:
    # In its own dtype, as in `_difference`: what is equal is no distance away, infinities and NaN too.
    unequal = ~((answer == wanted) | ((answer != answer) & (wanted != wanted)))  # noqa: PLR0124  only NaN is not itself
    if not unequal.any():
        return Margin()
    left, right = answer[unequal].astype(np.float64), wanted[unequal].astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        distance = np.nan_to_num(np.abs(left - right), nan=np.inf, posinf=np.inf)
        allowed = np.where(np.isfinite(right), tolerance.atol + tolerance.rtol * np.abs(right), 0.0)
        share = np.where(allowed > 0, distance / allowed, np.inf)
    return Margin(float(distance.max()), float(share.max()))


def as_json(found: Mapping[str, Margin]) -> list[dict[str, str | float | None]]:
    """Margins for programs; JSON has no infinity, so what is not finite is null."""
    return [
        {
            "output": name,
            "difference": margin.difference if math.isfinite(margin.difference) else None,
            "of_allowed": margin.of_allowed if math.isfinite(margin.of_allowed) else None,
        }
        for name, margin in found.items()
    ]


def _difference(name: str, answer: NDArray[Any] | None, wanted: NDArray[Any], tolerance: Tolerance) -> str | None:
    if answer is None:
        return f"output {name!r} is missing"
    if answer.dtype != wanted.dtype or answer.shape != wanted.shape:
        return (
            f"output {name!r}: expected {wanted.dtype} of shape {list(wanted.shape)}, "
            f"found {answer.dtype} of shape {list(answer.shape)}"
        )
    if wanted.dtype == object:
        unequal = np.array([str(left) != str(right) for left, right in zip(answer.flat, wanted.flat, strict=True)])
        return f"output {name!r}: {int(unequal.sum())} strings differ" if unequal.any() else None
    # Exactly, because float64 cannot tell integers beyond 2^53 apart.
    if wanted.dtype.kind in "biu" and tolerance == Tolerance(0.0, 0.0):
        unequal = answer != wanted
        return f"output {name!r}: {int(unequal.sum())} of {unequal.size} values differ" if unequal.any() else None
    left, right = answer.astype(np.float64), wanted.astype(np.float64)
    with np.errstate(invalid="ignore"):
        allowed = tolerance.atol + tolerance.rtol * np.abs(right)
        # Infinity minus itself is NaN, so equality is asked first.
        close = (
            (left == right)
            | (np.isnan(left) & np.isnan(right))
            | (np.isfinite(right) & (np.abs(left - right) <= allowed))
        )
        if close.all():
            return None
        worst = float(np.nanmax(np.where(close, 0.0, np.abs(left - right)), initial=0.0))
    return (
        f"output {name!r}: {int((~close).sum())} of {close.size} values differ by up to {worst:.3g}, "
        f"allowed is {tolerance.atol:g} + {tolerance.rtol:g} × |expected|"
    )
