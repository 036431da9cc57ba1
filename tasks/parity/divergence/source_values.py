"""The source's inner values: one module per kind of source that has any, loaded when it is met.

A module offers `open_values(source, signature) -> InnerValues`. Values are written to files one by one while the model
runs, together with what their own rounding allows, so that memory holds no more than the run itself needs.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from serving.contract import Signature
from tasks.ingest.sources import SourceModel
from tasks.parity.tolerance import SAFETY

#: Loader → the module that has its inner values. A loader that is absent has none.
_SOURCES = {
    "torch-state-dict": "tasks.parity.divergence.torch_values",
    "torch-export": "tasks.parity.divergence.torch_values",
    "keras": "tasks.parity.divergence.keras_values",
    "onnx": "tasks.parity.divergence.onnx_source_values",
}


@dataclass(frozen=True, slots=True)
class SourceValue:
    """A value inside the source: the module that computes it, the module's class, and the source's operator.

    `inputs` are the values that it is computed from, `settings` the operator's own numbers and words (an epsilon, an
    axis, an approximation).
    """

    name: str
    module: str
    kind: str
    operator: str
    inputs: tuple[str, ...]
    settings: Mapping[str, float | int | str]


@dataclass(frozen=True, slots=True)
class Written:
    """A value in a file, and how far another implementation may lie from it.

    `allowed` is for the whole way from the inputs, `alone` for this operator given the source's own inputs to it.
    Whole numbers (sizes, positions) are compared exactly.
    """

    file: Path
    size_bytes: int
    allowed: float
    alone: float
    whole_numbers: bool

    def read(self) -> NDArray[Any]:
        """The value."""
        return np.asarray(np.load(self.file, allow_pickle=False))


class InnerValues(Protocol):
    """A source that can be looked into."""

    @property
    def values(self) -> Mapping[str, SourceValue]:
        """Every inner value, by name, in the order in which they are computed."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Which of them are the signature's outputs, in its order; empty texts where none is."""

    def write(self, inputs: Mapping[str, NDArray[Any]], wanted: Collection[str], folder: Path) -> Mapping[str, Written]:
        """Run the model on a few rows and keep the wanted values, as far as they are tensors of numbers."""

    def parameters(self, module: str) -> Mapping[str, NDArray[Any]]:
        """A module's own weights, by their names in it."""


class _SourceModule(Protocol):
    def open_values(self, source: SourceModel, signature: Signature) -> InnerValues: ...


def open_values(source: SourceModel, loader: str, signature: Signature) -> InnerValues | None:
    """Look into the source; None where sources of its kind have no inner values."""
    if loader not in _SOURCES:
        return None
    return cast(_SourceModule, importlib.import_module(_SOURCES[loader])).open_values(source, signature)


def allowance(value: NDArray[Any], noise: float) -> float:
    """How far another implementation may lie: `SAFETY` times the noise, as in `tasks.parity.tolerance`, but one number
    for the whole value, because a few rows are too few to tell the noise of each position.

    Noise is at least one unit of rounding of the largest magnitude. Whole numbers agree or they do not.
    """
    if value.dtype.kind != "f":
        return 0.5
    size = np.where(np.isfinite(value), np.abs(value), 0)
    unit = float(np.finfo(value.dtype).eps) / 2
    tiny = float(np.finfo(value.dtype).tiny)
    return max(SAFETY * max(noise, unit * float(size.max(initial=0.0))), tiny)


def change(value: NDArray[Any], other: NDArray[Any]) -> float:
    """The largest difference between two versions of a value, where both are finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(np.subtract(value, other, dtype=np.float64))
    return float(np.where(np.isfinite(difference), difference, 0.0).max(initial=0.0))


def keep(value: NDArray[Any], file: Path, noise: float, near: float) -> Written:
    """Write a value, with the noise of the whole way to it and of its operator alone."""
    np.save(file, value, allow_pickle=False)
    return Written(file, value.nbytes, allowance(value, noise), allowance(value, near), value.dtype.kind != "f")
