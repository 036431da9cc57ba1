"""A Keras model or a loaded SavedModel → one `tf.function` with the signature's names, dtypes and open dimensions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from serving.contract import Signature


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
    """What a Keras model answers for tensors in the signature's order, by output names; nothing is trained.

    Several inputs go in by name where the model's own names are the signature's, else by position; a mapping of
    outputs is taken by name, anything else by position: as `tasks.ingest` asks the source model.
    """
    inputs, outputs = ([tensor.name for tensor in tensors] for tensors in (signature.inputs, signature.outputs))

    def serve(*tensors: Any) -> dict[str, Any]:
        if len(tensors) == 1:
            answer = model(tensors[0], training=False)
        else:
            by_name = isinstance(model.input, dict) or {tensor.name for tensor in model.inputs} == set(inputs)
            given = dict(zip(inputs, tensors, strict=True)) if by_name else list(tensors)
            answer = model(given, training=False)
        if isinstance(answer, Mapping):
            return {name: answer[name] for name in outputs}
        values = answer if isinstance(answer, list | tuple) else [answer]
        return dict(zip(outputs, values, strict=True))

    return serve


def savedmodel_function(trackable: Any, signature: Signature) -> Callable[..., dict[str, Any]]:
    """What a loaded SavedModel's `serving_default` answers for tensors in the signature's order, by output names."""
    served = trackable.signatures["serving_default"]
    inputs, outputs = ([tensor.name for tensor in tensors] for tensors in (signature.inputs, signature.outputs))

    def serve(*tensors: Any) -> dict[str, Any]:
        answer = served(**dict(zip(inputs, tensors, strict=True)))
        return {name: answer[name] for name in outputs}

    return serve
