"""The full-precision file with rounding of a reduced format's size put in at random, where the format rounds.

In: an ONNX model, and what the format is. Out: ONNX models whose answers move as far as those of a faithful file of
that format do, differently every time they are run ("stochastic arithmetic": Vignes 2004, "Discrete stochastic
arithmetic for validating results of numerical software", Numer. Algorithms 37). Graphs are changed in memory, weights
are not even read: steps are computed by the graph itself.

Nothing here knows the file under test or the quantizer that wrote it: a wrong scale there must not widen what is
allowed here. What is known is the format (`tasks.export.onnx_int8` and docs/adr/0007, `tasks.export.onnx_float16`):

int8     the weights of `MatMul`, `Gemm` and `Conv` lie on a grid of 2 · 64 steps per output channel; what goes into
         them (and comes out of a `Conv`) on one of 255 steps. Static: of the range seen on the calibration rows, beyond
         which values are clipped. Dynamic: of the range in the batch; not for `Conv`.
float16  every weight and every computed value has 11 binary digits, below 2^-14 steps of 2^-24 (IEEE 754-2019, 3.6).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import onnx

#: Steps from zero to the largest weight of a channel: seven bits (docs/adr/0007).
_WEIGHT_STEPS = 64
#: Steps of eight bits from the least to the greatest value.
_VALUE_STEPS = 255
#: float16 rounds by at most half a unit: relative above its least normal number, absolute below (IEEE 754-2019, 3.6).
_FLOAT16_RELATIVE, _FLOAT16_ABSOLUTE = 2.0**-11, 2.0**-25
#: Operators that give values which they were given: nothing is rounded again.
_MOVING = {
    *("Concat", "Dropout", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Pad"),
    *("Relu", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
}
#: Inputs that stay in float32 when everything else becomes float16: sizes, not values.
_SIZES = {"Resize": (1, 2, 3), "Upsample": (1,), "Range": (0, 1, 2)}


class Span(NamedTuple):
    """The least and the greatest value of a tensor, zero included."""

    least: float
    greatest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Span:
        """Of some values."""
        found = [*values, 0.0]
        return cls(min(found), max(found))


@dataclass(slots=True)
class _Graph:
    """A copy of a model that grows: nodes before and after each of the original's, in an order that stays valid."""

    model: onnx.ModelProto
    first: list[onnx.NodeProto] = field(default_factory=list)
    before: dict[int, list[onnx.NodeProto]] = field(default_factory=dict)
    after: dict[int, list[onnx.NodeProto]] = field(default_factory=dict)
    made: int = 0

    @classmethod
    def of(cls, model: onnx.ModelProto) -> _Graph:
        copy = type(model)()
        copy.CopyFrom(model)
        del copy.graph.value_info[:]
        return cls(copy)

    def add(self, nodes: list[onnx.NodeProto], operator: str, inputs: list[str], **attributes: Any) -> str:
        """Add one node to `nodes`; the name of what it gives."""
        import onnx

        self.made += 1
        name = f"perturbed/{self.made}"
        nodes.append(onnx.helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def number(self, nodes: list[onnx.NodeProto], value: float) -> str:
        import onnx

        return self.add(nodes, "Constant", [], value=onnx.helper.make_tensor("", onnx.TensorProto.FLOAT, [], [value]))

    def reduce(self, nodes: list[onnx.NodeProto], operator: str, value: str, axes: list[int] | None) -> str:
        """`ReduceMax` or `ReduceMin` over some axes, which are kept with size one, or over all of them."""
        import onnx

        if axes is None:
            return self.add(nodes, operator, [value], keepdims=0)
        if self.opset < 18:
            return self.add(nodes, operator, [value], axes=axes, keepdims=1)
        kinds = onnx.helper.make_tensor("", onnx.TensorProto.INT64, [len(axes)], axes)
        return self.add(nodes, operator, [value, self.add(nodes, "Constant", [], value=kinds)], keepdims=1)

    @property
    def opset(self) -> int:
        return next((entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx")), 1)

    def moved(self, nodes: list[onnx.NodeProto], value: str, step: str) -> str:
        """`value` moved by at most half a `step`, up or down, each value on its own."""
        seed = float(self.made)
        draw = self.add(nodes, "RandomUniformLike", [value], low=-0.5, high=0.5, seed=seed)
        return self.add(nodes, "Add", [value, self.add(nodes, "Mul", [draw, step])])

    def instead(self, index: int, old: str, new: str) -> None:
        """Let one node take `new` where it took `old`."""
        node = self.model.graph.node[index]
        node.input[:] = [new if name == old else name for name in node.input]

    def everywhere(self, value: str, change: Any) -> None:
        """Let everybody take what `change(nodes, value)` makes of a value, outputs of the graph included."""
        import onnx

        graph = self.model.graph
        maker = next((index for index, node in enumerate(graph.node) if value in node.output), None)
        if maker is None:  # an input or a weight: it keeps its name
            new = change(self.first, value)
            for part in _graphs(graph):
                for node in part.node:
                    node.input[:] = [new if name == value else name for name in node.input]
            return
        exact = f"{value}/exact"
        graph.node[maker].output[:] = [exact if name == value else name for name in graph.node[maker].output]
        nodes = self.after.setdefault(maker, [])
        new = change(nodes, exact)
        nodes.append(onnx.helper.make_node("Identity", [new], [value], name=f"{value}/perturbed"))

    def finished(self) -> onnx.ModelProto:
        nodes = list(self.first)
        for index, node in enumerate(self.model.graph.node):
            nodes += [*self.before.get(index, []), node, *self.after.get(index, [])]
        copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del self.model.graph.node[:]
        self.model.graph.node.extend(copies)
        return self.model


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and those inside its control flow."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for part in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(part)


# --- int8 ---------------------------------------------------------------------------------------------------------


def _quantised(graph: onnx.GraphProto, *, convolutions: bool) -> Iterator[tuple[int, onnx.NodeProto]]:
    """The nodes that the format computes in integers: products with a constant float32 weight."""
    weights = {tensor.name for tensor in graph.initializer if tensor.data_type == 1}  # onnx.TensorProto.FLOAT
    operators = ("MatMul", "Gemm", *(("Conv",) if convolutions else ()))
    for index, node in enumerate(graph.node):
        if node.op_type in operators and node.domain in ("", "ai.onnx") and node.input[1] in weights:
            yield index, node


def rounded_values(model: onnx.ModelProto) -> tuple[str, ...]:
    """The values that static int8 rounds, in the graph's order."""
    found: dict[str, None] = {}
    for _, node in _quantised(model.graph, convolutions=True):
        found[node.input[0]] = None
        if node.op_type == "Conv":
            found[node.output[0]] = None
    return tuple(found)


def with_ranges(model: onnx.ModelProto, values: tuple[str, ...]) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The model with the least and the greatest of each value as further outputs (two for each, in order)."""
    import onnx

    graph = _Graph.of(model)
    nodes, names = graph.after.setdefault(len(model.graph.node) - 1, []), []
    for value in values:
        names += [graph.reduce(nodes, operator, value, None) for operator in ("ReduceMin", "ReduceMax")]
    done = graph.finished()
    done.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, []) for name in names)
    return done, tuple(names)


def static_int8(model: onnx.ModelProto, spans: Mapping[str, Span], size: float = 1.0) -> onnx.ModelProto:
    """Values clipped to their spans and moved by half a step of them; weights too. With `size` 0, only clipped."""
    graph = _Graph.of(model)

    def change(span: Span) -> Any:
        def clipped(nodes: list[onnx.NodeProto], value: str) -> str:
            low, high = (graph.number(nodes, end) for end in span)
            inside = graph.add(nodes, "Min", [graph.add(nodes, "Max", [value, low]), high])
            if not size:
                return inside
            return graph.moved(nodes, inside, graph.number(nodes, size * (span.greatest - span.least) / _VALUE_STEPS))

        return clipped

    if size:
        _move_weights(graph, size, convolutions=True)
    for value, span in spans.items():
        graph.everywhere(value, change(span))
    return graph.finished()


def dynamic_int8(model: onnx.ModelProto, size: float = 1.0) -> onnx.ModelProto:
    """Weights, and inputs of matrix products, moved by half a step; the inputs' range is the batch's."""
    graph = _Graph.of(model)
    _move_weights(graph, size, convolutions=False)
    for index, node in _quantised(model.graph, convolutions=False):
        nodes, value = graph.before.setdefault(index, []), node.input[0]
        zero = graph.number(nodes, 0.0)
        greatest = graph.add(nodes, "Max", [graph.reduce(nodes, "ReduceMax", value, None), zero])
        least = graph.add(nodes, "Min", [graph.reduce(nodes, "ReduceMin", value, None), zero])
        step = graph.add(
            nodes, "Mul", [graph.add(nodes, "Sub", [greatest, least]), graph.number(nodes, size / _VALUE_STEPS)]
        )
        graph.instead(index, value, graph.moved(nodes, value, step))
    return graph.finished()


def _move_weights(graph: _Graph, size: float, *, convolutions: bool) -> None:
    ranks = {tensor.name: len(tensor.dims) for tensor in graph.model.graph.initializer}
    moved: dict[tuple[str, int], str] = {}
    for index, node in list(_quantised(graph.model.graph, convolutions=convolutions)):
        weight = node.input[1]
        channel = _channel(node, ranks[weight])
        if (weight, channel) not in moved:
            nodes = graph.first
            axes = [axis for axis in range(ranks[weight]) if axis != channel] if ranks[weight] > 1 else None
            largest = graph.reduce(nodes, "ReduceMax", graph.add(nodes, "Abs", [weight]), axes)
            step = graph.add(nodes, "Mul", [largest, graph.number(nodes, size / _WEIGHT_STEPS)])
            moved[weight, channel] = graph.moved(nodes, weight, step)
        graph.instead(index, weight, moved[weight, channel])


def _channel(node: onnx.NodeProto, rank: int) -> int:
    """The axis of a weight along which outputs lie."""
    if node.op_type == "Conv":
        return 0
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if transposed else rank - 1


# --- float16 ------------------------------------------------------------------------------------------------------


def float16(model: onnx.ModelProto, size: float = 1.0) -> onnx.ModelProto:
    """Every float32 weight, input and computed value moved by half a unit of float16.

    Whole numbers are left alone: up to 2048 float16 has all of them, and sizes are sometimes computed in float.
    """
    graph = _Graph.of(model)

    def change(nodes: list[onnx.NodeProto], value: str) -> str:
        magnitude = graph.add(nodes, "Abs", [value])
        relative = graph.add(nodes, "Mul", [magnitude, graph.number(nodes, 2 * size * _FLOAT16_RELATIVE)])
        step = graph.add(nodes, "Add", [relative, graph.number(nodes, 2 * size * _FLOAT16_ABSOLUTE)])
        whole = graph.add(nodes, "Equal", [graph.add(nodes, "Floor", [value]), value])
        return graph.add(nodes, "Where", [whole, value, graph.moved(nodes, value, step)])

    for value in _float_values(model):
        graph.everywhere(value, change)
    return graph.finished()


def _float_values(model: onnx.ModelProto) -> tuple[str, ...]:
    import onnx

    graph, kind = onnx.shape_inference.infer_shapes(model).graph, onnx.TensorProto.FLOAT
    typed = {
        value.name
        for values in (graph.input, graph.output, graph.value_info)
        for value in values
        if value.type.tensor_type.elem_type == kind
    }
    sizes = {node.input[at] for node in graph.node for at in _SIZES.get(node.op_type, ()) if at < len(node.input)}
    weights = [tensor.name for tensor in graph.initializer if tensor.data_type == kind]
    inputs = [value.name for value in graph.input if value.name in typed and value.name not in weights]
    computed = [name for node in graph.node if node.op_type not in _MOVING for name in node.output if name in typed]
    return tuple(name for name in (*weights, *inputs, *computed) if name not in sizes)
