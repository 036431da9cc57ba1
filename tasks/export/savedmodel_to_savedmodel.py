"""TensorFlow SavedModel → SavedModel: the folder as it came, byte for byte, once it is known to have the signature."""

from __future__ import annotations

import shutil
from pathlib import Path

from serving.contract import Signature
from tasks.export.conversion import Conversion, Source
from tasks.export.savedmodel_folder import check


def export(source: Source, signature: Signature, folder: Path) -> Conversion:
    """See `tasks.export.conversion.Exporter`."""
    check(source.path, signature)
    shutil.copytree(source.path, folder, dirs_exist_ok=True)
    return Conversion(root=".", exporter="tensorflow", distributions=("tensorflow-cpu",))
