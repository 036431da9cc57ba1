"""Weights in a file beside an ONNX graph: damage to that file stops whoever takes it over next, whatever the damage.

Ingest's own hand-over (the source's files into the store) is in tests/unit/ingest.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving.contract import CONTRACT_FILE, DimRange, DType, TensorSpec
from serving.package import Refusal
from tasks.contracts import Artifact, Export, ParityReport, Verdict
from tasks.errors import CorruptObject
from tasks.export import export
from tasks.image import build, contract_bytes
from tasks.image.engine import Engine
from tasks.ingest import ingest
from tasks.parity import check
from tasks.settings import Settings
from tasks.spec import EvaluationSpec, ExportSpec, Framework, MetricSpec, ModelSpec, SmokeSpec, SourceSpec
from tasks.store import LocalStore, fetch, fetch_tree

IN, OUT = 32, 16
DATA = "weights/model.data"


def shorter(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def altered(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


#: One byte away, one bit turned, and the file gone.
every_damage = pytest.mark.parametrize("damage", [Path.unlink, shorter, altered], ids=["missing", "shorter", "altered"])
Damage = Callable[[Path], None]


@dataclass(frozen=True)
class Proven:
    """A model with external data that went through ingest, export and parity."""

    spec: ModelSpec
    artifact: Artifact
    export: Export
    parity: ParityReport
    store: LocalStore
    settings: Settings

    def damaged(self, digest: str, damage: Damage, folder: Path) -> LocalStore:
        """A copy of the store in which one object was damaged."""
        shutil.copytree(self.store.root, folder)
        hexadecimal = digest.removeprefix("sha256:")
        damage(folder / "objects" / hexadecimal[:2] / hexadecimal[2:])
        return LocalStore(folder)


def digest_of_data(files: Artifact | Export) -> str:
    return next(file.digest for file in files.files.files if file.path == DATA)


@pytest.fixture(scope="module")
def proven(tmp_path_factory: pytest.TempPathFactory) -> Proven:
    folder = tmp_path_factory.mktemp("external")
    random = np.random.default_rng(5)
    weight = random.normal(size=(IN, OUT)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", IN])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", OUT])],
        [numpy_helper.from_array(weight, "w")],
    )
    (folder / "weights").mkdir()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location=DATA, size_threshold=0)
    x = random.normal(size=(40, IN)).astype(np.float32)
    np.savez(folder / "eval.npz", x=x, label=(x @ weight).argmax(1))
    spec = ModelSpec(
        folder=folder,
        name="external",
        owner="someone@example.com",
        source=SourceSpec(uri="model.onnx", framework=Framework.ONNX),
        inputs=(TensorSpec("x", DType.FLOAT32, ("batch", IN)),),
        outputs=(TensorSpec("y", DType.FLOAT32, ("batch", OUT)),),
        dynamic={"batch": DimRange(1, 8)},
        evaluation=EvaluationSpec(
            data="eval.npz", metrics=(MetricSpec(name="accuracy", output="y", label="label", max_drop=0.5),)
        ),
        formats=("onnx",),
        export=ExportSpec(external_data=True),
        smoke=SmokeSpec(instance_types=("this-machine",)),
    )
    home = folder / "home"
    store = LocalStore(home / "store")
    settings = Settings(home, store.uri, f"sqlite:///{home / 'mlflow.db'}", None)
    artifact = ingest(spec, store, settings)
    exported = export(spec, artifact, "onnx", store, folder / "export").export
    assert exported is not None
    return Proven(spec, artifact, exported, check(spec, artifact, exported, store, folder / "parity"), store, settings)


def test_a_source_s_own_data_file_is_what_is_proven(proven: Proven) -> None:
    assert proven.parity.verdict is Verdict.PASSED
    assert digest_of_data(proven.export) == digest_of_data(proven.artifact)
    assert [file.path for file in proven.export.files.files] == ["model.onnx", DATA]


@every_damage
def test_from_the_store_into_the_exporter(proven: Proven, damage: Damage, tmp_path: Path) -> None:
    store = proven.damaged(digest_of_data(proven.artifact), damage, tmp_path / "store")
    with pytest.raises(CorruptObject):
        export(proven.spec, proven.artifact, "onnx", store, tmp_path / "work")


@every_damage
def test_from_the_store_into_parity(proven: Proven, damage: Damage, tmp_path: Path) -> None:
    store = proven.damaged(digest_of_data(proven.export), damage, tmp_path / "store")
    with pytest.raises(CorruptObject):
        check(proven.spec, proven.artifact, proven.export, store, tmp_path / "work")


@pytest.mark.docker
@every_damage
def test_from_the_store_into_an_image(proven: Proven, damage: Damage, engine: Engine, tmp_path: Path) -> None:
    store = proven.damaged(digest_of_data(proven.export), damage, tmp_path / "store")
    with pytest.raises(CorruptObject):
        build(proven.spec, proven.artifact, proven.export, proven.parity, store, engine, Settings.from_environment())
    assert engine.images(f"org.opencontainers.image.title={proven.spec.name}") == ()


@every_damage
def test_from_the_image_into_the_server(proven: Proven, damage: Damage, tmp_path: Path) -> None:
    package = packaged(proven, tmp_path / "package")
    assert selftest(package) == 0
    damage(package / "model" / DATA)
    assert selftest(package) == Refusal.FILES


def packaged(proven: Proven, folder: Path) -> Path:
    """The package as the image stage lays it out."""
    from tasks.image.build import _contract
    from tasks.image.runtimes import find_runtime

    golden = proven.parity.golden
    assert golden is not None
    contract = _contract(
        proven.spec, proven.artifact, proven.export, proven.parity, golden, find_runtime(proven.export.runtime)
    )
    fetch_tree(proven.store, proven.export.files, folder / "model")
    fetch(proven.store, golden, folder / contract.golden)
    (folder / CONTRACT_FILE).write_bytes(contract_bytes(contract))
    return folder


def selftest(package: Path) -> int:
    """The exit code of what a container runs."""
    command = [sys.executable, "-m", "serving", "selftest", "--package", str(package)]
    return subprocess.run(command, capture_output=True, check=False).returncode
