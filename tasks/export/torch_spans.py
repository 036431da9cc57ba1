"""What the whole numbers in a captured program can be, operator by operator.

In: a graph in core operators, and the span of each input. Out: the span of each node, and which inputs decide it. What
an operator without an entry here gives is anything, and so is every float: NaN, cast to an integer, is any number.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.export.input_spans import ANYTHING, YES_OR_NO, Span

if TYPE_CHECKING:
    import torch

#: Operators whose results hold values of their first argument and no others.
_MOVES = frozenset(
    {"alias", "amax", "amin", "as_strided", "clone", "contiguous", "detach", "diagonal", "embedding", "expand", "flip"}
    | {"gather", "index", "index_select", "lift_fresh", "lift_fresh_copy", "max", "min", "permute", "reshape", "roll"}
    | {"select", "slice", "sort", "split", "split_with_sizes", "squeeze", "t", "topk", "transpose", "unbind", "unfold"}
    | {"unsqueeze", "view", "_unsafe_view"}
)
#: Operators whose results hold values of these arguments and no others.
_JOINS = {
    "cat": ("tensors",),
    "constant_pad_nd": ("self", "value"),
    "full": ("fill_value",),
    "full_like": ("fill_value",),
    "masked_fill": ("self", "value"),
    "scalar_tensor": ("s",),
    "stack": ("tensors",),
    "where": ("self", "other"),
}
#: Operators that look at a tensor's size, and at none of its values.
_OF_SIZES = frozenset({"sym_size", "sym_numel", "full_like"})
#: Operators that give the place of something along `dim`, and as which of their results.
_PLACES = {"argmax": None, "argmin": None, "max": 1, "min": 1, "sort": 1, "topk": 1}


@dataclass(frozen=True, slots=True)
class Values:
    """What a node can be: its span, the inputs whose values decide it, and whether it is just an input's own values."""

    span: Span = ANYTHING
    inputs: frozenset[str] = frozenset()
    is_input: bool = False


class Spans:
    """The values of one graph's nodes, each told in the graph's order."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        self._program = program
        self._known: dict[torch.fx.Node, Values] = {}

    def of(self, argument: Any) -> Values:
        """Of an operator's argument: a node, a list of them, or a number."""
        import torch

        if isinstance(argument, torch.fx.Node):
            return self._known.get(argument, Values())
        if isinstance(argument, list | tuple):
            parts = [self.of(part) for part in argument]
            return Values(_hull([part.span for part in parts]), frozenset().union(*(part.inputs for part in parts)))
        return Values(Span(argument, argument)) if isinstance(argument, int) else Values()

    def give(self, node: torch.fx.Node, values: Values | None) -> None:
        """What flows into a placeholder; None where it is a weight, a buffer or a constant."""
        self._known[node] = self._held(node) if values is None else values

    def follow(self, node: torch.fx.Node, *, is_known: bool = True) -> None:
        """An operator's result, of what is known of its arguments."""
        read = () if name_of(node) in _OF_SIZES else node.all_input_nodes
        inputs = frozenset[str]().union(*(self.of(before).inputs for before in read))
        found = self._result(node) if is_known else Values()
        span = _within_dtype(node, found.span)
        is_input = found.is_input and (found.inputs, found.span) == (inputs, span)
        self._known[node] = Values(span, inputs, is_input)

    def _held(self, node: torch.fx.Node) -> Values:
        """The whole numbers of a constant, where no call changes them."""
        signature = self._program.graph_signature
        target = {**signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants}.get(node.name)
        if target is None or target in signature.buffers_to_mutate.values():
            return Values()
        tensor = self._program.state_dict.get(target, self._program.constants.get(target))
        if tensor is None or tensor.is_floating_point() or tensor.is_complex() or not tensor.numel():
            return Values()
        return Values(Span(int(tensor.min()), int(tensor.max())))

    def _result(self, node: torch.fx.Node) -> Values:
        import torch

        if isinstance(value := node.meta.get("val"), torch.SymInt):
            return Values(self._number(value))
        if node.target is operator.getitem:
            return self._one_of(*node.args)
        name, given = name_of(node), arguments_of(node)
        if name in _MOVES or (name == "_to_copy" and _is_whole(given["self"])):
            return self.of(next(iter(given.values())))
        if name in _PLACES:
            return Values(self._places(node))
        return Values(self._computed(name, given))

    def _computed(self, name: str, given: Mapping[str, Any]) -> Span:
        if name in _JOINS:
            return _hull([self.of(given[key]).span for key in _JOINS[name]])
        if name == "clamp":
            return _clamp(*(None if end is None else self.of(end).span for end in given.values()))
        if name == "cumsum":
            each, most = self.of(given["self"]).span, self._size(given["self"], given["dim"])
            return Span(min(each.least * most, 0), max(each.greatest * most, 0))
        compute = _ARITHMETIC.get(name)
        return ANYTHING if compute is None else compute([self.of(value).span for value in given.values()])

    def _one_of(self, producer: Any, which: Any) -> Values:
        """One of an operator's several results."""
        name = name_of(producer)
        if which == _PLACES.get(name):
            return Values(self._places(producer))
        return self.of(producer) if name in _MOVES else Values()

    def _places(self, node: torch.fx.Node) -> Span:
        given = arguments_of(node)
        size = given.get("dim") is not None and size_of(given["self"], given["dim"])
        return Span(0, size - 1) if size else ANYTHING

    def _size(self, tensor: Any, axis: int) -> float:
        """The greatest that a dimension can have."""
        size = tensor.meta["val"].shape[axis]
        return size if isinstance(size, int) else self._number(size).greatest

    def _number(self, value: torch.SymInt) -> Span:
        """What the declared dimensions leave of a number that is computed from sizes."""
        from torch.utils._sympy.numbers import int_oo
        from torch.utils._sympy.value_ranges import bound_sympy

        found = bound_sympy(value.node.expr, self._program.range_constraints)
        ends = {int_oo: np.inf, -int_oo: -np.inf}
        return Span(*(float(ends.get(end, end)) for end in (found.lower, found.upper)))


