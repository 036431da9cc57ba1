"""Sources in a real MLflow: versions, aliases and runs, over SQLite and over a server that hands artifacts out."""

from __future__ import annotations

import hashlib
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.contract import DimRange, DType, TensorSpec
from tasks.errors import SourceError, TrackingUnavailable, UnsafeSource
from tasks.ingest import fingerprint, ingest, load_source
from tasks.lineage.origin import ARTIFACT_TAG
from tasks.lineage.tracking import tracking
from tasks.settings import Settings
from tasks.spec import EvaluationSpec, Framework, MetricSpec, ModelSpec, SmokeSpec, SourceSpec
from tasks.store import LocalStore
from tests.mlflow_server import mlflow_server

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server that keeps its artifacts to itself: clients get them over HTTP."""
    home = tmp_path_factory.mktemp("server")
    with mlflow_server(home, "--artifacts-destination", str(home / "artifacts"), "--serve-artifacts") as uri:
        yield uri


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, made once: making them takes seconds."""
    home = tmp_path_factory.mktemp("empty")
    with tracking(Settings(home, str(home / "store"), f"sqlite:///{home / 'mlflow.db'}", None)):
        return home / "mlflow.db"


@pytest.fixture(params=["sqlite", "server"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    home = tmp_path / "home"
    home.mkdir()
    if request.param == "server":
        return Settings(home, str(home / "store"), request.getfixturevalue("server"), None)
    shutil.copy(request.getfixturevalue("empty_database"), home / "mlflow.db")
    return Settings(home, str(home / "store"), f"sqlite:///{home / 'mlflow.db'}", None)


@pytest.fixture
def mlflow(settings: Settings, tmp_path: Path) -> Iterator[Any]:
    """MLflow, told where to log; and told to forget it afterwards."""
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(settings.tracking_uri)
    location = None if settings.tracking_uri.startswith("http") else (tmp_path / "artifacts").as_uri()
    mlflow.set_experiment(experiment_id=mlflow.create_experiment(tmp_path.name, artifact_location=location))
    yield mlflow
    mlflow.set_tracking_uri(before)


@pytest.fixture(scope="module")
def trained() -> Any:
    from sklearn.linear_model import LogisticRegression

    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    return LogisticRegression().fit(x, x[:, 0] > 0)


@pytest.fixture
def folder(tmp_path: Path, trained: Any) -> Path:
    import skops.io

    folder = tmp_path / "spec"
    folder.mkdir()
    skops.io.dump(trained, folder / "m.skops")
    np.savez(folder / "eval.npz", x=np.zeros((4, 3), np.float32), label=np.zeros(4, np.int64))
    return folder


def spec(folder: Path, uri: str, **changes: Any) -> ModelSpec:
    values: dict[str, Any] = {
        "folder": folder,
        "name": "small",
        "owner": "someone",
        "source": SourceSpec(uri=uri, framework=Framework.SKLEARN),
        "inputs": (TensorSpec("x", DType.FLOAT32, ("batch", 3)),),
        "outputs": (TensorSpec("y", DType.FLOAT32, ("batch", 2)),),
        "dynamic": {"batch": DimRange(1, 8)},
        "evaluation": EvaluationSpec(
            data="eval.npz", metrics=(MetricSpec(name="accuracy", output="y", label="label", max_drop=0.01),)
        ),
        "formats": ("onnx",),
        "smoke": SmokeSpec(instance_types=("this-machine",)),
    }
    return ModelSpec(**{**values, **changes})


def log_model(mlflow: Any, model: Any, name: str = "small", **options: Any) -> tuple[str, str]:
    """A run that logs and registers the model; the run's id and the version."""
    with mlflow.start_run() as run:
        logged = mlflow.sklearn.log_model(
            model, name="model", registered_model_name=name, pip_requirements=["scikit-learn"], **options
        )
    return run.info.run_id, str(logged.registered_model_version)


def test_a_registered_version_is_ingested_and_its_run_known(
    mlflow: Any, settings: Settings, folder: Path, trained: Any, tmp_path: Path
) -> None:
    name = f"small-{tmp_path.name}"
    run, version = log_model(mlflow, trained, name, serialization_format="skops")
    store = LocalStore(settings.home / "store")

    artifact = ingest(spec(folder, f"models:/{name}/{version}"), store, settings)
    assert (artifact.source_uri, artifact.source_run) == (f"models:/{name}/{version}", run)
    assert [file.path for file in artifact.files.files] == ["model.skops"]
    assert ingest(spec(folder, f"runs:/{run}/model"), store, settings).files == artifact.files
    x = np.ones((2, 3), np.float32)
    answers = load_source(artifact, store, tmp_path / "work").predict({"x": x})
    np.testing.assert_array_equal(answers["y"], trained.predict_proba(x))


def test_an_alias_is_pinned_to_its_version_and_followed_when_it_moves(
    mlflow: Any, settings: Settings, folder: Path, trained: Any, tmp_path: Path
) -> None:
    name = f"small-{tmp_path.name}"
    versions = [log_model(mlflow, trained, name, serialization_format="skops")[1] for _ in range(2)]
    client = mlflow.MlflowClient()
    client.set_registered_model_alias(name, "champion", versions[0])
    asked = spec(folder, f"models:/{name}@champion")
    first = fingerprint(asked, settings)
    assert fingerprint(asked, settings) == first
    artifact = ingest(asked, LocalStore(settings.home / "store"), settings)
    assert artifact.source_uri == f"models:/{name}/{versions[0]}"

    client.set_registered_model_alias(name, "champion", versions[1])
    assert fingerprint(asked, settings) != first
    latest = ingest(spec(folder, f"models:/{name}/latest"), LocalStore(settings.home / "store"), settings)
    assert latest.source_uri == f"models:/{name}/{versions[1]}"


def test_a_runs_artifact_is_ingested_with_its_evaluation_data(mlflow: Any, settings: Settings, folder: Path) -> None:
    with mlflow.start_run() as run:
        mlflow.log_artifact(folder / "m.skops", "out")
        mlflow.log_artifact(folder / "eval.npz")
    base = f"runs:/{run.info.run_id}"
    asked = spec(folder, f"{base}/out/m.skops")
    evaluation = asked.evaluation.model_copy(update={"data": f"{base}/eval.npz"})
    asked = asked.model_copy(update={"evaluation": evaluation})
    shutil.rmtree(folder)
    artifact = ingest(asked, LocalStore(settings.home / "store"), settings)
    assert (artifact.source_uri, artifact.source_run) == (f"{base}/out/m.skops", run.info.run_id)
    assert artifact.evaluation.rows == 4


def test_the_run_that_wrote_a_local_file_is_found_by_its_tag(mlflow: Any, settings: Settings, folder: Path) -> None:
    content = (folder / "m.skops").read_bytes()
    with mlflow.start_run() as run:
        mlflow.set_tag(ARTIFACT_TAG, hashlib.sha256(content).hexdigest())
    artifact = ingest(spec(folder, "m.skops"), LocalStore(settings.home / "store"), settings)
    assert artifact.source_run == run.info.run_id


def test_a_model_that_was_logged_as_a_pickle_is_refused(
    mlflow: Any, settings: Settings, folder: Path, trained: Any, tmp_path: Path
) -> None:
    name = f"small-{tmp_path.name}"
    _, version = log_model(mlflow, trained, name, serialization_format="cloudpickle")
    with pytest.raises(UnsafeSource, match=r"model\.pkl.*skops\.io\.dump"):
        ingest(spec(folder, f"models:/{name}/{version}"), LocalStore(settings.home / "store"), settings)


@pytest.mark.parametrize(
    "uri", ["models:/nobody/1", "models:/nobody@champion", "models:/nobody/latest", "runs:/" + "0" * 32 + "/m.skops"]
)
def test_what_mlflow_does_not_know_is_the_sources_fault(
    mlflow: Any, settings: Settings, folder: Path, uri: str
) -> None:
    with pytest.raises(SourceError, match="MLflow has no"):
        ingest(spec(folder, uri), LocalStore(settings.home / "store"), settings)


def test_a_path_that_the_run_does_not_have_is_said_so(mlflow: Any, settings: Settings, folder: Path) -> None:
    with mlflow.start_run() as run:
        mlflow.log_artifact(folder / "m.skops")
    with pytest.raises(SourceError, match=r"no such artifact; in it there is m\.skops"):
        ingest(spec(folder, f"runs:/{run.info.run_id}/other.skops"), LocalStore(settings.home / "store"), settings)


@pytest.fixture
def unreachable(tmp_path: Path) -> Settings:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return Settings(tmp_path / "home", str(tmp_path / "home" / "store"), f"http://127.0.0.1:{port}", None)


@pytest.mark.parametrize("uri", ["models:/small/1", "runs:/" + "0" * 32 + "/m.skops"])
def test_an_mlflow_that_does_not_answer_is_the_platforms_fault(unreachable: Settings, folder: Path, uri: str) -> None:
    for step in (lambda: ingest(spec(folder, uri), LocalStore(unreachable.home / "store"), unreachable),
                 lambda: fingerprint(spec(folder, uri), unreachable)):  # fmt: skip
        with pytest.raises(TrackingUnavailable):
            step()


def test_a_local_file_needs_no_mlflow(unreachable: Settings, folder: Path) -> None:
    artifact = ingest(spec(folder, "m.skops"), LocalStore(unreachable.home / "store"), unreachable)
    assert artifact.source_run is None
