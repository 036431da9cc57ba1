"""Weights and steps of a file in reduced precision: what its operators compute with, and how far that is rounded. Pure.

In: the operators on the way to a value, and their constants. Out: the weights as numbers, each with its step, so that
they can be held against the source's; and pairs of QuantizeLinear and DequantizeLinear that do not belong together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.parity.divergence.onnx_graph import Operator

#: Operators that take whole numbers and leave the scale to others: their weights cannot be told from one operator.
_WHOLE = frozenset({"MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv", "QGemm"})
#: The default of DequantizeLinear's `axis` (ONNX operator specification).
_AXIS = 1


@dataclass(frozen=True, slots=True)
class Held:
    """Weights by the names under which operators take them. `steps` are how far rounding may have moved each value:
    absent where it may not have.
    """

    weights: Mapping[str, NDArray[Any]]
    steps: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def step(self, name: str) -> NDArray[np.float64]:
        """Of each value, or one for all."""
        return self.steps.get(name, np.zeros(()))


def as_computed(operators: Sequence[Operator], constants: Mapping[str, NDArray[Any]]) -> Held:
    """The weights that the operators compute with: quantised ones multiplied out, scales and middles left away."""
    if any(operator.kind in _WHOLE for operator in operators):
        return Held({})
    weights, steps = dict(constants), dict[str, NDArray[np.float64]]()
    for operator in operators:
        if operator.kind not in ("DequantizeLinear", "QuantizeLinear"):
            continue
        for name in operator.inputs:
            weights.pop(name, None)
        values, scale, *middle = (constants.get(name) for name in operator.inputs)
        if operator.kind == "DequantizeLinear" and values is not None and scale is not None:
            axis = operator.attributes.get("axis", _AXIS)
            shape = [-1 if scale.ndim == 1 and number == axis else 1 for number in range(values.ndim)]
            step = scale.astype(np.float64).reshape(shape if scale.ndim else ())
            zero = 0 if not middle or middle[0] is None else middle[0].astype(np.float64).reshape(shape)
            weights[operator.outputs[0]] = ((values.astype(np.float64) - zero) * step).astype(np.float32)
            steps[operator.outputs[0]] = np.broadcast_to(step, values.shape)
    for name, array in weights.items():
        if array.dtype == np.float16:
            largest = float(np.abs(array.astype(np.float64)).max(initial=0.0))
            steps[name] = np.full(array.shape, float(np.finfo(np.float16).eps) * largest)
    return Held(weights, steps)


def mismatch(operators: Sequence[Operator], constants: Mapping[str, NDArray[Any]]) -> str:
    """Of a value that is quantised and taken back by another step or middle: what both are; empty where none is."""
    made = {operator.outputs[0]: operator for operator in operators if operator.kind == "QuantizeLinear"}
    for back in operators:
        there = made.get(back.inputs[0]) if back.kind == "DequantizeLinear" else None
        if there is None:
            continue
        for number, what in ((1, "step"), (2, "middle")):
            names = [operator.inputs[number] if len(operator.inputs) > number else "" for operator in (there, back)]
            first, second = (constants.get(name) for name in names)
            if first is not None and second is not None and not np.array_equal(first, second):
                return (
                    f"the file quantises {there.inputs[0]} by a {what} of {_said(first)} and takes it back by one of "
                    f"{_said(second)}"
                )
    return ""


def _said(value: NDArray[Any]) -> str:
    return f"{float(value.reshape(-1)[0]):.3g}"
