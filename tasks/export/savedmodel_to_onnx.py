"""TensorFlow SavedModel → ONNX, through tf2onnx. Byte-reproducible."""

from __future__ import annotations

from pathlib import Path

from serving.contract import Signature
from tasks.export.conversion import Conversion, Source
from tasks.export.tf_function import savedmodel_function
from tasks.export.tf_to_onnx import convert, place_in_graph


def export(source: Source, signature: Signature, folder: Path) -> Conversion:
    """See `tasks.export.conversion.Exporter`."""
    function = savedmodel_function(source.model.native, signature)
    return convert(function, signature, folder, place_of=place_in_graph)
