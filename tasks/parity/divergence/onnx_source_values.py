"""An ONNX source's inner values: the file is asked as the export is, and its values keep their names.

There is no float64 twin. The inputs are moved by a few units in the last place instead, and the probabilistic bound of
`tasks.parity.tolerance` stands below.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import Signature
from tasks.ingest.sources import SourceModel
from tasks.parity.divergence import onnx_graph, onnx_values
from tasks.parity.divergence.onnx_graph import Graph
from tasks.parity.divergence.source_values import SourceValue, Written, change, keep
from tasks.parity.source import move
from tasks.parity.terms import longest_sum
from tasks.parity.tolerance import SAFETY, probable_error

#: About how many bytes a value has whose size is not known before it is there.
_GUESS = 1 << 20


def open_values(source: SourceModel, signature: Signature) -> OnnxSourceValues:
    """Read the source's graph."""
    return OnnxSourceValues(Path(source.native), signature)


@dataclass(frozen=True)
class OnnxSourceValues:
    """See `tasks.parity.divergence.source_values.InnerValues`. A node's name stands for the module that it is in."""

    path: Path
    signature: Signature

    @cached_property
    def _graph(self) -> Graph:
        return onnx_graph.read(self.path)

    @cached_property
    def values(self) -> Mapping[str, SourceValue]:
        found = {}
        for operator in self._graph.operators:
            settings = {name: value for name, value in operator.attributes.items() if not isinstance(value, tuple)}
            for value in (name for name in operator.outputs if name):
                inputs = tuple(name for name in operator.inputs if name)
                module = operator.scopes[-2] if len(operator.scopes) > 1 else operator.name
                found[value] = SourceValue(value, module, operator.kind, operator.kind, inputs, settings)
        return found

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        return tuple(tensor.name for tensor in self.signature.outputs)

    def parameters(self, module: str) -> Mapping[str, NDArray[Any]]:
        names = {
            name
            for operator in self._graph.operators
            if module in (operator.name, *operator.scopes[-2:-1])
            for name in operator.inputs
            if name in self._graph.weights
        }
        return onnx_graph.weights(self.path, names)

    def write(self, inputs: Mapping[str, NDArray[Any]], wanted: Collection[str], folder: Path) -> Mapping[str, Written]:
        sizes = {name: _GUESS for name in self.values if name in wanted}
        generator = np.random.default_rng(0)
        unit = float(np.finfo(np.float32).eps) / 2
        moved = {name: move(array, unit, generator) for name, array in inputs.items()}
        folder.mkdir(parents=True)
        asked = onnx_values.ask(
            self.path, self.signature, self._graph.beside, inputs, sizes, folder / "source", further=[moved]
        )
        terms = longest_sum(self.path, "onnx", self.signature)
        found = {}
        for number, name in enumerate(sizes):
            value, beside = asked.value(name), asked.value(name, question=1)
            if value is None:
                continue
            scale = np.abs(value[np.isfinite(value)].astype(np.float64)).max(initial=0.0)
            bound = probable_error(unit, terms, value.size) * float(scale)
            moves = change(value, beside) if beside is not None and beside.shape == value.shape else 0.0
            noise = max(moves, bound) / SAFETY  # both are what is allowed already
            found[name] = keep(value, folder / f"{number}.npy", noise, noise)
        return found
