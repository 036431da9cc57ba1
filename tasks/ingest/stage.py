"""The stage itself: `ModelSpec` → `Artifact`, and back from an `Artifact` to the model.

Nothing is taken on trust: the bytes that were stored are the bytes that are inspected, and the model answers the first
rows of its own evaluation data before the artifact counts as one. What is expected of that data beyond its columns is a
gate: its report is part of the artifact (`tasks.expectations`), and where it does not pass nothing is exported.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from serving.preprocess import step_files
from tasks.contracts import Artifact, Digest, FileTree, digest_of
from tasks.errors import SourceError
from tasks.ingest.code import module_files, store_code
from tasks.ingest.evaluation import ingest_evaluation
from tasks.ingest.fetch import Location, identity, locate, store_tree
from tasks.ingest.metric_code import load_metrics, metric_files, store_metric_code
from tasks.ingest.preprocess import check_rows, load_preprocessing, store_step_files
from tasks.ingest.probe import probe
from tasks.ingest.registry import download, is_in_mlflow, pin, training_run
from tasks.ingest.sources import SourceModel, kind_of, loader_module, narrow
from tasks.settings import Settings
from tasks.spec import ModelSpec
from tasks.store import Store, fetch_tree
from tasks.workspace import scratch


def ingest(spec: ModelSpec, store: Store, settings: Settings) -> Artifact:
    """Find, check and store everything that the spec hands over.

    Raises:
        SourceError: the source is missing, changed while it was read, truncated, or not what the spec says.
        UnsafeSource: opening it would run code from it.
        EvaluationError: the evaluation data does not fit the signature.
        TrackingUnavailable: the source is in MLflow, and MLflow does not answer.
    """
    from tasks.expectations.evaluation import examine

    with scratch(settings.work) as work:
        location = narrow(_locate(spec.source.uri, spec, settings, work / "download"), spec.source)
        files = store_tree(location, store)
        root = "." if location.is_folder else location.name
        loader = kind_of(spec.source).loader
        if loader == "onnx":
            files = _with_external_data(location, files, store, work)
        path = fetch_tree(store, files, work / "inspect") / root
        loader_module(loader).inspect(path, spec)
        fed = spec.evaluation.preprocessed
        evaluation, columns = ingest_evaluation(
            spec,
            _locate(spec.evaluation.data, spec, settings, work / "download-evaluation"),
            store,
            work,
            None if fed is None else _locate(fed.data, spec, settings, work / "download-preprocessed"),
        )
        entrypoint = spec.source.entrypoint
        artifact = Artifact(
            name=spec.name,
            framework=spec.source.framework,
            loader=loader,
            root=root,
            files=files,
            code=None if entrypoint is None else store_code(spec.folder, entrypoint, store),
            entrypoint=entrypoint,
            signature=spec.signature,
            preprocess=store_step_files(spec, store),
            evaluation=evaluation.model_copy(update={"code": store_metric_code(spec, store)}),
            source_uri=location.uri,
            source_run=location.run,
        )
        preprocessing = load_preprocessing(artifact, spec.preprocess, store, work)
        check_rows(columns, preprocessing, evaluation.file.path)
        quality = examine(columns, spec, store, work)
        artifact = artifact.model_copy(
            update={"evaluation": artifact.evaluation.model_copy(update={"quality": quality})}
        )
        functions = load_metrics(spec.evaluation, artifact.evaluation, store, work / "probe")
        probe(load_source(artifact, store, work / "probe"), spec, columns, functions, preprocessing)
    if artifact.source_run is None:
        artifact = artifact.model_copy(update={"source_run": training_run(artifact, settings)})
    return artifact


def load_source(artifact: Artifact, store: Store, work: Path) -> SourceModel:
    """The model itself, from the store, every byte verified. Its files lie below `work` while it is used.

    Raises:
        CorruptObject: the store's bytes are not the ones that were ingested.
        SourceError: they cannot be opened here.
    """
    path = fetch_tree(store, artifact.files, work / "source") / artifact.root
    if artifact.code is not None:
        fetch_tree(store, artifact.code, work / "code")
    return loader_module(artifact.loader).load(path, artifact, work)


def fingerprint(spec: ModelSpec, settings: Settings) -> Digest:
    """Identity of everything that `ingest` would read: the same fingerprint, the same `Artifact`. Nothing is stored.

    Files are known by their bytes. What is remote is known by what its filesystem says of the content (an ETag), a
    registered model by its version; only where neither is there is it read.

    Raises:
        SourceError: something is not there.
        TrackingUnavailable: the source is in MLflow, and MLflow does not answer.
    """
    entrypoint, fed = spec.source.entrypoint, spec.evaluation.preprocessed
    code = [] if entrypoint is None else module_files(spec.folder, entrypoint)
    with scratch(settings.work) as work:
        return digest_of(
            {
                "name": spec.name,
                "source": [_identity(spec.source.uri, spec, settings, work / "source"), spec.source],
                "code": [[path.as_posix(), _sha256(spec.folder / path)] for path in code],
                "signature": spec.model_dump(mode="json", include={"inputs", "outputs", "dynamic", "preprocess"}),
                "files": [[name, _sha256(spec.folder / name)] for name in step_files(spec.preprocess)],
                "evaluation": _identity(spec.evaluation.data, spec, settings, work / "evaluation"),
                "preprocessed": fed and _identity(fed.data, spec, settings, work / "preprocessed"),
                "labels": spec.evaluation.columns,
                "metrics": [[path.as_posix(), _sha256(spec.folder / path)] for path in metric_files(spec)],
            }
        )


def _locate(uri: str, spec: ModelSpec, settings: Settings, work: Path) -> Location:
    return download(pin(uri, settings), settings, work) if is_in_mlflow(uri) else locate(uri, spec.folder)


def _identity(uri: str, spec: ModelSpec, settings: Settings, work: Path) -> list[list[str]]:
    if not is_in_mlflow(uri):
        return identity(locate(uri, spec.folder))
    pinned = pin(uri, settings)
    if pinned.identity is not None and not pinned.is_local:
        return [list(pinned.identity)]
    return [[pinned.uri], *identity(download(pinned, settings, work))]


def _with_external_data(location: Location, files: FileTree, store: Store, work: Path) -> FileTree:
    """An ONNX model with the files beside it that hold its tensors."""
    from tasks.ingest.onnx_model import external_files

    path = fetch_tree(store, files, work / "model") / location.name
    stored = list(files.files)
    for name in external_files(path):
        beside = location.beside(name)
        if not beside.exists():
            raise SourceError(
                f"{location.uri}: its tensors lie in {name}, which is not there; copy it beside the model"
            )
        [data] = store_tree(beside, store).files
        stored.append(type(data)(path=name, digest=data.digest, size_bytes=data.size_bytes))
    return FileTree(files=tuple(sorted(stored, key=lambda file: file.path)))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
