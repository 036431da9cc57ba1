"""ONNX → ONNX: the file as it came, byte for byte, where it fits; only its dimensions may get the spec's names."""

from __future__ import annotations

import shutil
from pathlib import Path

from serving.contract import Signature
from tasks.export.conversion import Conversion, Source
from tasks.export.onnx_file import FILE, finish


def export(source: Source, signature: Signature, folder: Path) -> Conversion:
    """See `tasks.export.conversion.Exporter`."""
    import onnx
    from onnx.external_data_helper import _get_all_tensors, uses_external_data  # no public function lists them

    original = source.path
    model = onnx.load(original, "protobuf", load_external_data=False)
    for tensor in _get_all_tensors(model):
        if uses_external_data(tensor):
            location = next(entry.value for entry in tensor.external_data if entry.key == "location")
            target = folder / location
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(original.parent / location, target)
    shutil.copyfile(original, folder / FILE)
    versions = finish(folder / FILE, signature, rename=False, strip=False)
    return Conversion(
        root=FILE,
        exporter="onnx",
        distributions=("onnx", "onnxruntime"),
        opset=versions.opset,
        ir_version=versions.ir_version,
    )
