"""The operators of an ONNX file in the order in which they are computed: names, attributes, and where they came from.

In: a file. Out: a `Graph` of plain values. Weights are left where they are, but for the small constants that say what
an operator does (an epsilon, an axis).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

#: What torch.onnx notes about a node: the modules that it is in, their classes, and last the operator's own name.
_SCOPES, _CLASSES = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"
#: Constants of so many values are read along; weights are read one by one, when they are asked for.
_SMALL = 64

AttributeValue = float | int | str | tuple[int, ...] | tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Operator:
    """One node. `inputs` has what its inner graphs take from outside, too; absent ones are empty texts."""

    index: int
    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    scopes: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Graph:
    """A file's operators in order. `weights` are the names of its constants, `constants` the small ones' values.

    `beside` are the files in its folder that hold weights.
    """

    operators: tuple[Operator, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: frozenset[str]
    constants: Mapping[str, NDArray[Any]]
    beside: tuple[str, ...] = ()

    @property
    def values(self) -> tuple[str, ...]:
        """Every value that an operator computes."""
        return tuple(name for operator in self.operators for name in operator.outputs if name)

    def producers(self) -> dict[str, Operator]:
        """Value → the operator that computes it."""
        return {name: operator for operator in self.operators for name in operator.outputs if name}

    def consumers(self) -> dict[str, list[Operator]]:
        """Value → the operators that take it."""
        found: dict[str, list[Operator]] = {}
        for operator in self.operators:
            for name in dict.fromkeys(operator.inputs):
                found.setdefault(name, []).append(operator)
        return found


def read(path: Path) -> Graph:
    """The main graph of the file at `path`."""
    import onnx

    return graph_of(onnx.load(path, "protobuf", load_external_data=False))


def graph_of(model: onnx.ModelProto) -> Graph:
    """The main graph of a model."""
    from onnx import numpy_helper

    graph = model.graph
    weights = [item.name for item in graph.initializer]
    constants = {
        item.name: numpy_helper.to_array(item)
        for item in graph.initializer
        if int(np.prod(item.dims)) <= _SMALL and not item.external_data
    }
    operators: list[Operator] = []
    for node in graph.node:
        if node.op_type == "Constant":
            weights += node.output
            value = next((entry.t for entry in node.attribute if entry.name == "value"), None)
            if value is not None and int(np.prod(value.dims)) <= _SMALL:
                constants[node.output[0]] = numpy_helper.to_array(value)
            continue
        noted = {entry.key: entry.value for entry in node.metadata_props}
        operators.append(
            Operator(
                len(operators),
                node.op_type,
                node.name,
                (*node.input, *captured(node)),
                tuple(node.output),
                dict(_attributes(node)),
                _listed(noted.get(_SCOPES, "")),
                _listed(noted.get(_CLASSES, "")),
            )
        )
    given = tuple(item.name for item in graph.input if item.name not in set(weights))
    located = {entry.value for item in graph.initializer for entry in item.external_data if entry.key == "location"}
    return Graph(
        tuple(operators),
        given,
        tuple(item.name for item in graph.output),
        frozenset(weights),
        constants,
        tuple(sorted(located)),
    )


def weights(path: Path, names: Collection[str]) -> dict[str, NDArray[Any]]:
    """Some constants of the file at `path`, also where they lie in a file beside it."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path, "protobuf", load_external_data=False).graph
    folder = str(path.parent)
    return {item.name: numpy_helper.to_array(item, folder) for item in graph.initializer if item.name in names}


def _attributes(node: onnx.NodeProto) -> Iterator[tuple[str, AttributeValue]]:
    for entry in node.attribute:
        if entry.type == entry.FLOAT:
            yield entry.name, float(entry.f)
        elif entry.type == entry.INT:
            yield entry.name, int(entry.i)
        elif entry.type == entry.STRING:
            yield entry.name, entry.s.decode(errors="replace")
        elif entry.type == entry.INTS:
            yield entry.name, tuple(entry.ints)
        elif entry.type == entry.FLOATS:
            yield entry.name, tuple(entry.floats)


def captured(node: onnx.NodeProto) -> Iterator[str]:
    """What the node's inner graphs take from the graph around them."""
    for entry in node.attribute:
        for graph in [entry.g] if entry.type == entry.GRAPH else list(entry.graphs):
            own = {item.name for item in (*graph.input, *graph.initializer)}
            for inner in graph.node:
                yield from (name for name in (*inner.input, *captured(inner)) if name and name not in own)
                own.update(inner.output)
            yield from (item.name for item in graph.output if item.name not in own)


def _listed(text: str) -> tuple[str, ...]:
    """A list of strings as torch.onnx writes it: Python's own notation."""
    import ast

    try:
        found = ast.literal_eval(text) if text else ()
    except (SyntaxError, ValueError):
        return ()
    return tuple(str(item) for item in found) if isinstance(found, list | tuple) else ()
