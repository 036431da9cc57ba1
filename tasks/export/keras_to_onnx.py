"""Keras → ONNX, through tf2onnx. Byte-reproducible."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from serving.contract import Signature
from tasks.export.conversion import Conversion, Place, Source
from tasks.export.tf_function import keras_function
from tasks.export.tf_to_onnx import convert


def export(source: Source, signature: Signature, folder: Path) -> Conversion:
    """See `tasks.export.conversion.Exporter`."""
    model = source.model.native
    return convert(
        keras_function(model, signature),
        signature,
        folder,
        place_of=lambda name: layer_of(model, name),
        distributions=("keras",),
    )


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
