"""Asking the source model: its answers to whole pools, and to some rows under conditions that change only rounding.

In: a loaded source and model inputs. Out: answers as declared, and `Probe`s for `tasks.parity.tolerance`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import DType, Signature, TensorSpec
from tasks.ingest.sources import SourceModel
from tasks.parity.inputs import Batching
from tasks.parity.tolerance import AGAIN, ALONE, FLOAT64, MANY_THREADS, MOVED, REVERSED, SAFETY, Probe
from tasks.parity.twins import float64_twin

Answers = Mapping[str, NDArray[Any]]
#: How often inputs are moved: each direction is random, so that a row near an edge is likely to cross it once.
_MOVES = 4
#: How many rows are asked for one by one: eager frameworks take milliseconds for each.
_ALONE = 16


class SourceFailed(Exception):
    """The source model itself cannot answer, or not as the spec says; one sentence."""


@dataclass(frozen=True, slots=True)
class AskedSource:
    """A source model and how to ask it. `loader` and `signature` are the artifact's; `twin` is the same in float64."""

    model: SourceModel
    loader: str
    signature: Signature
    sizes: Batching
    twin: SourceModel | None = None

    @classmethod
    def of(
        cls, model: SourceModel, loader: str, signature: Signature, sizes: Batching, has_room: bool = True
    ) -> AskedSource:
        """With its twin, where one can be made and there `has_room` for it."""
        return cls(model, loader, signature, sizes, float64_twin(model, loader) if has_room else None)

    def answer(self, inputs: Answers, size: int | None = None, model: SourceModel | None = None) -> dict[str, Any]:
        """Answers to all rows of `inputs`, asked `size` rows at a time; a last batch that is too small is filled up.

        Raises:
            SourceFailed: the model raised, or its answers do not have one row per input row.
        """
        rows = len(next(iter(inputs.values())))
        size, least = size or self.sizes.chunk, self.sizes.sizes[0]
        parts: dict[str, list[NDArray[Any]]] = {tensor.name: [] for tensor in self.signature.outputs}
        for start in range(0, rows, size):
            kept = min(size, rows - start)
            taken = np.arange(start, start + max(kept, least)) % rows
            answers = self._ask({name: array[taken] for name, array in inputs.items()}, model or self.model)
            for name, part in parts.items():
                if answers[name].ndim == 0 or len(answers[name]) != len(taken):
                    raise SourceFailed(
                        f"the source model answers {len(taken)} rows with shape {list(answers[name].shape)} "
                        f"for output {name!r}"
                    )
                part.append(answers[name][:kept])
        return {name: np.concatenate(part) for name, part in parts.items()}

    def _ask(self, inputs: Answers, model: SourceModel) -> dict[str, NDArray[Any]]:
        try:
            answers = model.predict(inputs)
        except Exception as error:  # frameworks raise what they like; it becomes the reason
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
            raise SourceFailed(
                f"the source model raised {type(error).__name__} for {shapes}: {reason[:300]}"
            ) from error
        return {name: np.asarray(array) for name, array in answers.items()}

    def probes(
        self, inputs: Answers, answers: Answers, unit: float, generator: np.random.Generator
    ) -> tuple[Probe, ...]:
        """The same rows, to which the source gave `answers`, under every condition that can be had for this source.

        Raises:
            SourceFailed: the model cannot answer under one of them, such as single rows.
        """
        backwards = {name: array[::-1] for name, array in inputs.items()}
        found = [
            Probe(AGAIN, self.answer(inputs)),
            Probe(ALONE, self._alone(inputs, answers)),
            Probe(REVERSED, {name: array[::-1] for name, array in self.answer(backwards).items()}),
        ]
        if self.loader.startswith("torch"):
            with threads(self.loader, os.cpu_count() or 2):
                found.append(Probe(MANY_THREADS, self.answer(inputs)))
        found += self._twin(inputs)
        return (*found, *self.moved(inputs, unit, generator, _MOVES))

    def moved(self, inputs: Answers, unit: float, generator: np.random.Generator, times: int) -> tuple[Probe, ...]:
        """The same rows with every floating-point value moved by `SAFETY` units in the last place, up or down.

        None where no input is floating-point: there is nothing to move.
        """
        if not any(array.dtype.kind == "f" for array in inputs.values()):
            return ()
        return tuple(
            Probe(MOVED, self.answer({name: move(array, unit, generator) for name, array in inputs.items()}))
            for _ in range(times)
        )

    def _alone(self, inputs: Answers, answers: Answers) -> dict[str, NDArray[Any]]:
        """Some rows one by one (or as few at a time as the signature allows); the others as they were answered."""
        few = self.answer({name: array[:_ALONE] for name, array in inputs.items()}, self.sizes.sizes[0])
        return {name: np.concatenate([array, answers[name][_ALONE:]]) for name, array in few.items()}

    def _twin(self, inputs: Answers) -> list[Probe]:
        if self.twin is None:
            return []
        wide = {name: array.astype(np.float64) if array.dtype.kind == "f" else array for name, array in inputs.items()}
        try:
            answers = self.answer(wide, model=self.twin)
        except SourceFailed:  # casts inside the model can make float64 impossible: then there is no twin
            return []
        floats = [tensor.name for tensor in self.signature.outputs if tensor.dtype.is_float]
        if any(answers[name].dtype != np.float64 for name in floats):
            return []
        return [Probe(FLOAT64, answers)]


