"""From two models and a few rows to a `Divergence`: the parts of this package, one after the other.

The file is asked twice. As a whole, from the inputs on: that is the drift, and says where the difference begins. Then
operator by operator, each given the source's own values: that says what each of them adds by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import Signature
from tasks.contracts import Divergence, LayerDrift
from tasks.ingest.sources import SourceModel
from tasks.parity.divergence import judge, layout, onnx_graph, onnx_values
from tasks.parity.divergence.cause import cause
from tasks.parity.divergence.onnx_graph import Graph
from tasks.parity.divergence.onnx_values import AskedValues
from tasks.parity.divergence.pairing import Pair, match, pairs_of
from tasks.parity.divergence.places import Found, hold
from tasks.parity.divergence.source_values import InnerValues, Written, open_values
from tasks.parity.source import threads

#: How many of the worst are named.
_WORST = 10
#: How many points the way through the graph has at most: a plot has no room for more, and reports stay small.
_DRIFT = 250


#: Said of a file in reduced precision in which no layer is named.
_NONE_STANDS_OUT = (
    "no layer is named: in %s every layer differs by its rounding, and none adds far more than the layers of other "
    "modules do; the worst are ranked"
)


@dataclass(frozen=True, slots=True)
class _Compared:
    """A pair's two comparisons: on the whole way, and alone where it could be asked so."""

    pair: Pair
    written: Written
    whole: Found
    alone: Found | None


def locate(
    source: SourceModel,
    loader: str,
    signature: Signature,
    path: Path,
    inputs: Mapping[str, NDArray[Any]],
    work: Path,
    precision: str = "full",
) -> Divergence | None:
    """See `tasks.parity.divergence.locate`."""
    total = 0
    try:
        graph = onnx_graph.read(path)
        total = len(graph.values)
        with threads(loader, 1):  # as parity asks the source: sums have one order
            inner = open_values(source, loader, signature)
            if inner is None:
                return None
            return located(inner, graph, signature, path, inputs, work / "divergence", precision)
    except Exception as error:  # noqa: BLE001 -- both models may raise anything; the verdict stands without a place
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
        note = f"the place could not be looked for: {type(error).__name__}: {reason[:300]}"
        return Divergence(first=None, compared=0, total=total, note=note)


def located(
    inner: InnerValues,
    graph: Graph,
    signature: Signature,
    path: Path,
    inputs: Mapping[str, NDArray[Any]],
    folder: Path,
    precision: str = "full",
) -> Divergence:
    """The same for a source that is open already, and that several files are held against; `folder` is new.

    Raises whatever the source raises when it is asked.
    """
    outputs = dict(zip((tensor.name for tensor in signature.outputs), inner.outputs, strict=True))
    names = match(graph, inner.values, outputs)
    written = inner.write(inputs, frozenset(names.values()), folder / "source")
    names = {value: name for value, name in names.items() if name in written}
    sizes = {value: written[name].size_bytes for value, name in names.items()}
    asked = onnx_values.ask(path, signature, graph.beside, inputs, sizes, folder / "whole")
    names = {value: name for value, name in names.items() if asked.value(value) is not None}
    compared = []
    for pair in pairs_of(graph, names, inner.values):
        own = written[pair.source.name]
        compared.append(_Compared(pair, own, hold(asked.read(pair.value), own.read(), own.allowed), None))
    given: dict[str, Path] = {}
    if any(item.pair.upstream for item in compared):  # else every operator was asked alone already
        sizes = {value: sizes[value] for value in names}
        given = _given(compared, asked, signature, folder)
        alone = onnx_values.ask(path, signature, graph.beside, inputs, sizes, folder / "alone", given)
        compared = [_with_alone(item, alone) for item in compared]
    start = _start(compared, signature, precision)
    found = _divergence(compared, graph, signature, asked, start)
    if start is None and precision != "full" and compared:
        return found.model_copy(update={"note": "; ".join(filter(None, [found.note, _NONE_STANDS_OUT % precision]))})
    if start is None or found.first is None:
        return found
    pairs = [item.pair for item in compared]

    def asked_with(values: dict[str, Path]) -> NDArray[Any] | None:
        name = pairs[start].value
        return onnx_values.ask(
            path, signature, graph.beside, inputs, {name: sizes[name]}, folder / "axes", values
        ).value(name)

    moved = layout.moved_before(start, pairs, [item.whole.axes for item in compared])
    if moved is not None and _right_when_moved_back(compared, start, given, asked_with):
        said = layout.sentence(compared[moved].whole.axes, pairs[start])
        return found.model_copy(update={"first": _as_it_is(compared[moved], asked), "explanation": said})
    why = cause(pairs[start], pairs, graph, path, inner, asked.read(pairs[start].value).ndim)
    named = found.first.model_copy(update={"module": why.module, "kind": why.kind})
    return found.model_copy(update={"first": named, "explanation": why.sentence})


