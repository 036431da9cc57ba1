"""Sources in MLflow: `models:/name/3`, `models:/name@alias` and `runs:/id/path`, pinned to what they stand for now.

In: such a URI. Out: where its bytes are, and which run trained it. An alias or `latest` is resolved once, to a version;
what is recorded is the version. `training_run` asks the other way round: which run wrote these bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.contracts import Artifact
from tasks.errors import SourceError, TrackingUnavailable
from tasks.ingest.fetch import Location, locate
from tasks.lineage.origin import training_run_of
from tasks.lineage.tracking import tracking
from tasks.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

_MODEL = re.compile(r"models:/(?P<name>[^/@]+)(/(?P<version>[0-9]+|latest)|@(?P<alias>[^/@]+))?(?P<path>/.*)?")


@dataclass(frozen=True, slots=True)
class Pinned:
    """What a URI stands for now. `artifact_uri` is where MLflow keeps the bytes.

    `identity` is there where the registry promises that the bytes never change.
    """

    uri: str
    artifact_uri: str
    run: str | None
    identity: tuple[str, ...] | None

    @property
    def is_local(self) -> bool:
        """Whether the bytes lie on this machine's disk, so that nothing has to be downloaded."""
        return "://" not in self.artifact_uri.removeprefix("file://") and not self.artifact_uri.startswith("mlflow-")


def is_in_mlflow(uri: str) -> bool:
    """Whether MLflow must be asked where `uri` is."""
    return uri.startswith(("models:/", "runs:/"))


def pin(uri: str, settings: Settings) -> Pinned:
    """Resolve a `models:/` or `runs:/` URI.

    Raises:
        SourceError: MLflow knows no such model, version, alias or run.
        TrackingUnavailable: MLflow does not answer.
    """
    with _asking(uri, settings) as client:
        return _pin_run(client, uri) if uri.startswith("runs:/") else _pin_model(client, uri)


def download(pinned: Pinned, settings: Settings, work: Path) -> Location:
    """Where the bytes can be read from: where they are, or a copy below `work` that MLflow's client downloads.

    Raises:
        SourceError: nothing is there.
        TrackingUnavailable: MLflow does not answer.
    """
    path = pinned.artifact_uri
    if pinned.is_local:
        from mlflow.utils.file_utils import local_file_uri_to_path

        path = str(local_file_uri_to_path(path))  # type: ignore[no-untyped-call]
    else:
        with _asking(pinned.uri, settings):
            import mlflow.artifacts

            path = mlflow.artifacts.download_artifacts(
                artifact_uri=path, dst_path=str(work), tracking_uri=settings.tracking_uri
            )
    found = locate(path, Path("/"))
    return Location(found.filesystem, found.path, pinned.uri, pinned.run)


def training_run(artifact: Artifact, settings: Settings) -> str | None:
    """The run that wrote the artifact's bytes, where one says so by its tag and MLflow answers; never an error."""
    try:
        with tracking(settings, only_existing=True) as client:
            return training_run_of(client, artifact)
    except TrackingUnavailable:
        return None


@contextmanager
def _asking(uri: str, settings: Settings) -> Iterator[MlflowClient]:
    """A client; what it does not know is the source's fault, not the platform's."""
    with tracking(settings, only_existing=True) as client:
        from mlflow.exceptions import MlflowException

        try:
            yield client
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND"):
                raise
            reason = str(error).strip().splitlines()[0]
            raise SourceError(f"{uri}: MLflow has no such source ({reason}); correct source.uri") from error


def _pin_run(client: MlflowClient, uri: str) -> Pinned:
    """An artifact of a run, or of a model that the run logged: MLflow 3 keeps those apart."""
    run_id, _, path = uri.removeprefix("runs:/").partition("/")
    run = client.get_run(run_id)
    folder, _, _ = path.rstrip("/").rpartition("/")
    listed = [file.path for file in client.list_artifacts(run_id, folder or None)]
    if path.rstrip("/") in listed:
        return Pinned(uri, f"{str(run.info.artifact_uri).rstrip('/')}/{path}", run_id, None)
    name, _, rest = path.partition("/")
    models = [client.get_logged_model(output.model_id) for output in (run.outputs.model_outputs if run.outputs else ())]
    for model in models:
        if model.name == name:
            return Pinned(uri, f"{model.artifact_location}/{rest}".rstrip("/"), run_id, (model.model_id, rest))
    there = ", ".join([*listed, *(str(model.name) for model in models)]) or "nothing"
    raise SourceError(f"{uri}: the run has no such artifact; in {folder or 'it'} there is {there}")


def _pin_model(client: MlflowClient, uri: str) -> Pinned:
    match = _MODEL.fullmatch(uri)
    if match is None:
        raise SourceError(f"{uri}: expected models:/name/3 or models:/name@alias")
    name, version, alias, path = match["name"], match["version"], match["alias"], match["path"] or ""
    if version is None and alias is None:
        model = client.get_logged_model(name)
        return Pinned(uri, f"{model.artifact_location}{path}", model.source_run_id, (model.model_id,))
    if alias is not None:
        found = client.get_model_version_by_alias(name, alias)
    elif version == "latest":
        found = _latest(client, name)
    else:
        found = client.get_model_version(name, str(version))
    kept = client.get_model_version_download_uri(name, str(found.version))
    run = found.run_id or _run_of_logged_model(client, found)
    identity = (name, str(found.version), kept, str(found.creation_timestamp))
    return Pinned(f"models:/{name}/{found.version}{path}", f"{kept.rstrip('/')}{path}", run, identity)


def _latest(client: MlflowClient, name: str) -> Any:
    versions = client.search_model_versions(f"name = '{name}'")
    if not versions:
        raise SourceError(f"models:/{name}/latest: MLflow has no version of {name}; correct source.uri")
    return max(versions, key=lambda version: int(version.version))


def _run_of_logged_model(client: MlflowClient, version: Any) -> str | None:
    model_id = getattr(version, "model_id", None)
    return client.get_logged_model(model_id).source_run_id if model_id else None
