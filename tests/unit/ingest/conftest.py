"""A small model in every framework: three features in, two scores out, with its evaluation data and spec."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.contract import DimRange, DType, TensorSpec
from tasks.contracts import Artifact
from tasks.ingest import ingest
from tasks.settings import Settings
from tasks.spec import EvaluationSpec, Framework, MetricSpec, ModelSpec, SmokeSpec, SourceSpec
from tasks.store import LocalStore

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

INPUT = TensorSpec("x", DType.FLOAT32, ("batch", 3))
OUTPUT = TensorSpec("y", DType.FLOAT32, ("batch", 2))
WEIGHT = np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float32)
BIAS = np.array([0.5, -0.5], dtype=np.float32)
MODEL_PY = "import torch\n\n\ndef build():\n    return torch.nn.Linear(3, 2)\n"


@dataclass(frozen=True)
class Workplace:
    """A spec's folder, a store and settings, all below one temporary folder."""

    folder: Path
    store: LocalStore
    settings: Settings

    def spec(self, uri: str, framework: str, **changes: Any) -> ModelSpec:
        values: dict[str, Any] = {
            "folder": self.folder,
            "name": "small",
            "owner": "someone",
            "source": SourceSpec(uri=uri, framework=Framework(framework), entrypoint=changes.pop("entrypoint", None)),
            "inputs": (INPUT,),
            "outputs": (OUTPUT,),
            "dynamic": {"batch": DimRange(1, 8)},
            "evaluation": EvaluationSpec(
                data="eval.npz", metrics=(MetricSpec(name="accuracy", output="y", label="label", max_drop=0.01),)
            ),
            "formats": ("onnx",),
            "smoke": SmokeSpec(instance_types=("c6i.large",)),
        }
        return ModelSpec(**{**values, **changes})

    def ingest(self, uri: str, framework: str, **changes: Any) -> Artifact:
        return ingest(self.spec(uri, framework, **changes), self.store, self.settings)


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    home, folder = tmp_path / "home", tmp_path / "spec"
    folder.mkdir()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(10, 3)).astype(np.float32)
    np.savez(folder / "eval.npz", x=x, label=(x @ WEIGHT + BIAS).argmax(axis=1), unused=x)
    (folder / "model.py").write_text(MODEL_PY)
    tracking = f"sqlite:///{home / 'mlflow.db'}"
    return Workplace(folder, LocalStore(home / "store"), Settings(home, str(home / "store"), tracking, None))


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """What a hostile file would make if it ran."""
    return tmp_path / "it-ran"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The small model's file or folder, made once per kind: pt, pt2, keras, savedmodel, skops, onnx."""
    folder = tmp_path_factory.mktemp("models")
    paths: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in paths:
            paths[kind] = _MAKERS[kind](folder)
        return paths[kind]

    return make


def _linear() -> Any:
    import torch

    module = torch.nn.Linear(3, 2)
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(WEIGHT.T.copy()))
        module.bias.copy_(torch.from_numpy(BIAS.copy()))
    return module.eval()


def _make_pt(folder: Path) -> Path:
    import torch

    torch.save(_linear().state_dict(), folder / "small.pt")
    return folder / "small.pt"


def _make_pt2(folder: Path) -> Path:
    import torch

    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(_linear(), (torch.zeros(2, 3),), dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / "small.pt2")
    return folder / "small.pt2"


def _make_keras(folder: Path) -> Path:
    import keras

    model = keras.Sequential([keras.Input((3,), name="x"), keras.layers.Dense(2)])
    model.layers[0].set_weights([WEIGHT, BIAS])
    model.save(folder / "small.keras")
    return folder / "small.keras"


def _make_savedmodel(folder: Path) -> Path:
    import tensorflow as tf

    class Small(tf.Module):
        def __init__(self) -> None:
            self.weight = tf.Variable(WEIGHT)

        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
        def serve(self, x: Any) -> dict[str, Any]:
            return {"y": x @ self.weight + BIAS}

    model = Small()
    tf.saved_model.save(model, str(folder / "small"), signatures=model.serve)
    return folder / "small"


def _make_skops(folder: Path) -> Path:
    import skops.io
    from sklearn.linear_model import LogisticRegression

    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    skops.io.dump(LogisticRegression().fit(x, x[:, 0] > 0), folder / "small.skops")
    return folder / "small.skops"


def _make_onnx(folder: Path) -> Path:
    save_onnx(folder / "small.onnx")
    return folder / "small.onnx"


_MAKERS: Mapping[str, Callable[[Path], Path]] = {
    "pt": _make_pt,
    "pt2": _make_pt2,
    "keras": _make_keras,
    "savedmodel": _make_savedmodel,
    "skops": _make_skops,
    "onnx": _make_onnx,
}


def save_onnx(path: Path, *, batch: str | int = "batch", op: str = "Gemm", domain: str = "", **save: Any) -> None:
    """The small model as ONNX, with one thing or another different."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = [numpy_helper.from_array(WEIGHT, "w"), numpy_helper.from_array(BIAS, "b")]
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w", "b"], ["y"], domain=domain)],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 2])],
        weights,
    )
    opsets = [helper.make_opsetid("", 18)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path, **save)


def rewrite(archive: Path, to: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """A copy of a zip archive after `change` edited its members, given by name."""
    with zipfile.ZipFile(archive) as old:
        members = {name: old.read(name) for name in old.namelist()}
    change(members)
    with zipfile.ZipFile(to, "w") as new:
        for name, content in members.items():
            new.writestr(name, content)
    return to