def _right_when_moved_back(
    compared: Sequence[_Compared],
    start: int,
    given: Mapping[str, Path],
    ask: Callable[[dict[str, Path]], NDArray[Any] | None],
) -> bool:
    """Whether the operator, wrong when it is given the source's values in the file's layout, is right in theirs."""
    item = compared[start]
    if item.alone is None or item.alone.margin <= 1:
        return False
    values = dict(given)
    for number in item.pair.upstream:
        before = compared[number]
        if layout.is_moved(before.whole.axes) and before.pair.value in given:
            kind = np.load(given[before.pair.value], mmap_mode="r").dtype
            file = given[before.pair.value].with_name(f"unmoved-{number}.npy")
            np.save(file, before.written.read().astype(kind), allow_pickle=False)
            values[before.pair.value] = file
    value = ask(values)
    return value is not None and hold(value, item.written.read(), item.written.alone).margin <= 1


def _as_it_is(item: _Compared, asked: AskedValues) -> LayerDrift:
    """A moved value, as what takes it for the source's sees it."""
    found = hold(asked.read(item.pair.value), item.written.read(), item.written.allowed, any_layout=False)
    return _drift(item.pair, found, item.written.allowed)


def _given(compared: Sequence[_Compared], asked: AskedValues, signature: Signature, folder: Path) -> dict[str, Path]:
    """The source's values to be handed to the file's operators, where both mean the same by a name."""
    trusted = judge.trusted(_places(compared, signature))
    return {
        item.pair.value: _as_the_file_has_it(asked.read(item.pair.value), item, folder / f"given-{number}.npy")
        for number, item in enumerate(compared)
        if number in trusted and item.whole.axes is not None
    }


def _places(compared: Sequence[_Compared], signature: Signature) -> list[judge.Place]:
    outputs = {tensor.name for tensor in signature.outputs}
    return [
        judge.Place(
            item.whole.margin,
            None if item.alone is None else item.alone.margin,
            item.pair.upstream,
            item.pair.value in outputs,
        )
        for item in compared
    ]


def _as_the_file_has_it(value: NDArray[Any], item: _Compared, file: Path) -> Path:
    """The source's value in the file's layout and element type."""
    own, axes = item.written.read(), item.whole.axes
    if own.dtype == value.dtype and own.shape == value.shape and axes == tuple(range(own.ndim)):
        return item.written.file
    moved = own.transpose(axes).reshape(value.shape)
    np.save(file, np.ascontiguousarray(moved).astype(value.dtype), allow_pickle=False)
    return file


def _with_alone(item: _Compared, alone: AskedValues) -> _Compared:
    value = alone.value(item.pair.value)
    if value is None:
        return item
    return _Compared(item.pair, item.written, item.whole, hold(value, item.written.read(), item.written.alone))


def _start(compared: Sequence[_Compared], signature: Signature, precision: str) -> int | None:
    places = _places(compared, signature)
    if precision == "full":
        return judge.first(places)
    return judge.outstanding(places, [item.pair.source.module for item in compared])


def _divergence(
    compared: Sequence[_Compared], graph: Graph, signature: Signature, asked: AskedValues, start: int | None
) -> Divergence:
    places = _places(compared, signature)
    return Divergence(
        first=None if start is None else _first(compared[start]),
        worst=tuple(_by_itself(compared[number]) for number in judge.worst(places, _WORST)),
        drift=_thinned([_whole(item) for item in compared if item.whole.margin > 1 or not item.written.whole_numbers]),
        compared=len(compared),
        total=len(graph.values),
        note=_note(compared, {tensor.name for tensor in signature.outputs}, asked),
    )


def _first(item: _Compared) -> LayerDrift:
    return _whole(item) if item.whole.margin > 1 else _by_itself(item)


def _whole(item: _Compared) -> LayerDrift:
    return _drift(item.pair, item.whole, item.written.allowed)


def _by_itself(item: _Compared) -> LayerDrift:
    return _whole(item) if item.alone is None else _drift(item.pair, item.alone, item.written.alone)


def _drift(pair: Pair, found: Found, allowed: float) -> LayerDrift:
    return LayerDrift(
        module=pair.source.module,
        kind=pair.source.kind,
        operator=pair.operator.kind,
        node=pair.value,
        difference=found.difference,
        allowed=allowed,
        margin=found.margin,
    )


def _thinned(drift: Sequence[LayerDrift]) -> tuple[LayerDrift, ...]:
    """Of so many neighbours, the one that is furthest off."""
    step = -(-len(drift) // _DRIFT) or 1
    parts = [drift[start : start + step] for start in range(0, len(drift), step)]
    return tuple(max(part, key=lambda item: item.margin) for part in parts)


def _note(compared: Sequence[_Compared], outputs: Collection[str], asked: AskedValues) -> str:
    """What limits the answer."""
    said = []
    if asked.error is not None:
        said.append(f"not every value was had: {asked.error}")
    plain = asked.plain()
    looked_at = {item.pair.value: item for item in compared if item.pair.value in outputs}
    vanished = [
        name
        for name, item in looked_at.items()
        if name in plain
        and item.whole.margin <= 1
        and hold(plain[name], item.written.read(), item.written.allowed).margin > 1
    ]
    if vanished:
        said.append(
            f"the difference of {', '.join(vanished)} is gone when inner values are looked at: it comes from operators "
            "that onnxruntime joins to one kernel when it optimises the graph"
        )
    if not compared:
        said.append("no value of the file could be paired with one of the source: its names are not known")
    return "; ".join(said)
