"""Keras → SavedModel, as `model.export` does it, with the signature's names. Byte-reproducible."""

from __future__ import annotations

from pathlib import Path

from serving.contract import Signature
from tasks.export.conversion import Conversion, Source
from tasks.export.savedmodel_folder import finish
from tasks.export.tf_function import keras_function, tensor_specs


def export(source: Source, signature: Signature, folder: Path) -> Conversion:
    """See `tasks.export.conversion.Exporter`."""
    import keras

    archive = keras.export.ExportArchive()
    archive.track(source.model.native)
    archive.add_endpoint("serve", keras_function(source.model.native, signature), tensor_specs(signature))
    archive.write_out(str(folder), verbose=False)
    finish(folder, signature)
    return Conversion(root=".", exporter="keras", distributions=("keras", "tensorflow-cpu"))
