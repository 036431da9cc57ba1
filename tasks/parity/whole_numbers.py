"""Whole numbers that are floats cut to a whole number: which outputs are that, and what a format's rounding may do.

In: a full-precision ONNX file. Out: the same file with, beside each whole-number output that it makes by rounding a
float, that float as a further output; and, from those floats and how far a format moves them, how far each whole number
may lie from the source's. The model is changed in memory, the file under test has no part in it.

A pixel or a count is a float until the last operator. Where a format may move the float by `a`, a faithful file answers
with any whole number from round(f - a) to round(f + a), `f` being the full-precision float and `round` what the model
does itself (IEEE 754-2019, 5.3.1: every rounding to whole numbers is monotone). Next to no threshold that is the same
number, and nothing is allowed.

A class has no such float: 2 is not nearer to 3 than to 7. Two conditions tell them apart, and whatever meets only one
stays exact: the graph must end in a cast of a float32 to a whole number, with nothing behind it but what moves, rounds
or clips values; and that float must be continuous, as seen under the format's rounding put in at random, where nearly
every draw gives a continuous value another value. The float that a table of classes or a comparison gives takes the
same few again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import TensorSpec

if TYPE_CHECKING:
    import onnx

#: How each operator makes a float whole; a cast alone cuts towards zero.
_ROUNDINGS = {"Floor": np.floor, "Ceil": np.ceil, "Round": np.rint, "Cast": np.trunc}
#: Operators that leave values what they are: they are done to the float as well, so that it has the output's shape.
_MOVING = {"Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}


@dataclass(frozen=True, slots=True)
class Rounded:
    """A whole-number output, the further output that holds its float, and the operator that makes that one whole."""

    output: str
    unrounded: str
    operator: str

    def allowed(
        self, expected: NDArray[Any], unrounded: NDArray[Any], reach: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """How far each value may lie from `expected`, where its float may move by `reach`, (*position).

        Nothing is allowed where `expected` is none of these whole numbers: it wrapped around, or is another model's.
        """
        rounded, middle = _ROUNDINGS[self.operator], unrounded.astype(np.float64)
        least, greatest = rounded(middle - reach), rounded(middle + reach)
        whole = expected.astype(np.float64)
        within = (least <= whole) & (whole <= greatest)
        return np.where(within, np.maximum(whole - least, greatest - whole), 0.0)


def with_unrounded(
    model: onnx.ModelProto, outputs: Sequence[TensorSpec]
) -> tuple[onnx.ModelProto, tuple[Rounded, ...]]:
    """A copy of the model that also gives the float of every rounded output; the model itself where there is none."""
    import onnx

    numbers = [tensor for tensor in outputs if tensor.dtype.numpy.kind in "iu"]
    if not numbers:
        return model, ()
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    inferred = onnx.shape_inference.infer_shapes(model).graph
    kinds = {
        value.name: value.type.tensor_type.elem_type
        for values in (inferred.input, inferred.output, inferred.value_info)
        for value in values
    }
    found = []
    for tensor in numbers:
        if (path := _path(tensor.name, makers, kinds)) is None:
            continue
        value, operator, kept = path
        for number, node in enumerate(reversed(kept)):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = copy.output[0] = f"{tensor.name}/unrounded/{number}"
            copy.input[0] = value
            changed.graph.node.append(copy)
            value = copy.output[0]
        name = f"{tensor.name}/unrounded"
        changed.graph.node.append(onnx.helper.make_node("Identity", [value], [name], name=name))
        changed.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        found.append(Rounded(tensor.name, name, operator))
    return changed, tuple(found)


def _path(
    output: str, makers: dict[str, onnx.NodeProto], kinds: dict[str, int]
) -> tuple[str, str, list[onnx.NodeProto]] | None:
    """The float behind an output, what rounds it, and what else is done between, the last first; None for others."""
    value, operator = output, ""
    kept: list[onnx.NodeProto] = []
    while (node := makers.get(value)) is not None and node.domain in ("", "ai.onnx"):
        if node.op_type in _MOVING or (operator and node.op_type == "Clip"):
            kept.append(node)
        elif operator and node.op_type in _ROUNDINGS and node.op_type != "Cast":
            operator = node.op_type
        elif not operator and node.op_type == "Cast" and kinds.get(node.input[0]) == 1:  # onnx.TensorProto.FLOAT
            operator = "Cast"
        else:
            break
        value = node.input[0]
    return (value, operator, kept) if operator else None


def is_continuous(draws: Sequence[NDArray[Any]]) -> bool:
    """Whether most values that move at all are another value in every draw; the others stand at the end of a range."""
    ordered = np.sort(np.stack(draws).astype(np.float64), axis=0)
    different = 1 + (np.diff(ordered, axis=0) != 0).sum(axis=0)
    moved = different[different > 1]
    return bool(moved.size) and float(np.median(moved)) == len(draws)
