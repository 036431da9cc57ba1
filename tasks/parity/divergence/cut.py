"""Pieces of an ONNX model whose operators are given the source's values instead of the model's own.

In: a model, the values that are wanted, and the values that are given. Out: a model of just the operators between
them. Given values come in as inputs under another name, so that an operator can both compute a value and hand the
source's version of it to the next: each operator is then asked alone, and nobody's error is passed on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.parity.divergence.onnx_graph import captured

if TYPE_CHECKING:
    import onnx

_GIVEN = "/given"


def given_name(value: str) -> str:
    """The name under which a piece takes the source's version of `value`."""
    return value + _GIVEN


class Pieces:
    """A model to cut, and the values (name → element type) at which it is cut."""

    def __init__(self, model: onnx.ModelProto, given: Mapping[str, np.dtype[Any]]) -> None:
        self._model, self._given = model, given
        self._producers = {name: index for index, node in enumerate(model.graph.node) for name in node.output if name}
        self._inputs = [(*node.input, *captured(node)) for node in model.graph.node]
        self._weights = {item.name: item.ByteSize() for item in model.graph.initializer}

    def weights_bytes(self, value: str) -> int:
        """How many bytes of weights stand between the given values and this one."""
        _, used = self._needed([value])
        return sum(self._weights.get(name, 0) for name in used)

    def piece(self, wanted: Iterable[str]) -> onnx.ModelProto:
        """The operators between the given values and the wanted ones, as a model with the latter as its outputs."""
        import onnx
        from onnx import helper

        wanted = list(wanted)
        nodes, used = self._needed(wanted)
        names = {value: given_name(value) for value in self._given}
        graph = self._model.graph
        found = onnx.ModelProto(ir_version=self._model.ir_version)
        found.opset_import.extend(self._model.opset_import)
        found.functions.extend(self._model.functions)
        found.graph.name = "piece"
        for index in nodes:
            _rename(found.graph.node.add(), graph.node[index], names)
        found.graph.initializer.extend(item for item in graph.initializer if item.name in used)
        found.graph.input.extend(item for item in graph.input if item.name in used and item.name not in self._weights)
        for value in sorted(used & set(self._given)):
            element = helper.np_dtype_to_tensor_dtype(self._given[value])
            found.graph.input.append(helper.make_tensor_value_info(names[value], element, None))
        for value in wanted:
            found.graph.output.add().name = value
        return found

    def _needed(self, wanted: Iterable[str]) -> tuple[list[int], set[str]]:
        """The operators that lead to `wanted`, in order, and all values that they take."""
        nodes, used, waiting = set[int](), set[str](), [self._producers[value] for value in wanted]
        while waiting:
            index = waiting.pop()
            if index in nodes:
                continue
            nodes.add(index)
            for value in self._inputs[index]:
                used.add(value)
                if value not in self._given and value in self._producers:
                    waiting.append(self._producers[value])
        return sorted(nodes), used


def _rename(copy: onnx.NodeProto, node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    copy.CopyFrom(node)
    copy.input[:] = [names.get(value, value) for value in node.input]
    for entry in copy.attribute:
        for graph in [entry.g] if entry.type == entry.GRAPH else list(entry.graphs):
            own = {item.name for item in (*graph.input, *graph.initializer)}
            own.update(value for inner in graph.node for value in inner.output)
            outer = {value: name for value, name in names.items() if value not in own}
            for inner in list(graph.node):
                _rename(inner, type(inner).FromString(inner.SerializeToString()), outer)
            for item in graph.output:
                item.name = outer.get(item.name, item.name)
