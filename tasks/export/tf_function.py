"""A Keras model or a loaded SavedModel → one `tf.function` with the signature's names, dtypes and open dimensions."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from serving.contract import Signature
from tasks.export.conversion import Place


def tensor_specs(signature: Signature) -> list[Any]:
    """The inputs as `tf.TensorSpec`s, named dimensions open."""
    import tensorflow as tf

    return [
        tf.TensorSpec(
            [None if isinstance(size, str) else size for size in tensor.shape], tensor.dtype.value, tensor.name
        )
        for tensor in signature.inputs
    ]


def keras_function(model: Any, signature: Signature) -> Callable[..., dict[str, Any]]:
    """What a Keras model answers for tensors in the signature's order, by output names; asked as ingest asks it."""
    from tasks.ingest.keras_model import KerasModel

    asked = KerasModel(model, signature)
    inputs = [tensor.name for tensor in signature.inputs]
    return lambda *tensors: asked.answer(dict(zip(inputs, tensors, strict=True)))


def layer_of(model: Any, name: str) -> Place:
    """The layer whose name is among the node's scopes; Keras adds `_1` to a layer that is called again."""
    layers = {layer.name: layer for layer in model._flatten_layers(include_self=False)}
    found = [
        layer
        for scope in name.split("/")[:-1]
        if (layer := layers.get(scope) or layers.get(re.sub(r"_\d+$", "", scope))) is not None
    ]
    if not found:
        return Place()
    return Place(module=".".join(layer.name for layer in found), kind=type(found[-1]).__name__)


def savedmodel_function(trackable: Any, signature: Signature) -> Callable[..., dict[str, Any]]:
    """What a loaded SavedModel's `serving_default` answers for tensors in the signature's order, by output names."""
    served = trackable.signatures["serving_default"]
    inputs, outputs = ([tensor.name for tensor in tensors] for tensors in (signature.inputs, signature.outputs))

    def serve(*tensors: Any) -> dict[str, Any]:
        answer = served(**dict(zip(inputs, tensors, strict=True)))
        return {name: answer[name] for name in outputs}

    return serve
