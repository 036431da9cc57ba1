"""Missing values: `impute`. Without it a request with NaN, or `null` in JSON, is refused.

    {op: impute, input: x, fill: [0.5, 12], indicator: x_missing}

What is missing becomes `fill`: one value for all, or one per position of `axis` (the last unless given), such as the
means of the training data. `indicator` names another input of the model, of the same shape: 1 where a value was
missing, 0 elsewhere.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import NanPolicy, PreprocessStep, Signature, TensorSpec
from serving.preprocess.operation import Found, Operation, Run, along, check_along, check_float


def _check(step: PreprocessStep, tensor: TensorSpec, signature: Signature) -> Found:
    yield from check_float(step, tensor)
    yield from check_along(step, tensor, {"fill": step.fill})
    indicator = next((other for other in signature.inputs if other.name == step.indicator), None)
    if indicator is None:
        return
    if indicator.shape != tensor.shape:
        yield "indicator", f"{indicator.name!r} must have the shape of {tensor.name!r}, as it says where values miss"
    if indicator.dtype.numpy.kind not in "biuf":
        yield "indicator", f"{indicator.name!r} must be numbers or booleans, it is declared {indicator.dtype.value}"


def _impute(step: PreprocessStep, tensor: TensorSpec, signature: Signature, _folder: Path | None) -> Run:
    dtype, fill, indicator = tensor.dtype.numpy, along(step.fill, step, tensor), step.indicator
    marks = {other.name: other.dtype.numpy for other in signature.inputs}

    def run(array: NDArray[Any], others: dict[str, Any]) -> NDArray[Any]:
        missing = np.isnan(array)
        if indicator is not None:
            others[indicator] = missing.astype(marks[indicator])
        if not missing.any():
            return array.astype(dtype, copy=False)
        return np.where(missing, fill.astype(dtype), array).astype(dtype, copy=False)

    return run


def _raw(_step: PreprocessStep, tensor: TensorSpec) -> TensorSpec:
    return replace(tensor, nan=NanPolicy.ACCEPT)


IMPUTE = Operation(frozenset({"fill", "axis", "indicator"}), _check, _impute, raw=_raw)
