"""Which value of an ONNX file is which value of the source. Pure.

In: a file's graph and the source's inner values. Out: names by names, and from them `Pair`s in the graph's order, each
with what it is computed from.

By name first: torch.onnx calls most values as the captured program calls its operators, tf2onnx as TensorFlow calls
its tensors, and a quantiser keeps names. Then by what torch.onnx noted beside a node. Last, for files of exporters that
keep only the modules' names (`/encoder/layers.0/norm1/Add_output_0`): the last value of a module is its output.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tasks.parity.divergence.onnx_graph import Graph, Operator
from tasks.parity.divergence.source_values import SourceValue

#: A scope's number, which TensorFlow counts per trace.
_COUNTED = re.compile(r"_\d+(?=[/:]|$)")

#: Notes that a value of the file is this value of the source, unless either has its counterpart already.
Take = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Pair:
    """A value of the file, the operator that computes it, and its counterpart.

    `upstream` are the nearest pairs that it is computed from, as numbers in the order of all pairs. `operators` are the
    file's from there to here, this one last; `stretch` are the source's values in between.
    """

    value: str
    operator: Operator
    source: SourceValue
    upstream: tuple[int, ...]
    operators: tuple[Operator, ...]
    stretch: tuple[SourceValue, ...]


def match(graph: Graph, values: Mapping[str, SourceValue], outputs: Mapping[str, str]) -> dict[str, str]:
    """The file's values → the source's, in the graph's order. `outputs` are known: the file's outputs → the source's.

    Each value of the source is taken once.
    """
    producers = graph.producers()
    found = {name: source for name, source in outputs.items() if name in producers and source in values}
    used = set(found.values())

    def take(value: str, source: str) -> None:
        if value not in found and source in values and source not in used:
            found[value] = source
            used.add(source)

    finished = _finished(graph)
    for value in producers:
        take(finished.get(value, value), value)
    _by_counted_name(list(producers), values, take)
    elements = _elements(values)
    for operator in reversed(graph.operators):  # the last node of an operator computes its result
        if operator.scopes:
            take(operator.outputs[0], elements.get(operator.scopes[-1], operator.scopes[-1]))
    _by_module(graph, values, take)
    return {value: found[value] for value in producers if value in found}


def _elements(values: Mapping[str, SourceValue]) -> dict[str, str]:
    """Operators that give a tuple of which one element is used → that element."""
    found: dict[str, list[str]] = {}
    for value in values.values():
        if value.name.startswith("getitem") and len(value.inputs) == 1:
            found.setdefault(value.inputs[0], []).append(value.name)
    return {whole: parts[0] for whole, parts in found.items() if len(parts) == 1}


def _finished(graph: Graph) -> dict[str, str]:
    """Values that tf2onnx finishes in a second operator: `Rsqrt:0` is the root, `Rsqrt__78:0` one over it."""
    found: dict[str, str] = {}
    for operator in graph.operators:
        for value in operator.inputs:
            stem, _, port = value.rpartition(":")
            if stem and re.fullmatch(re.escape(stem) + r"__\d+:" + re.escape(port), operator.outputs[0]):
                found[value] = operator.outputs[0]
    return found


def _by_counted_name(names: Sequence[str], values: Mapping[str, SourceValue], take: Take) -> None:
    """The same but for the numbers of scopes, where that leaves one on either side."""
    mine, theirs = _grouped(names), _grouped(list(values))
    for plain, candidates in mine.items():
        if "/" in plain and len(candidates) == 1 and len(theirs.get(plain, ())) == 1:
            take(candidates[0], theirs[plain][0])


def _grouped(names: Sequence[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_COUNTED.sub("", name), []).append(name)
    return groups


def _by_module(graph: Graph, values: Mapping[str, SourceValue], take: Take) -> None:
    mine: dict[str, str] = {}
    for operator in graph.operators:
        if operator.outputs[0].startswith("/") and not operator.scopes:
            path = operator.outputs[0].split("/")[1:-1]
            for depth in range(1, len(path) + 1):
                mine[".".join(path[:depth])] = operator.outputs[0]
    theirs: dict[str, str] = {}
    for value in values.values():
        parts = value.module.split(".") if value.module else []
        for depth in range(1, len(parts) + 1):
            theirs[".".join(parts[:depth])] = value.name
    for module, value_name in mine.items():
        if module in theirs:
            take(value_name, theirs[module])


def pairs_of(graph: Graph, found: Mapping[str, str], values: Mapping[str, SourceValue]) -> tuple[Pair, ...]:
    """The pairs in the graph's order, each with what it is computed from. `found` is what `match` found, or a part."""
    numbers: dict[str, int] = {}
    #: Value → the nearest pairs at or before it.
    nearest: dict[str, frozenset[int]] = {}
    between = _Between(values, frozenset(found.values()))
    producers = graph.producers()
    pairs: list[Pair] = []
    for operator in graph.operators:
        behind = frozenset[int]().union(*(nearest.get(name, frozenset()) for name in operator.inputs))
        for value in operator.outputs:
            nearest[value] = behind
            if value in found:
                source, way = values[found[value]], _way(operator, producers, found)
                numbers[value] = len(pairs)
                pairs.append(Pair(value, operator, source, tuple(sorted(behind)), way, between.of(source)))
                nearest[value] = frozenset([numbers[value]])
    return tuple(pairs)


def _way(last: Operator, producers: Mapping[str, Operator], found: Mapping[str, str]) -> tuple[Operator, ...]:
    """The operators between paired values and the last one, in order."""
    way, waiting = {last.index: last}, list(last.inputs)
    while waiting:
        value = waiting.pop()
        if value not in found and value in producers and producers[value].index not in way:
            way[producers[value].index] = producers[value]
            waiting.extend(producers[value].inputs)
    return tuple(way[index] for index in sorted(way))


@dataclass(frozen=True, slots=True)
class _Between:
    """The source's values that stand between paired ones."""

    values: Mapping[str, SourceValue]
    paired: frozenset[str]

    def of(self, source: SourceValue) -> tuple[SourceValue, ...]:
        found: dict[str, SourceValue] = {}
        waiting = list(source.inputs)
        while waiting:
            name = waiting.pop()
            if name in self.values and name not in self.paired and name not in found:
                found[name] = self.values[name]
                waiting.extend(self.values[name].inputs)
        return tuple(found.values())