def as_declared(answers: Answers, outputs: tuple[TensorSpec, ...]) -> dict[str, NDArray[Any]]:
    """The source's answers in the declared dtypes; floating-point ones keep a greater width than declared.

    Raises:
        SourceFailed: an answer is of another kind, does not fit its declared dtype, or has another shape.
    """
    return {tensor.name: _as_declared(np.asarray(answers[tensor.name]), tensor) for tensor in outputs}


def _as_declared(answer: NDArray[Any], tensor: TensorSpec) -> NDArray[Any]:
    declared = list(tensor.shape)
    fits = answer.ndim == len(tensor.shape) and all(
        isinstance(size, str) or size == found for size, found in zip(tensor.shape[1:], answer.shape[1:], strict=True)
    )
    if not fits:
        raise SourceFailed(
            f"the source model gives output {tensor.name!r} in shape {list(answer.shape)}, the spec declares {declared}"
        )
    if tensor.dtype is DType.STRING and answer.dtype.kind in "OU":
        return answer.astype(object)
    if tensor.dtype.is_float and answer.dtype.kind == "f":
        narrow = np.dtype(answer.dtype).itemsize < tensor.dtype.numpy.itemsize
        return answer.astype(tensor.dtype.numpy) if narrow else answer
    if answer.dtype == tensor.dtype.numpy:
        return answer
    whole = answer.dtype.kind in "iu" and tensor.dtype.numpy.kind in "iu"
    cast = answer.astype(tensor.dtype.numpy) if whole else answer
    if not whole or not np.array_equal(cast, answer):
        raise SourceFailed(
            f"the source model gives output {tensor.name!r} as {answer.dtype}, the spec declares {tensor.dtype.value}"
        )
    return cast


def move(array: NDArray[Any], unit: float, generator: np.random.Generator) -> NDArray[Any]:
    if array.dtype.kind != "f":
        return array
    step = max(unit, float(np.finfo(array.dtype).eps) / 2) * SAFETY
    signs = generator.integers(0, 2, size=array.shape) * 2 - 1
    return np.asarray((array.astype(np.float64) * (1 + step * signs)).astype(array.dtype))


@contextlib.contextmanager
def threads(loader: str, count: int) -> Iterator[None]:
    """Let the source's framework compute with `count` threads, where that can be changed while it runs (torch)."""
    if not loader.startswith("torch"):
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
