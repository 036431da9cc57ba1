"""What a layer of a kind that is known to drift has in the file, and what in the source: one sentence. Pure.

In: a value of the source, the file's operators that compute it, and the file's constants. Out: what differs between the
two, where it can be seen; or what this kind of layer is known to differ by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.parity.divergence.onnx_graph import AttributeValue, Operator
from tasks.parity.divergence.source_values import SourceValue

Setting = float | int | str


@dataclass(frozen=True, slots=True)
class _Attribute:
    """One attribute of an ONNX operator, what it is when absent, and what sources call it."""

    name: str
    default: Setting | None
    source: tuple[str, ...]
    words: str


_EPSILON = _Attribute("epsilon", 1e-5, ("eps", "epsilon"), "epsilon")
_AXIS = _Attribute("axis", -1, ("dim", "axis"), "axis")
#: Operator → its attributes that converters get wrong. Defaults are those of the ONNX operator specifications.
_ATTRIBUTES: Mapping[str, tuple[_Attribute, ...]] = {
    "LayerNormalization": (_EPSILON,),
    "RMSNormalization": (_EPSILON,),
    "GroupNormalization": (_EPSILON,),
    "InstanceNormalization": (_EPSILON,),
    "BatchNormalization": (_EPSILON, _Attribute("training_mode", 0, ("train", "training"), "training mode")),
    "Gelu": (_Attribute("approximate", "none", ("approximate",), "approximation"),),
    "Softmax": (_AXIS,),
    "LogSoftmax": (_AXIS,),
    "Concat": (_Attribute("axis", None, ("dim", "axis"), "axis"),),
    "TopK": (_AXIS,),
    "ArgMax": (_Attribute("axis", 0, ("dim", "axis"), "axis"),),
    "LeakyRelu": (_Attribute("alpha", 0.01, ("negative_slope", "alpha"), "slope"),),
    "Elu": (_Attribute("alpha", 1.0, ("alpha",), "alpha"),),
    "Dropout": (_Attribute("training_mode", 0, ("train", "training"), "training mode"),),
}
#: Kind of layer → what is known of how its implementations differ.
_KNOWN: Mapping[str, str] = {
    "norm": "normalisation divides by the root of a variance plus epsilon, so another epsilon, a variance over other "
    "axes or of the batch shows in every value",
    "gelu": "GELU has an exact form (erf) and an approximation (tanh), which differ by up to 0.0005",
    "softmax": "a softmax over another axis has the same shape and other values",
    "resize": "resizing depends on how pixels are placed (align corners, half pixels) and on how they are rounded",
    "lstm": "recurrent layers order their gates differently from framework to framework",
    "gru": "recurrent layers order their gates differently, and reset before or after the product",
}
#: How ONNX's `Resize` says that the corners' centres meet, as PyTorch's and Keras's `align_corners` does.
_ALIGNED = "align_corners"
#: How different two settings are that are stored in float32 and in float64: no more than this, relatively.
_FLOAT32 = float(np.finfo(np.float32).eps)


def difference(
    source: SourceValue, operators: Sequence[Operator], constants: Mapping[str, NDArray[Any]], rank: int
) -> str:
    """What the operators (of one layer, in order) have that the source's settings have not; empty where nothing is.

    `constants` are the file's small constants by name; `rank` counts axes from the front.
    """
    found = _differences(source, operators, constants, rank)
    return found[0] if found else ""


def known(source: SourceValue, operators: Sequence[Operator]) -> str:
    """What is known of this kind of layer; empty where nothing is."""
    kind = f"{source.kind} {source.operator} {operators[-1].kind}".lower()
    return next((said for word, said in _KNOWN.items() if word in kind), "")


def _differences(
    source: SourceValue, operators: Sequence[Operator], constants: Mapping[str, NDArray[Any]], rank: int
) -> list[str]:
    found = []
    for operator in operators:
        for attribute in _ATTRIBUTES.get(operator.kind, ()):
            here = operator.attributes.get(attribute.name, attribute.default)
            there = next((source.settings[name] for name in attribute.source if name in source.settings), None)
            if attribute.name == "training_mode":  # ingest loads every source in inference mode
                there = 0
            if there is not None and here is not None and not _same(here, there, attribute.name == "axis", rank):
                found.append(f"the file's {attribute.words} is {_said(here)}, the module's {_said(there)}")
        if operator.kind == "Resize":
            found += _resize(operator, source.settings)
    return found + _spelled_out(source, operators, constants)


def _same(here: AttributeValue, there: Setting, axis: bool, rank: int) -> bool:
    if axis and isinstance(here, int) and isinstance(there, int):
        return here % max(rank, 1) == there % max(rank, 1)
    if isinstance(here, float | int) and isinstance(there, float | int):
        return abs(float(here) - float(there)) <= _FLOAT32 * max(abs(float(here)), abs(float(there)))
    return here == there


def _resize(operator: Operator, settings: Mapping[str, Setting]) -> list[str]:
    mode = str(operator.attributes.get("coordinate_transformation_mode", "half_pixel"))
    aligned = settings.get("align_corners")
    if aligned is None or bool(aligned) == (mode == _ALIGNED):
        return []
    return [f"the file's coordinate_transformation_mode is {mode}, the module's align_corners is {bool(aligned)}"]


def _spelled_out(
    source: SourceValue, operators: Sequence[Operator], constants: Mapping[str, NDArray[Any]]
) -> list[str]:
    """Layers that a converter wrote as several operators: the epsilon is a constant that is added, GELU shows by what
    it is made of."""
    epsilon = next((source.settings[name] for name in ("eps", "epsilon") if name in source.settings), None)
    found = []
    if isinstance(epsilon, float) and epsilon > 0:
        # An epsilon keeps a division from zero; whatever is a tenth or larger is not one.
        added = [
            float(constants[name].reshape(-1)[0])
            for operator in operators
            if operator.kind == "Add"
            for name in operator.inputs
            if name in constants and constants[name].size == 1 and 0 < abs(float(constants[name].reshape(-1)[0])) < 0.1
        ]
        if added and not any(_same(value, epsilon, False, 0) for value in added):
            found.append(f"the file's epsilon is {_said(added[0])}, the module's {_said(epsilon)}")
    if "gelu" in f"{source.kind} {source.operator} {source.settings.get('activation', '')}".lower():
        kinds = {operator.kind for operator in operators}
        exact = source.settings.get("approximate", "none") in ("none", False)
        if exact and "Tanh" in kinds and "Erf" not in kinds:
            found.append("the file's GELU is the tanh approximation, the module's is exact")
        if not exact and "Erf" in kinds and "Tanh" not in kinds:
            found.append("the file's GELU is exact, the module's is the tanh approximation")
    return found


def _said(value: AttributeValue) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
