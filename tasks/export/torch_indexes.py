"""Whether every index in a captured program lies inside what it indexes, whatever a request holds.

In: an ExportedProgram, and the span of each input's whole numbers. Out: nothing, or an `ExportFailure` that names the
input. Code that torch's compiler writes checks its indexes inside a parallel region, which an exception cannot leave:
one id that is not in an embedding's table ends the process (SIGABRT), and with it everybody else's requests.

An index that follows from no input's values (positions, constants) is the same for every request of that size, and
parity has asked for those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serving.contract import Signature
from tasks.export.conversion import ExportFailure
from tasks.export.input_spans import ANYTHING, Span, declared_span
from tasks.export.torch_diagnosis import place_of_node
from tasks.export.torch_spans import Spans, Values, arguments_of, name_of, size_of

if TYPE_CHECKING:
    import torch

#: What operators call the arguments that must lie inside something.
_INDEXES = ("index", "indices", "offsets", "target")


def refuse_open_indexes(program: torch.export.ExportedProgram, signature: Signature, made: Mapping[str, Span]) -> None:
    """`made` are the spans of the inputs that preprocessing makes; those of the others are the signature's.

    Raises:
        ExportFailure: an index that an input decides may lie outside.
    """
    core = program.run_decompositions()
    names = (str(name) for name in core.graph_signature.user_inputs)
    given = {
        name: Values(made.get(tensor.name, declared_span(tensor)), frozenset({tensor.name}), is_input=True)
        for name, tensor in zip(names, signature.inputs, strict=True)
    }
    for use in _uses(core, core.graph_module, given):
        if use.values.inputs and not use.is_inside:
            raise _failure(use, signature, made)


@dataclass(frozen=True, slots=True)
class _Use:
    """A value as an index into something of `size` entries; None where that is not known."""

    node: torch.fx.Node
    values: Values
    size: int | None
    from_end: bool

    @property
    def is_inside(self) -> bool:
        if self.size is None:
            return False
        least = -self.size if self.from_end else 0
        return least <= self.values.span.least and self.values.span.greatest < self.size


def _uses(
    program: torch.export.ExportedProgram, graph: torch.fx.GraphModule, given: Mapping[str, Values]
) -> Iterator[_Use]:
    """Every use of a value as an index, in the graph's order."""
    spans = Spans(program)
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            spans.give(node, given.get(node.name))
        if node.op != "call_function":
            continue
        branches = _branches(node, graph)
        deciding = frozenset[str]().union(*(spans.of(read).inputs for read in node.all_input_nodes))
        for branch in branches:  # what flows in may be anything
            flowing = (inner.name for inner in branch.graph.nodes if inner.op == "placeholder")
            yield from _uses(program, branch, dict.fromkeys(flowing, Values(ANYTHING, deciding)))
        yield from _indexes(node, spans)
        spans.follow(node, is_known=not branches)


def _branches(node: torch.fx.Node, graph: torch.fx.GraphModule) -> list[torch.fx.GraphModule]:
    """The graphs that a condition or a loop is given."""
    import torch

    held = (getattr(graph, str(read.target), None) for read in node.all_input_nodes if read.op == "get_attr")
    return [module for module in held if isinstance(module, torch.fx.GraphModule)]


def _indexes(node: torch.fx.Node, spans: Spans) -> Iterator[_Use]:
    """Where this operator takes a value as an index."""
    import torch

    given = arguments_of(node)
    for name in _INDEXES:
        indexes = given.get(name)
        for axis, index in enumerate(indexes if isinstance(indexes, list | tuple) else [indexes]):
            if not isinstance(index, torch.fx.Node) or getattr(index.meta.get("val"), "dtype", None) is torch.bool:
                continue  # a mask has the shape of what it is laid over
            size, from_end = _indexed(name_of(node), name, given, axis)
            yield _Use(node, spans.of(index), size, from_end)


def _indexed(operator: str, name: str, given: Mapping[str, Any], axis: int) -> tuple[int | None, bool]:
    """Of how many entries an operator's argument is an index, and whether it may count from their end."""
    if operator in ("embedding", "_embedding_bag", "_embedding_bag_forward_only") and name == "indices":
        return size_of(given["weight"], 0), False
    if operator in ("index", "index_put", "_unsafe_index", "_unsafe_index_put"):
        return size_of(given["self"], axis), True
    if name == "index" and {"self", "dim"} <= set(given):
        return size_of(given["self"], given["dim"]), operator == "select"
    return None, False


def _failure(use: _Use, signature: Signature, made: Mapping[str, Span]) -> ExportFailure:
    place, names = place_of_node(use.node), " and ".join(sorted(use.values.inputs))
    into = f"{place}, {name_of(use.node)}" if place.module else name_of(use.node)
    evidence: dict[str, str | int | float | bool] = {"input": names, "operator": str(use.node.target), **place.evidence}
    if use.size is None or not use.values.is_input:
        return ExportFailure(
            "EXPORT_INPUT_UNBOUNDED",
            f"an index into {into} is computed from input {names!r}, and nothing shows that it always lies inside: "
            "compiled code ends the server's process where it does not",
            f"declare the range of {names!r} in model.yaml, or clamp the index in the model, as a whole number",
            evidence=evidence,
        )
    span, entries = use.values.span, f"0 to {use.size - 1}"
    evidence |= {"entries": use.size, "least": span.least, "greatest": span.greatest}
    (declared,) = (tensor.range or (None, None) for tensor in signature.inputs if tensor.name in use.values.inputs)
    if names in made:
        return ExportFailure(
            "EXPORT_INPUT_BEYOND_TABLE",
            f"preprocessing gives {span} for input {names!r}, which is an index into {into}, that has {entries}",
            "preprocess with the file that the model was trained with",
            evidence=evidence,
        )
    if None in declared:
        return ExportFailure(
            "EXPORT_INPUT_UNBOUNDED",
            f"input {names!r} is an index into {into}, which has {entries}, and its range is not declared: compiled "
            "code ends the server's process with an index that lies outside",
            f"declare range: [0, {use.size - 1}] for {names!r} in model.yaml, so that the server refuses such a "
            "request with 400",
            evidence=evidence,
        )
    return ExportFailure(
        "EXPORT_INPUT_BEYOND_TABLE",
        f"the spec declares the range {span} for input {names!r}, which is an index into {into}, that has {entries}",
        f"declare range: [0, {use.size - 1}] for {names!r} in model.yaml: the model has no answer beyond",
        evidence=evidence,
    )
