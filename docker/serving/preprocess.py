"""Declared preprocessing: raw inputs, as clients send them → what the model itself takes.

One implementation for the source model's evaluation, parity, the golden samples and every serving image, so that
training and production cannot drift apart. The operations (`OPERATIONS`) and their arguments in model.yaml:

    {op: scale, input: x, by: 0.0625, offset: -1}          x * by + offset; by 1 and offset 0 unless given
    {op: standardize, input: x, mean: [..], std: [..]}     (x - mean) / std, along `axis` (the last unless given);
                                                           one value for all, or one per position of that axis:
                                                           images in channels-first order say `axis: 1`
    {op: cast, input: x, source_dtype: uint8}              clients send source_dtype; the model's dtype comes out

Steps run in the order they are declared. A cast comes before an input's arithmetic, which is done in the input's
declared dtype (float16 in float32, rounded once at the end of each step). Names and shapes stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import DType, PreprocessStep, Signature, TensorSpec


@dataclass(frozen=True, slots=True)
class StepProblem:
    """One thing wrong with a declared step: which step (from 0), which of its keys, and a sentence."""

    step: int
    key: str
    message: str


@dataclass(frozen=True, slots=True)
class Operation:
    """One kind of step.

    `check(step, tensor)` yields (key, sentence) for what is wrong with the arguments; `run(step, array, tensor)` is
    the step itself, where `tensor` is the model's input as declared.
    """

    arguments: frozenset[str]
    check: Callable[[PreprocessStep, TensorSpec], list[tuple[str, str]]]
    run: Callable[[PreprocessStep, NDArray[Any], TensorSpec], NDArray[Any]]


def apply(
    steps: Sequence[PreprocessStep], inputs: Mapping[str, NDArray[Any]], signature: Signature
) -> dict[str, NDArray[Any]]:
    """Run `steps` over raw inputs of `raw_signature(signature, steps)`; the model's inputs, by name.

    The arrays that are given are never written to. They are taken as they are: whether they fit the raw signature is
    the caller's question (`serving.validation`).

    Raises:
        ValueError: a step is not one that `problems` accepts.
    """
    tensors = {tensor.name: tensor for tensor in signature.inputs}
    arrays = dict(inputs)
    for step in steps:
        operation, tensor = OPERATIONS.get(step.op), tensors.get(step.input)
        if operation is None or tensor is None or step.input not in arrays:
            raise ValueError(f"preprocess {step.op} of {step.input!r}: no such operation or input")
        # What leaves the dtype's range becomes infinite, which is for the caller to judge.
        with np.errstate(over="ignore", invalid="ignore"):
            arrays[step.input] = operation.run(step, arrays[step.input], tensor)
    return arrays


def raw_signature(signature: Signature, steps: Sequence[PreprocessStep]) -> Signature:
    """What clients send, where `signature` is what the model takes: casts undone, outputs and ranges as they are.

    Raises:
        ValueError: with every problem of the steps.
    """
    if found := problems(signature, steps):
        raise ValueError("; ".join(f"preprocess.{problem.step}.{problem.key}: {problem.message}" for problem in found))
    sources = {step.input: step.source_dtype for step in steps if step.source_dtype is not None}
    inputs = tuple(replace(tensor, dtype=sources.get(tensor.name, tensor.dtype)) for tensor in signature.inputs)
    return replace(signature, inputs=inputs)


def problems(signature: Signature, steps: Sequence[PreprocessStep]) -> tuple[StepProblem, ...]:
    """Everything that is wrong with `steps` for a model of `signature`; empty when they can run."""
    found: list[StepProblem] = []
    tensors = {tensor.name: tensor for tensor in signature.inputs}
    touched: set[str] = set()
    for index, step in enumerate(steps):
        operation, tensor = OPERATIONS.get(step.op), tensors.get(step.input)
        if operation is None:
            found.append(StepProblem(index, "op", f"no operation {step.op!r}; there are {', '.join(OPERATIONS)}"))
        if tensor is None:
            found.append(StepProblem(index, "input", f"no input {step.input!r}; there are {', '.join(tensors)}"))
        if operation is None or tensor is None:
            continue
        given = {field.name for field in fields(step) if getattr(step, field.name) is not None} - {"op", "input"}
        for key in sorted(given - operation.arguments):
            takes = " and ".join(sorted(operation.arguments))
            found.append(StepProblem(index, key, f"{step.op} takes {takes}, not {key}"))
        found += [StepProblem(index, key, message) for key, message in operation.check(step, tensor)]
        if step.op == "cast" and step.input in touched:
            found.append(StepProblem(index, "op", f"a cast must be the first step of its input {step.input!r}"))
        touched.add(step.input)
    return tuple(found)


# --- the operations -----------------------------------------------------------------------------------------------


def _check_float(step: PreprocessStep, tensor: TensorSpec) -> list[tuple[str, str]]:
    if tensor.dtype.is_float:
        return []
    return [("input", f"{step.op} needs a floating-point input, {tensor.name!r} is declared {tensor.dtype.value}")]


def _check_scale(step: PreprocessStep, tensor: TensorSpec) -> list[tuple[str, str]]:
    found = _check_float(step, tensor)
    if step.by is None and step.offset is None:
        found.append(("by", "scale needs by, offset or both"))
    for key, value in (("by", step.by), ("offset", step.offset)):
        if value is not None and not isfinite(value):
            found.append((key, f"must be a finite number, not {value}"))
    if step.by == 0:
        found.append(("by", "must not be 0: every input would become the same"))
    return found


def _scale(step: PreprocessStep, array: NDArray[Any], tensor: TensorSpec) -> NDArray[Any]:
    work, dtype = _work_dtype(tensor), tensor.dtype.numpy
    by, offset = 1.0 if step.by is None else step.by, step.offset or 0.0
    scaled: NDArray[Any] = array.astype(work) * work.type(by) + work.type(offset)
    return scaled.astype(dtype, copy=False)


def _check_standardize(step: PreprocessStep, tensor: TensorSpec) -> list[tuple[str, str]]:
    found = _check_float(step, tensor)
    rank = len(tensor.shape)
    axis = -1 if step.axis is None else step.axis
    size: int | str | None = tensor.shape[axis] if -rank <= axis < rank else None
    if rank and size is None:
        found.append(("axis", f"must lie between {-rank} and {rank - 1}, as {tensor.name!r} has {rank} dimensions"))
    for key, values in (("mean", step.mean), ("std", step.std)):
        if not values:
            found.append((key, f"standardize needs {key}: one value, or one per position of the axis"))
            continue
        if not all(isfinite(value) for value in values):
            found.append((key, "must be finite numbers"))
        if len(values) == 1:
            continue
        if isinstance(size, str):
            found.append((key, f"must be one value, because dimension {size!r} of {tensor.name!r} is dynamic"))
        elif size != len(values):
            found.append((key, f"has {len(values)} values; {tensor.name!r} has {size or 0} along axis {axis}"))
    if step.std and any(value <= 0 for value in step.std):
        found.append(("std", "must be above 0"))
    return found


def _standardize(step: PreprocessStep, array: NDArray[Any], tensor: TensorSpec) -> NDArray[Any]:
    work, dtype = _work_dtype(tensor), tensor.dtype.numpy
    axis = -1 if step.axis is None else step.axis

    def along(values: tuple[float, ...] | None) -> NDArray[Any]:
        constants = np.asarray(values, dtype=work)
        if constants.size == 1:
            return constants.reshape(())
        return constants.reshape([-1 if index == axis % array.ndim else 1 for index in range(array.ndim)])

    standardized: NDArray[Any] = (array.astype(work) - along(step.mean)) / along(step.std)
    return standardized.astype(dtype, copy=False)


def _check_cast(step: PreprocessStep, tensor: TensorSpec) -> list[tuple[str, str]]:
    if step.source_dtype is None:
        return [("source_dtype", "cast needs source_dtype: the dtype that clients send")]
    if DType.STRING in (step.source_dtype, tensor.dtype):
        return [("source_dtype", "strings are not cast")]
    if not np.can_cast(step.source_dtype.numpy, tensor.dtype.numpy, casting="same_kind"):
        return [
            (
                "source_dtype",
                f"{step.source_dtype.value} does not fit into {tensor.dtype.value}, "
                f"the declared dtype of {tensor.name!r}",
            )
        ]
    return []


def _cast(step: PreprocessStep, array: NDArray[Any], tensor: TensorSpec) -> NDArray[Any]:
    return array.astype(tensor.dtype.numpy)


def _work_dtype(tensor: TensorSpec) -> np.dtype[Any]:
    return np.promote_types(tensor.dtype.numpy, np.float32)


#: Name in model.yaml → operation.
OPERATIONS: dict[str, Operation] = {
    "scale": Operation(frozenset({"by", "offset"}), _check_scale, _scale),
    "standardize": Operation(frozenset({"mean", "std", "axis"}), _check_standardize, _standardize),
    "cast": Operation(frozenset({"source_dtype"}), _check_cast, _cast),
}
