"""Numbers to numbers: `scale`, `standardize`, `clip`, `cast`.

    {op: scale, input: x, by: 0.0625, offset: -1}          x * by + offset; by 1 and offset 0 unless given
    {op: standardize, input: x, mean: [..], std: [..]}     (x - mean) / std, along `axis` (the last unless given);
                                                           one value for all, or one per position of that axis:
                                                           images in channels-first order say `axis: 1`
    {op: clip, input: x, min: 0, max: 1}                   what lies beyond an end becomes that end
    {op: cast, input: x, source_dtype: uint8}              clients send source_dtype; the model's dtype comes out

Arithmetic is done in the input's declared dtype, float16 in float32 and rounded once at the end of each step.
"""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import DType, PreprocessStep, Signature, TensorSpec
from serving.preprocess.operation import Found, Operation, Run, along, check_along, check_float, work_dtype


def _check_scale(step: PreprocessStep, tensor: TensorSpec, _signature: Signature) -> Found:
    yield from check_float(step, tensor)
    if step.by is None and step.offset is None:
        yield "by", "scale needs by, offset or both"
    yield from _check_finite(by=step.by, offset=step.offset)
    if step.by == 0:
        yield "by", "must not be 0: every input would become the same"


def _scale(step: PreprocessStep, tensor: TensorSpec, _signature: Signature, _folder: Path | None) -> Run:
    work, dtype = work_dtype(tensor), tensor.dtype.numpy
    by, offset = work.type(1.0 if step.by is None else step.by), work.type(step.offset or 0.0)

    def run(array: NDArray[Any], _others: dict[str, Any]) -> NDArray[Any]:
        scaled: NDArray[Any] = array.astype(work, copy=False) * by
        scaled += offset
        return scaled.astype(dtype, copy=False)

    return run


def _check_standardize(step: PreprocessStep, tensor: TensorSpec, _signature: Signature) -> Found:
    yield from check_float(step, tensor)
    yield from check_along(step, tensor, {"mean": step.mean, "std": step.std})
    if step.std and any(value <= 0 for value in step.std):
        yield "std", "must be above 0"


def _standardize(step: PreprocessStep, tensor: TensorSpec, _signature: Signature, _folder: Path | None) -> Run:
    work, dtype = work_dtype(tensor), tensor.dtype.numpy
    mean, std = along(step.mean, step, tensor), along(step.std, step, tensor)

    def run(array: NDArray[Any], _others: dict[str, Any]) -> NDArray[Any]:
        standardized: NDArray[Any] = array.astype(work, copy=False) - mean
        standardized /= std
        return standardized.astype(dtype, copy=False)

    return run


def _check_clip(step: PreprocessStep, tensor: TensorSpec, _signature: Signature) -> Found:
    yield from check_float(step, tensor)
    if step.min is None and step.max is None:
        yield "min", "clip needs min, max or both"
    yield from _check_finite(min=step.min, max=step.max)
    if step.min is not None and step.max is not None and step.min >= step.max:
        yield "min", f"min {step.min:g} must be below max {step.max:g}"


def _clip(step: PreprocessStep, tensor: TensorSpec, _signature: Signature, _folder: Path | None) -> Run:
    work, dtype = work_dtype(tensor), tensor.dtype.numpy
    low, high = (None if end is None else work.type(end) for end in (step.min, step.max))

    def run(array: NDArray[Any], _others: dict[str, Any]) -> NDArray[Any]:
        clipped: NDArray[Any] = np.clip(array.astype(work, copy=False), low, high)
        return clipped.astype(dtype, copy=False)

    return run


def _check_cast(step: PreprocessStep, tensor: TensorSpec, _signature: Signature) -> Found:
    if step.source_dtype is None:
        yield "source_dtype", "cast needs source_dtype: the dtype that clients send"
    elif DType.STRING in (step.source_dtype, tensor.dtype):
        yield "source_dtype", "strings are not cast"
    elif not np.can_cast(step.source_dtype.numpy, tensor.dtype.numpy, casting="same_kind"):
        declared = f"{tensor.dtype.value}, the declared dtype of {tensor.name!r}"
        yield "source_dtype", f"{step.source_dtype.value} does not fit into {declared}"


def _cast(_step: PreprocessStep, tensor: TensorSpec, _signature: Signature, _folder: Path | None) -> Run:
    dtype = tensor.dtype.numpy
    return lambda array, _others: array.astype(dtype)


def _before_cast(step: PreprocessStep, tensor: TensorSpec) -> TensorSpec:
    return replace(tensor, dtype=step.source_dtype or tensor.dtype)


def _check_finite(**numbers: float | None) -> Found:
    for key, value in numbers.items():
        if value is not None and not isfinite(value):
            yield key, f"must be a finite number, not {value}"


SCALE = Operation(frozenset({"by", "offset"}), _check_scale, _scale)
STANDARDIZE = Operation(frozenset({"mean", "std", "axis"}), _check_standardize, _standardize)
CLIP = Operation(frozenset({"min", "max"}), _check_clip, _clip)
CAST = Operation(frozenset({"source_dtype"}), _check_cast, _cast, raw=_before_cast, first=True)
