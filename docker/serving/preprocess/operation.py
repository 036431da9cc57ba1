"""What an operation is: how its arguments are checked, what it makes of the raw signature, and how it runs.

One module per family holds the operations themselves; `serving.preprocess.OPERATIONS` is the table of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serving.contract import PreprocessStep, Signature, TensorSpec
from serving.tensors import BadRequest

#: Where and what is wrong with a step: a key of it, and a sentence.
Found = Iterator[tuple[str, str]]

#: A step, ready to run: from its input's value to the next. What it feeds beside it, it puts into the dictionary. A
#: value is an array, and between `decode_image` and the last of `resize` and `crop` an iterator of `images.Picture`.
Run = Callable[[Any, dict[str, Any]], Any]


class BadRow(BadRequest):
    """A value that a step can make nothing of: of which raw input, in which row of the request, and what is wrong."""

    def __init__(self, input: str, row: int, complaint: str) -> None:
        self.row, self.complaint = row, complaint
        super().__init__(f"input {input!r}: row {row}: {complaint}", input, "preprocess")


class BadFile(ValueError):
    """The file that a step names is not there, or not what the step needs; one sentence."""


def _nothing_wrong(steps: Sequence[PreprocessStep], tensor: TensorSpec) -> Iterator[tuple[PreprocessStep, str, str]]:
    return iter(())


@dataclass(frozen=True, slots=True)
class Operation:
    """One kind of step.

    `check(step, tensor, signature)` yields what is wrong with the arguments, where `tensor` is the model's input as
    declared; `check_chain(steps, tensor)` what is wrong with all steps of an input that begins with this operation.
    `prepare(step, tensor, signature, folder)` does once what need not be done for every request; step files lie in
    `folder`. `raw(step, tensor)` is what clients send so that the step makes `tensor` of it.

    `first`: it makes numbers of what is none, so it comes before all other steps of its input. `after`: the operation
    that must stand before it. `pictures`: it works on images before they are arrays. `extra`: the optional libraries
    that it needs.
    """

    arguments: frozenset[str]
    check: Callable[[PreprocessStep, TensorSpec, Signature], Found]
    prepare: Callable[[PreprocessStep, TensorSpec, Signature, Path | None], Run]
    raw: Callable[[PreprocessStep, TensorSpec], TensorSpec] = lambda step, tensor: tensor
    check_chain: Callable[[Sequence[PreprocessStep], TensorSpec], Iterator[tuple[PreprocessStep, str, str]]] = (
        _nothing_wrong
    )
    first: bool = False
    after: str | None = None
    pictures: bool = False
    extra: str | None = None


def feeds(step: PreprocessStep) -> dict[str, str]:
    """The model's inputs that a step fills beside its own: which, by the key that names it."""
    named = {"indicator": step.indicator, "mask": step.mask, "type_ids": step.type_ids}
    return {key: name for key, name in named.items() if name is not None}


def read_file(step: PreprocessStep, folder: Path | None) -> bytes:
    """The content of the step's file.

    Raises:
        BadFile: it cannot be read.
    """
    if folder is None:
        raise BadFile(f"{step.file} cannot be read: no folder with the files of preprocess was given")
    try:
        return (folder / str(step.file)).read_bytes()
    except OSError as error:
        raise BadFile(f"{step.file} cannot be read: {error.strerror}") from error


def work_dtype(tensor: TensorSpec) -> np.dtype[Any]:
    """In what arithmetic is done: the declared dtype, and at least single precision."""
    return np.promote_types(tensor.dtype.numpy, np.float32)


def check_float(step: PreprocessStep, tensor: TensorSpec) -> Found:
    """Arithmetic is for floating-point inputs."""
    if not tensor.dtype.is_float:
        yield "input", f"{step.op} needs a floating-point input, {tensor.name!r} is declared {tensor.dtype.value}"


def check_along(step: PreprocessStep, tensor: TensorSpec, constants: dict[str, tuple[float, ...] | None]) -> Found:
    """Constants are finite, and one for all or one per position of the step's axis."""
    rank, axis = len(tensor.shape), axis_of(step)
    size: int | str | None = tensor.shape[axis] if -rank <= axis < rank else None
    if rank and size is None:
        yield "axis", f"must lie between {-rank} and {rank - 1}, as {tensor.name!r} has {rank} dimensions"
    for key, values in constants.items():
        if not values:
            yield key, f"{step.op} needs {key}: one value, or one per position of the axis"
            continue
        if not np.isfinite(values).all():
            yield key, "must be finite numbers"
        if len(values) == 1:
            continue
        if isinstance(size, str):
            yield key, f"must be one value, because dimension {size!r} of {tensor.name!r} is dynamic"
        elif size != len(values):
            yield key, f"has {len(values)} values; {tensor.name!r} has {size or 0} along axis {axis}"


def axis_of(step: PreprocessStep) -> int:
    """The axis that a step's constants lie along; the last unless given."""
    return -1 if step.axis is None else step.axis


def along(values: tuple[float, ...] | None, step: PreprocessStep, tensor: TensorSpec) -> np.ndarray[Any, Any]:
    """Constants in the shape in which they are broadcast against the input, in the dtype that is computed in."""
    constants = np.asarray(values, dtype=work_dtype(tensor))
    if constants.size == 1:
        return constants.reshape(())
    rank = len(tensor.shape)
    return constants.reshape([-1 if index == axis_of(step) % rank else 1 for index in range(rank)])
