"""Faithful exports that the gate must let through: small models of many kinds, in every format that they have.

In: nothing. Out: `CLEAN`, models by name, and `PAIRS`, each model with each format that there is for its framework.
The models of the exporters' zoo and the sources of the fault corpus are among them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from serving.contract import Signature
from serving.preprocess import Preprocessing
from tasks.export.calibration import calibration_rows
from tasks.export.conversion import Source, base_folder
from tasks.export.formats import FORMATS, exporter_of, formats_of
from tasks.parity.coarse import Reduced
from tasks.parity.confrontation import Judgement
from tasks.spec import ExportSpec, Int8
from tests.integration.export.zoo import F32, I64, LENGTH, ZOO, Model, signature, torch_model
from tests.parity.conftest import confronted
from tests.parity.corpus.bases import BASES
from tests.parity.corpus.forked import ForkedWorkers

IMAGE = {"image": (F32, "batch", 3, 8, 8)}
SERIES = {"series": (F32, "batch", "length", 4)}


def _base(name: str) -> Callable[[Path], Model]:
    def make(_: Path) -> Model:
        base = BASES[name]
        model, _loader = base.loaded()
        return Model(base.framework, model.native, base.signature, lambda arrays: model.native(*arrays))

    return make


def _torch(make: Callable[[Any], Any], inputs: dict[str, tuple], outputs: dict[str, tuple], **dynamic: Any) -> Any:
    """A model from `make(torch.nn)`, seeded."""

    def model(_: Path) -> Model:
        import torch

        torch.manual_seed(0)
        return torch_model(make(torch.nn), signature(inputs, outputs, **dynamic))

    return model


def mlp(nn: Any) -> Any:
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 3))


def scaled(factor: float) -> Callable[[Any], Any]:
    """Activations and answers of about this size."""

    def make(nn: Any) -> Any:
        import torch

        module = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4))
        with torch.no_grad():
            module[2].weight.mul_(factor)
            module[2].bias.mul_(factor)
        return module

    return make


def depthwise(nn: Any) -> Any:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1, groups=3), nn.Hardswish(), nn.Conv2d(12, 4, 1), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(4, 2),
    )  # fmt: skip


def grouped(nn: Any) -> Any:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 5)
    )


def norm_first(nn: Any) -> Any:
    class NormFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
            self.into, self.encoder = nn.Linear(4, 8), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, series: Any) -> Any:
            return self.encoder(self.into(series))

    return NormFirst()


def convolution_1d(nn: Any) -> Any:
    class Convolution(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv1d(4, 8, 3, padding=1), nn.Conv1d(8, 2, 1)

        def forward(self, series: Any) -> Any:
            return self.second(self.first(series.transpose(1, 2)).relu()).transpose(1, 2)

    return Convolution()


def autoencoder(nn: Any) -> Any:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.LeakyReLU(), nn.ConvTranspose2d(8, 3, 4, stride=2, padding=1),
        nn.Sigmoid(),
    )  # fmt: skip


def gru(nn: Any) -> Any:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory, self.head = nn.GRU(4, 6, batch_first=True), nn.Linear(6, 1)

        def forward(self, series: Any) -> Any:
            return self.head(self.memory(series)[1][-1])

    return Last()


def embedding_bag(nn: Any) -> Any:
    return nn.Sequential(nn.EmbeddingBag(30, 8, mode="sum"), nn.Linear(8, 3), nn.LogSoftmax(1))


def linear_classifier(_: Path) -> Model:
    """A linear pipeline over standardised columns."""
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, labels = load_iris(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(features.astype(np.float32), labels)
    described = signature(
        {"features": (F32, "batch", 4)}, {"probabilities": (F32, "batch", 3), "label": (I64, "batch")}
    )
    return Model(
        "sklearn",
        pipeline,
        described,
        lambda arrays: (pipeline.predict_proba(arrays[0]).astype(np.float32), pipeline.predict(arrays[0])),
    )


#: Its branch is taken by a sum over the batch: the gate blocks such a source, whatever is exported from it.
_NOT_ROW_BY_ROW = {"choosing"}

CLEAN: dict[str, Callable[[Path], Model]] = {
    **{name: make for name, make in ZOO.items() if name not in _NOT_ROW_BY_ROW},
    **{name: _base(name) for name in BASES},
    "mlp": _torch(mlp, {"x": (F32, "batch", 6)}, {"y": (F32, "batch", 3)}),
    "tiny": _torch(scaled(1e-6), {"x": (F32, "batch", 6)}, {"y": (F32, "batch", 4)}),
    "large": _torch(scaled(1e6), {"x": (F32, "batch", 6)}, {"y": (F32, "batch", 4)}),
    "depthwise": _torch(depthwise, IMAGE, {"y": (F32, "batch", 2)}),
    "group_norm": _torch(grouped, IMAGE, {"y": (F32, "batch", 5)}),
    "norm_first": _torch(norm_first, SERIES, {"states": (F32, "batch", "length", 8)}, length=LENGTH),
    "convolution_1d": _torch(convolution_1d, SERIES, {"y": (F32, "batch", "length", 2)}, length=LENGTH),
    "autoencoder": _torch(autoencoder, IMAGE, {"again": (F32, "batch", 3, 8, 8)}),
    "gru": _torch(gru, SERIES, {"forecast": (F32, "batch", 1)}, length=LENGTH),
    "embedding_bag": _torch(
        embedding_bag, {"ids": (I64, "batch", 5)}, {"y": (F32, "batch", 3)}, ranges={"ids": (0, 29)}
    ),
    "linear_classifier": linear_classifier,
}

_FRAMEWORKS = {
    "keras_two": "keras",
    "keras_cnn": "keras",
    "savedmodel": "tensorflow",
    "classifier": "sklearn",
    "columns": "sklearn",
    "linear_classifier": "sklearn",
    "onnx_file": "onnx",
    **{name: base.framework for name, base in BASES.items()},
}

#: Models that a format cannot express, and the code of the finding that the export says it with.
REFUSED = {
    ("several", "onnx-fp16"): "EXPORT_UNSUPPORTED_OPERATOR",  # Loop
    ("embedding_bag", "onnx-fp16"): "EXPORT_UNSUPPORTED_OPERATOR",  # Loop
    ("recurrent", "torch-aoti"): "EXPORT_UNSUPPORTED_OPERATOR",  # LSTM over an open length
    ("gru", "torch-aoti"): "EXPORT_UNSUPPORTED_OPERATOR",  # GRU over an open length
    ("texts", "onnx-fp16"): "EXPORT_FLOAT16_OVERFLOW",  # a mask of -1e9
    ("large", "onnx-fp16"): "EXPORT_FLOAT16_OVERFLOW",
    **{("rows", f"onnx{kind}"): "EXPORT_UNSUPPORTED_OPERATOR" for kind in ("", "-int8", "-fp16")},  # Bitcast
}

PAIRS = [
    (name, written)
    for name in CLEAN
    for written in formats_of(_FRAMEWORKS.get(name, "pytorch"))
    if (name, written) not in REFUSED
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
    return model, {"tensorflow": "savedmodel", "sklearn": "skops", "onnx": "onnx"}[model.framework]


def evaluation(described: Signature, rows: int = 40, length: int = 7) -> dict[str, np.ndarray]:
    """Rows for any signature: normally distributed numbers, and small whole numbers."""
    generator = np.random.default_rng(0)
    columns = {}
    for tensor in described.inputs:
        shape = (rows, *(length if isinstance(size, str) else size for size in tensor.shape[1:]))
        values = generator.normal(size=shape) if tensor.dtype.is_float else generator.integers(0, 10, size=shape)
        columns[tensor.name] = values.astype(tensor.dtype.numpy)
    return columns


@dataclass
class Exports:
    """Clean models and a folder for their exports. Each model is made once."""

    folder: Path
    models: dict[str, Model] = field(default_factory=dict)
    workers: ForkedWorkers = field(default_factory=ForkedWorkers)

    def judged(self, name: str, format: str, mode: Int8 = Int8.STATIC) -> Judgement:
        """What the gate says of a faithful export of this model."""
        folder = self.folder / f"{name}-{format}-{mode}"
        for part in ("source", "export"):
            (folder / part).mkdir(parents=True)
        if name not in self.models:
            self.models[name] = CLEAN[name](folder / "source")
        model = self.models[name]
        rows = BASES[name].rows(np.random.default_rng(0)) if name in BASES else evaluation(model.signature)
        given = Source(
            model,
            model.path,
            model.framework,
            ExportSpec(int8=mode),
            lambda: calibration_rows(rows, Preprocessing((), model.signature)),
        )
        conversion = exporter_of(format, model.framework)(given, model.signature, folder / "export")
        source, loader = loaded(model)
        reduced = conversion.base and Reduced(
            conversion.precision, mode, base_folder(folder / "export") / conversion.base
        )
        path, runtime = folder / "export" / conversion.root, FORMATS[format].runtime
        return confronted(
            source, loader, model.signature, rows, runtime, path, folder / "work", self.workers, reduced or None
        )

    def close(self) -> None:
        """End the workers' process."""
        self.workers.close()