def name_of(node: Any) -> str:
    """`aten.max.dim` → max; nothing where it is no operator of torch."""
    schema = getattr(node.target, "_schema", None)
    return "" if schema is None else str(schema.name).partition("::")[2]


def arguments_of(node: torch.fx.Node) -> dict[str, Any]:
    """All arguments that the operator has, by name, with those that are not given."""
    schema: Any = getattr(node.target, "_schema", None)
    if schema is None:
        return {}
    placed = dict(zip((argument.name for argument in schema.arguments), node.args, strict=False))
    return {item.name: ({**placed, **node.kwargs}).get(item.name, item.default_value) for item in schema.arguments}


def size_of(tensor: Any, axis: Any) -> int | None:
    """The size of a dimension; None where it is not the same for all requests."""
    value = getattr(tensor, "meta", {}).get("val")
    if value is None or not isinstance(axis, int) or not -value.dim() <= axis < value.dim():
        return None
    size = value.shape[axis]
    return size if isinstance(size, int) else size.node.maybe_as_int()


# --- arithmetic ---------------------------------------------------------------------------------------------------


def _within_dtype(node: torch.fx.Node, span: Span) -> Span:
    """What does not fit into the node's dtype comes round its other end."""
    import torch

    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return span  # a size, or several results: each is looked at when it is taken
    if value.dtype is torch.bool:
        return YES_OR_NO
    if value.is_floating_point() or value.is_complex():
        return ANYTHING
    limits = torch.iinfo(value.dtype)
    return span if limits.min <= span.least and span.greatest <= limits.max else Span(limits.min, limits.max)


def _is_whole(node: Any) -> bool:
    value = node.meta.get("val")
    return value is not None and not value.is_floating_point() and not value.is_complex()


def _hull(spans: Sequence[Span]) -> Span:
    return Span(min(span.least for span in spans), max(span.greatest for span in spans)) if spans else ANYTHING


def _least(*spans: Span) -> Span:
    return Span(min(span.least for span in spans), min(span.greatest for span in spans))


def _greatest(*spans: Span) -> Span:
    return Span(max(span.least for span in spans), max(span.greatest for span in spans))


def _clamp(value: Span | None, least: Span | None = None, greatest: Span | None = None) -> Span:
    found = value or ANYTHING
    found = found if least is None else _greatest(found, least)
    return found if greatest is None else _least(found, greatest)


def _product(a: Span, b: Span) -> Span:
    ends = [0.0 if 0 in (x, y) else x * y for x in a for y in b]
    return Span(min(ends), max(ends))


def _sum(spans: list[Span]) -> Span:
    """`a + alpha * b`"""
    more = _product(spans[1], spans[2])
    return Span(spans[0].least + more.least, spans[0].greatest + more.greatest)


def _difference(spans: list[Span]) -> Span:
    """`a - alpha * b`"""
    less = _product(spans[1], spans[2])
    return Span(spans[0].least - less.greatest, spans[0].greatest - less.least)


def _remainder(spans: list[Span]) -> Span:
    return Span(0, spans[1].greatest - 1) if spans[1].least > 0 else ANYTHING


def _arange(spans: list[Span]) -> Span:
    start, end, step = spans[:3]
    return Span(start.least, max(start.greatest, end.greatest - 1)) if step.least > 0 else ANYTHING


#: Operator of whole numbers → what it makes of its arguments' spans, in the order of its schema.
_ARITHMETIC: Mapping[str, Callable[[list[Span]], Span]] = {
    "add": _sum,
    "arange": _arange,
    "maximum": lambda spans: _greatest(*spans[:2]),
    "minimum": lambda spans: _least(*spans[:2]),
    "mul": lambda spans: _product(*spans[:2]),
    "neg": lambda spans: Span(-spans[0].greatest, -spans[0].least),
    "relu": lambda spans: _greatest(spans[0], Span(0, 0)),
    "remainder": _remainder,
    "sub": _difference,
}
