"""A Keras model's inner values, operator by operator.

The model is traced as the exporter does it, so that TensorFlow's tensors have the names from which tf2onnx makes those
of the ONNX file. Its float64 twin is traced the same way: what the two differ by is the rounding on the whole way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import Signature
from tasks.export.tf_function import keras_function, layer_of, tensor_specs
from tasks.ingest.sources import SourceModel
from tasks.parity.divergence.source_values import SourceValue, Written, change, keep
from tasks.parity.room import shortage
from tasks.parity.twins import float64_twin


def open_values(source: SourceModel, signature: Signature) -> KerasValues:
    """Trace the model, and its twin where one can be made."""
    twin = float64_twin(source, "keras") if shortage(source, "keras") is None else None
    return KerasValues(source.native, None if twin is None else twin.native, signature)


@dataclass(frozen=True)
class KerasValues:
    """See `tasks.parity.divergence.source_values.InnerValues`."""

    model: Any
    twin: Any
    signature: Signature

    @cached_property
    def _traced(self) -> Any:
        return self._trace(self.model, lambda given, answers, graph: answers, wide=False)

    @cached_property
    def values(self) -> Mapping[str, SourceValue]:
        found = {}
        for operation in self._traced.graph.get_operations():
            for tensor in operation.outputs:
                if operation.type == "Placeholder" or tensor.dtype.name not in _NUMBERS:
                    continue
                place = layer_of(self.model, operation.name)
                inputs = tuple(given.name for given in operation.inputs)
                found[tensor.name] = SourceValue(
                    tensor.name,
                    place.module,
                    place.kind,
                    operation.type,
                    inputs,
                    self._settings(operation, place.module),
                )
        return found

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Behind the identities that TensorFlow puts before what a function returns."""
        return tuple(_behind_identity(tensor).name for tensor in self._traced.outputs)

    def parameters(self, module: str) -> Mapping[str, NDArray[Any]]:
        layer = self._layer(module)
        return {} if layer is None else {weight.name: np.asarray(weight) for weight in layer.weights}

    def write(self, inputs: Mapping[str, NDArray[Any]], wanted: Collection[str], folder: Path) -> Mapping[str, Written]:
        names = [name for name in self.values if name in wanted]
        own = self._asked(self.model, inputs, names, wide=False)
        wide = self._asked(self.twin, inputs, names, wide=True) if self.twin is not None else {}
        folder.mkdir(parents=True)
        found = {}
        for number, name in enumerate(names):
            noise = change(own[name], wide[name]) if name in wide and wide[name].shape == own[name].shape else 0.0
            found[name] = keep(own[name], folder / f"{number}.npy", noise, noise)
        return found

    def _asked(
        self, model: Any, inputs: Mapping[str, NDArray[Any]], names: list[str], *, wide: bool
    ) -> dict[str, NDArray[Any]]:
        import tensorflow as tf

        known = {
            tensor.name
            for operation in self._trace(model, _answers, wide=wide).graph.get_operations()
            for tensor in operation.outputs
        }
        there = [name for name in names if name in known]
        looked_at = self._trace(
            model, lambda given, answers, graph: [graph.get_tensor_by_name(name) for name in there], wide=wide
        )
        given = [inputs[tensor.name] for tensor in self.signature.inputs]
        values = looked_at(*(tf.constant(_widened(array) if wide else array) for array in given))
        return {name: np.asarray(value) for name, value in zip(there, values, strict=True)}

    def _trace(self, model: Any, give: Callable[[Any, Any, Any], Any], *, wide: bool) -> Any:
        """The model as one graph that gives what `give` picks from the inputs, the answers and the graph itself."""
        import tensorflow as tf

        function = keras_function(model, self.signature)
        specs = [
            tf.TensorSpec(spec.shape, tf.float64 if wide and spec.dtype.is_floating else spec.dtype, spec.name)
            for spec in tensor_specs(self.signature)
        ]

        def traced(*tensors: Any) -> Any:
            answers = list(function(*tensors).values())
            return give(tensors, answers, tf.compat.v1.get_default_graph())

        return tf.function(traced, autograph=False, input_signature=specs).get_concrete_function()

    def _layer(self, module: str) -> Any:
        name = module.rpartition(".")[2]
        return next((layer for layer in self.model._flatten_layers(include_self=False) if layer.name == name), None)

    def _settings(self, operation: Any, module: str) -> dict[str, float | int | str]:
        """What the layer was made with: its numbers and words."""
        layer = self._layer(module) if module else None
        if layer is None:
            return {}
        settings = layer.get_config().items()
        return {key: value for key, value in settings if isinstance(value, float | int | str)}


#: Element types that can be compared.
_NUMBERS = frozenset({"float16", "float32", "float64", "bool", "int8", "int16", "int32", "int64", "uint8"})


def _answers(given: Any, answers: Any, graph: Any) -> Any:
    return answers


def _widened(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _behind_identity(tensor: Any) -> Any:
    while tensor.op.type == "Identity":
        tensor = tensor.op.inputs[0]
    return tensor
