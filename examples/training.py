"""What every `train.py` shares: train once, log to MLflow, and do nothing when nothing changed.

In: a function that trains and writes its files into a folder. Out: that folder as `artifacts/`, next to the caller,
with a stamp, and an MLflow run that Slipway's lineage finds by its tag `slipway.artifact_sha256`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from tasks.settings import Settings

STAMP = ".trained.json"
EXPERIMENT = "training"


@dataclass(frozen=True)
class Trained:
    """What one training gave.

    `artifact` and `evaluation` are file names; `data` is the function of `sklearn.datasets` that loads the data, and
    `train_rows` and `eval_rows` are its split.
    """

    artifact: str
    evaluation: str
    data: str
    train_rows: int
    eval_rows: int
    params: dict[str, str | int | float]
    metrics: dict[str, float]


def train_once(
    folder: Path, libraries: tuple[str, ...], train: Callable[[Path], Trained], further: tuple[Path, ...] = ()
) -> None:
    """Train into `folder/artifacts` unless what lies there was made by this very code, and log it where it is not yet.

    Args:
        folder: the example's folder, whose `train.py` and `model.py` decide whether to train again.
        libraries: distributions whose version decides it too.
        train: writes its files into the folder it is given.
        further: files elsewhere that decide it too.
    """
    artifacts = folder / "artifacts"
    code = _identity(folder, libraries, further)
    stamp = _read_stamp(artifacts, code)
    if stamp is None:
        started = time.monotonic()
        aside = folder / f".artifacts.{os.getpid()}"
        try:
            aside.mkdir()
            trained = train(aside)
            stamp = {"code": code, "files": _digests(aside), "trained": asdict(trained), "logged": []}
            shutil.rmtree(artifacts, ignore_errors=True)
            aside.rename(artifacts)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        _write_stamp(artifacts, stamp)
        figures = ", ".join(f"{name} {value:.4g}" for name, value in trained.metrics.items())
        print(f"{folder.name}: trained in {time.monotonic() - started:.1f} s ({figures})")
    else:
        trained = Trained(**stamp["trained"])
        print(f"{folder.name}: artifacts are up to date, nothing trained")

    settings = Settings.from_environment()
    if _already_logged(settings, stamp["logged"]):
        return
    run = _log(folder, trained, stamp["files"][trained.artifact], settings)
    stamp["logged"].append({"tracking_uri": settings.tracking_uri, "run": run})
    _write_stamp(artifacts, stamp)
    print(f"{folder.name}: logged as MLflow run {run}")


def without_times(archive: Path, replace: Callable[[str, bytes], tuple[str, bytes]] | None = None) -> None:
    """Rewrite a zip archive with every member dated 1980, so that equal contents are equal bytes.

    `replace` may give a member another name and content.
    """
    aside = archive.with_suffix(".aside")
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(aside, "w") as new:
        for info in old.infolist():
            name, content = info.filename, old.read(info)
            if replace is not None:
                name, content = replace(name, content)
            member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            member.compress_type = info.compress_type
            new.writestr(member, content)
    aside.replace(archive)


def in_order_seen() -> Callable[[re.Match[bytes]], bytes]:
    """A replacement for `re.sub` that numbers what group 2 matches from 0, the same text by the same number.

    For the memory addresses that some libraries write into their files as names.
    """
    numbers: dict[bytes, bytes] = {}
    return lambda match: match[1] + numbers.setdefault(match[2], b"%d" % len(numbers)) + match[3]


def _identity(folder: Path, libraries: tuple[str, ...], further: tuple[Path, ...]) -> str:
    """What the artifacts follow from: the example's code, this file, and the libraries' versions."""
    sources = [*sorted(folder.glob("*.py")), *further, Path(__file__)]
    parts = [path.name + hashlib.sha256(path.read_bytes()).hexdigest() for path in sources]
    parts += [f"{name}=={version(name)}" for name in ("numpy", "scikit-learn", *libraries)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _digests(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.name != STAMP
    }


def _read_stamp(artifacts: Path, code: str) -> dict | None:
    """The stamp, if it is of this code and every file is as it was written."""
    try:
        stamp = json.loads((artifacts / STAMP).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return stamp if stamp["code"] == code and stamp["files"] == _digests(artifacts) else None


def _write_stamp(artifacts: Path, stamp: dict) -> None:
    aside = artifacts / f"{STAMP}.{os.getpid()}"
    aside.write_text(json.dumps(stamp, indent=1))
    aside.replace(artifacts / STAMP)


def _already_logged(settings: Settings, logged: list[dict[str, str]]) -> bool:
    """Whether this tracking server knows the training; an embedded database that was removed forgot it."""
    uri = settings.tracking_uri
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        logged[:] = [entry for entry in logged if entry["tracking_uri"] != uri]
    return any(entry["tracking_uri"] == uri for entry in logged)


def _log(folder: Path, trained: Trained, sha256: str, settings: Settings) -> str:
    """Log the training with its parameters, metrics, data and artifact; the run's id."""
    import mlflow
    import mlflow.data
    import sklearn.datasets

    client = mlflow.MlflowClient(settings.tracking_uri)
    if settings.tracking_uri.startswith("sqlite:///"):
        Path(settings.tracking_uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        embedded = settings.tracking_uri.startswith("sqlite:///")
        location = str(settings.home / "mlflow" / "artifacts" / EXPERIMENT) if embedded else None
        experiment = client.create_experiment(EXPERIMENT, artifact_location=location)
    else:
        experiment = found.experiment_id

    mlflow.set_tracking_uri(settings.tracking_uri)
    with mlflow.start_run(experiment_id=experiment, run_name=f"train {folder.name}") as run:
        mlflow.log_params({**trained.params, "train_rows": trained.train_rows, "eval_rows": trained.eval_rows})
        mlflow.log_metrics(trained.metrics)
        mlflow.set_tags({"slipway.artifact_sha256": sha256, "slipway.example": folder.name})
        data = getattr(sklearn.datasets, trained.data)()
        dataset = mlflow.data.from_numpy(data.data, targets=data.target, name=f"sklearn.datasets.{trained.data}")
        mlflow.log_input(dataset, context="training")
        mlflow.log_artifact(str(folder / "artifacts" / trained.artifact))
        mlflow.log_artifact(str(folder / "artifacts" / trained.evaluation))
        return str(run.info.run_id)


if __name__ == "__main__":
    sys.exit("run an example's own train.py, e.g. python examples/digits-cnn/train.py")
