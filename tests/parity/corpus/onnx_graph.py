"""Changing one thing in an ONNX graph, found by the module that it came from.

torch.onnx writes a node's modules into its metadata; what is inserted here carries those of the node that it follows,
as it would if the exporter had written it.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from tests.parity.corpus.fault import Good

_SCOPES = "pkg.torch.onnx.name_scopes"
FILE = "model.onnx"


def graph(change: Callable[[onnx.ModelProto], None]) -> Callable[[Good, Path], Path]:
    """A fault that changes the model in memory; the file is written anew."""

    @wraps(change)
    def inject(good: Good, folder: Path) -> Path:
        model = onnx.load(good.export)
        change(model)
        path = folder / FILE
        path.write_bytes(model.SerializeToString())
        return path

    return inject


def module_of(node: NodeProto) -> str:
    """The innermost module that a node came from; empty for the model itself."""
    found = {entry.key: entry.value for entry in node.metadata_props}
    scopes = ast.literal_eval(found[_SCOPES]) if _SCOPES in found else [""]
    return str(scopes[-2]) if len(scopes) > 1 else ""


def node_of(model: onnx.ModelProto, operator: str, module: str = "") -> NodeProto:
    """The first node of this operator, in this module where one is given."""
    return next(
        node for node in model.graph.node if node.op_type == operator and (not module or module_of(node) == module)
    )


def weight(model: onnx.ModelProto, name: str) -> NDArray[Any]:
    """A copy of an initializer's values."""
    return numpy_helper.to_array(_initializer(model, name)).copy()


def set_weight(model: onnx.ModelProto, name: str, values: NDArray[Any]) -> None:
    """Replace an initializer's values."""
    _initializer(model, name).CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))


def constant(model: onnx.ModelProto, name: str, values: NDArray[Any]) -> str:
    """A new initializer."""
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return name


def set_attribute(node: NodeProto, **attributes: Any) -> None:
    """Replace attributes of a node, or add them."""
    for name, value in attributes.items():
        kept = [attribute for attribute in node.attribute if attribute.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])


def before(value: str) -> str:
    """What a value that `follow` gave a new producer was called."""
    return f"{value}.before"


def follow(model: onnx.ModelProto, value: str, *nodes: NodeProto) -> None:
    """Put nodes behind the producer of `value`: they read `before(value)`, and the last of them gives `value`."""
    place, producer = next((place, node) for place, node in enumerate(model.graph.node) if value in node.output)
    producer.output[list(producer.output).index(value)] = before(value)
    for node in reversed(nodes):
        node.metadata_props.extend(producer.metadata_props)
        model.graph.node.insert(place + 1, node)


def lead(model: onnx.ModelProto, value: str, *nodes: NodeProto) -> None:
    """Put nodes in front of everything that reads an input or a weight: the last of them gives what is read instead."""
    readers = [node for node in model.graph.node if value in node.input]
    for node in readers:
        for place, name in enumerate(node.input):
            if name == value:
                node.input[place] = nodes[-1].output[0]
    for node in reversed(nodes):
        node.metadata_props.extend(readers[0].metadata_props)
        model.graph.node.insert(0, node)


def remove(model: onnx.ModelProto, node: NodeProto, passing: int = 0) -> None:
    """Take a node out; what it gave is what it was given."""
    for other in model.graph.node:
        for place, name in enumerate(other.input):
            if name == node.output[0]:
                other.input[place] = node.input[passing]
    model.graph.node.remove(node)


def rename(model: onnx.ModelProto, **names: str) -> None:
    """Give inputs, outputs or other values new names, all at once: two may change places."""
    for port in (*model.graph.input, *model.graph.output):
        port.name = names.get(port.name, port.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]


def fix(model: onnx.ModelProto, dimension: str, size: int) -> None:
    """Declare a named dimension of every input and output as a number."""
    for port in (*model.graph.input, *model.graph.output):
        for dim in port.type.tensor_type.shape.dim:
            if dim.dim_param == dimension:
                dim.dim_value = size
    del model.graph.value_info[:]


def flip(values: NDArray[np.float32], index: tuple[int, ...], bit: int) -> NDArray[np.float32]:
    """float32 with one bit of one value flipped: 31 is the sign, 30 to 23 the exponent, 22 to 0 the significand."""
    values.view(np.uint32)[index] ^= np.uint32(1 << bit)
    return values


def _initializer(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)
