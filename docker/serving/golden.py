"""Golden samples: raw inputs and the source model's answers, and what keeping to them means.

An `.npz` of `input/<name>` (what clients send) and `output/<name>` (what the source model answered). An answer keeps to
them when names, dtypes and shapes are equal, NaN and infinities are where they are in the source's answer, and
`|answer - expected| <= atol + rtol * |expected|` in float64; booleans, integers and strings within the same rule where
they are numbers, equal where they are not.
"""

from __future__ import annotations

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
