"""Keras → ONNX, through tf2onnx. Byte-reproducible."""

from __future__ import annotations

from pathlib import Path

from serving.contract import Signature
from tasks.export.conversion import Conversion, Source
from tasks.export.tf_function import keras_function, layer_of
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
