"""Real models through the real exporters pass parity in the real runtimes, with room to spare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.contract import Signature
from tasks.export.calibration import calibration_rows
from tasks.export.conversion import Source, base_folder
from tasks.export.formats import FORMATS, exporter_of
from tasks.parity.coarse import Reduced
from tasks.spec import ExportSpec, Int8
from tests.integration.export.zoo import ZOO, Model
from tests.parity.conftest import codes, confronted

PAIRS = [
    ("cnn", "onnx"),
    ("cnn", "savedmodel"),
    ("cnn", "torch-export"),
    ("cnn", "torch-aoti"),
    ("transformer", "onnx"),
    ("program", "onnx"),
    ("keras_two", "onnx"),
    ("keras_cnn", "savedmodel"),
    ("savedmodel", "onnx"),
    ("classifier", "onnx"),
    ("columns", "onnx"),
]


def loaded(model: Model) -> tuple[Any, str]:
    """The source as ingest's loader gives it, so that its float64 twin can be made."""
    if model.framework == "pytorch":
        import torch

        from tasks.ingest.torch_predict import TorchModel

        if isinstance(model.native, torch.export.ExportedProgram):
            return TorchModel(model.native, model.native.module(), model.signature), "torch-export"
        return TorchModel(model.native, model.native, model.signature), "torch-state-dict"
    if model.framework == "keras":
        from tasks.ingest.keras_model import KerasModel

        return KerasModel(model.native, model.signature), "keras"
    return model, {"tensorflow": "savedmodel", "sklearn": "skops"}[model.framework]


def evaluation(signature: Signature, rows: int = 40, length: int = 7) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    columns = {}
    for tensor in signature.inputs:
        shape = (rows, *(length if isinstance(size, str) else size for size in tensor.shape[1:]))
        values = generator.normal(size=shape) if tensor.dtype.is_float else generator.integers(0, 10, size=shape)
        columns[tensor.name] = values.astype(tensor.dtype.numpy)
    return columns


@pytest.mark.parametrize(("name", "format"), PAIRS)
def test_a_faithful_export_passes(name: str, format: str, tmp_path: Path) -> None:
    for folder in ("source", "export"):
        (tmp_path / folder).mkdir()
    model = ZOO[name](tmp_path / "source")
    conversion = exporter_of(format, model.framework)(Source(model, model.path), model.signature, tmp_path / "export")
    source, loader = loaded(model)
    found = confronted(
        source,
        loader,
        model.signature,
        evaluation(model.signature),
        FORMATS[format].runtime,
        tmp_path / "export" / conversion.root,
        tmp_path / "work",
    )
    assert codes(found) == [], [finding.message for finding in found.findings]
    assert all((output.worst_margin or 0) < 0.5 for output in found.outputs)


@pytest.mark.parametrize(
    ("name", "format", "mode"),
    [
        ("cnn", "onnx-int8", Int8.STATIC),
        ("transformer", "onnx-int8", Int8.DYNAMIC),  # its layers share weights
        ("transformer", "onnx-fp16", Int8.STATIC),
        ("keras_cnn", "onnx-int8", Int8.STATIC),
        ("recurrent", "onnx-int8", Int8.STATIC),
    ],
)
def test_a_faithful_export_of_reduced_precision_passes(name: str, format: str, mode: Int8, tmp_path: Path) -> None:
    for folder in ("source", "export"):
        (tmp_path / folder).mkdir()
    model = ZOO[name](tmp_path / "source")
    rows = evaluation(model.signature)
    given = Source(
        model,
        model.path,
        model.framework,
        ExportSpec(int8=mode),
        lambda: calibration_rows(rows, (), model.signature),
    )
    conversion = exporter_of(format, model.framework)(given, model.signature, tmp_path / "export")
    source, loader = loaded(model)
    found = confronted(
        source,
        loader,
        model.signature,
        rows,
        "onnx",
        tmp_path / "export" / conversion.root,
        tmp_path / "work",
        reduced=Reduced(conversion.precision, mode, base_folder(tmp_path / "export") / str(conversion.base)),
    )
    assert codes(found) == [], [finding.message for finding in found.findings]
    assert all((output.worst_margin or 0) < 0.7 for output in found.outputs)
