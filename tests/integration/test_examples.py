"""The examples' training: real data, the same bytes again, nothing done twice, a beginning for lineage."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


class Example:
    """A copy of an example, trained with a home of its own. The quickest of the three: what they share is asked."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.folder = folder / "examples" / "breast-cancer-classifier"
        ignored = shutil.ignore_patterns("artifacts", "__pycache__")
        shutil.copytree(EXAMPLES / self.folder.name, self.folder, ignore=ignored)
        shutil.copy(EXAMPLES / "training.py", self.folder.parent)

    def train(self) -> str:
        environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
        done = subprocess.run(
            [sys.executable, str(self.folder / "train.py")],
            env=environment | {"SLIPWAY_HOME": str(self.home)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def digests(self) -> dict[str, str]:
        files = [path for path in (self.folder / "artifacts").iterdir() if not path.name.startswith(".")]
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    example = Example(tmp_path_factory.mktemp("example"))
    assert "trained in" in example.train()
    return example


def test_training_again_does_nothing_and_says_so(example: Example) -> None:
    before = example.digests
    said = example.train()
    assert "nothing trained" in said
    assert "logged" not in said
    assert example.digests == before


def test_a_changed_artifact_is_trained_again_to_the_same_bytes(example: Example) -> None:
    before = example.digests
    (example.folder / "artifacts" / "breast-cancer.skops").write_bytes(b"not what was trained")
    assert "trained in" in example.train()
    assert example.digests == before


def test_lineage_finds_the_training_run_by_the_artifacts_digest(example: Example) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{example.home}/mlflow/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    digest = example.digests["breast-cancer.skops"]
    runs = client.search_runs(experiments, f"tags.`slipway.artifact_sha256` = '{digest}'")
    assert runs
    assert runs[0].data.metrics["accuracy"] > 0.95
    assert runs[0].data.params["seed"] == "7"
    assert runs[0].inputs.dataset_inputs[0].dataset.name == "sklearn.datasets.load_breast_cancer"
    assert "breast-cancer.skops" in {file.path for file in client.list_artifacts(runs[0].info.run_id)}


def test_a_removed_database_is_told_of_the_training_again(example: Example) -> None:
    shutil.rmtree(example.home)
    said = example.train()
    assert "nothing trained" in said
    assert "logged as MLflow run" in said
