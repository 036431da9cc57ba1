"""Small models that were really trained (`tests.trained`), the way Slipway takes them: `load_spec`, `ingest`, parity,
and a package folder that the server opens."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx.parser
import pytest

from serving.contract import PREPROCESS_FOLDER, PackagedFile, ServingContract
from serving.package import Served, open_package
from tasks.contracts import Artifact, Export, ParityReport
from tasks.image import contract_bytes
from tasks.ingest import ingest
from tasks.ingest.preprocess import store_step_files
from tasks.parity import check
from tasks.settings import Settings
from tasks.spec import ModelSpec
from tasks.store import LocalStore, Store, fetch, fetch_tree, put_tree
from tests import trained
from tests.trained import Trained

FED_ROWS = 40


@dataclass(frozen=True)
class Proven:
    """What ingest and parity said of it."""

    spec: ModelSpec
    artifact: Artifact
    report: ParityReport
    export: Export
    store: Store

    def contract(self) -> ServingContract:
        assert self.report.golden is not None
        parts = [(f"model/{file.path}", file) for file in self.export.files.files]
        parts += [(f"{PREPROCESS_FOLDER}/{file.path}", file) for file in getattr(self.artifact.preprocess, "files", ())]
        parts.append(("golden.npz", self.report.golden))
        return ServingContract(
            name=self.spec.name,
            version="1",
            format="onnx",
            runtime="onnx",
            model=f"model/{self.export.root}",
            files=tuple(PackagedFile(path, file.digest, file.size_bytes) for path, file in sorted(parts)),
            signature=self.spec.signature,
            preprocess=self.spec.preprocess,
            tolerances={output.name: output.tolerance for output in self.report.outputs},
            golden="golden.npz",
            max_batch=self.spec.serving.max_batch,
            runtime_versions={},
        )

    def package(self, folder: Path) -> Served:
        """The package as the image stage lays it down, opened by the server: it answers a golden sample on the way."""
        assert self.report.golden is not None
        fetch_tree(self.store, self.export.files, folder / "model")
        if self.artifact.preprocess is not None:
            fetch_tree(self.store, self.artifact.preprocess, folder / PREPROCESS_FOLDER)
        fetch(self.store, self.report.golden, folder / "golden.npz")
        (folder / "contract.json").write_bytes(contract_bytes(self.contract()))
        return open_package(folder, threads=1)


def proven(model: Trained, home: Path) -> Proven:
    """Ingest and parity; the export is the source's own file."""
    store = LocalStore(home / "store")
    spec = model.spec()
    artifact = ingest(spec, store, Settings(home, str(home / "store"), f"sqlite:///{home / 'mlflow.db'}", None))
    assert artifact.evaluation.quality is not None
    assert artifact.evaluation.quality.findings == () or all(
        finding.verdict == "passed" for finding in artifact.evaluation.quality.findings
    )
    path = model.folder / "model.onnx"
    export = Export(
        format="onnx",
        runtime="onnx",
        files=put_tree(store, path),
        root="model.onnx",
        exporter="training",
        versions={"onnxruntime": onnx.__version__},
    )
    work = home / "parity"
    work.mkdir(parents=True)
    return Proven(spec, artifact, check(spec, artifact, export, store, work), export, store)


def proven_again(base: Proven, changed: Trained, work: Path) -> Proven:
    """Parity alone, of the same source and data with another declaration or other step files."""
    spec = changed.spec()
    artifact = base.artifact.model_copy(update={"preprocess": store_step_files(spec, base.store)})
    work.mkdir()
    report = check(spec, artifact, base.export, base.store, work)
    return Proven(spec, artifact, report, base.export, base.store)


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    return lambda: tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained.digit_photos(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained.reviews(tmp_path_factory.mktemp("reviews"))


@pytest.fixture(scope="session")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained.orders(tmp_path_factory.mktemp("orders"))


def sha256(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
