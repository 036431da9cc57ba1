"""The stage itself: `ModelSpec` → `Artifact`, and back from an `Artifact` to the model."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.contracts import Artifact, Digest, digest_of
from tasks.ingest.code import module_files, store_code
from tasks.ingest.evaluation import ingest_evaluation
from tasks.ingest.fetch import digest_tree, locate, store_tree
from tasks.ingest.sources import SourceModel, loader_module, loader_of
from tasks.settings import Settings
from tasks.spec import ModelSpec
from tasks.store import Store, fetch_tree, read_bytes


def ingest(spec: ModelSpec, store: Store, settings: Settings) -> Artifact:
    """Find, check and store everything that the spec hands over.

    Raises:
        SourceError: the source is missing, changed while it was read, truncated, or not what the spec says.
        UnsafeSource: opening it would run code from it.
        EvaluationError: the evaluation data does not fit the signature.
        TrackingUnavailable: the source is in MLflow, and MLflow does not answer.
    """
    location = locate(spec.source.uri, spec.folder)
    files, root = store_tree(location, store)
    entrypoint = spec.source.entrypoint
    code = None if entrypoint is None else store_code(spec.folder, entrypoint, store)
    with _scratch(settings) as work:
        path = fetch_tree(store, files, work / "source") / root
        loader = loader_of(path, spec)
        loader_module(loader).inspect(path, spec)
        evaluation = ingest_evaluation(spec, store, work)
    return Artifact(
        name=spec.name,
        framework=spec.source.framework,
        loader=loader,
        root=root,
        files=files,
        code=code,
        entrypoint=entrypoint,
        signature=spec.signature,
        evaluation=evaluation,
        source_uri=spec.source.uri,
    )


def load_source(artifact: Artifact, store: Store, work: Path) -> SourceModel:
    """The model itself, from the store, every byte verified. Its files lie below `work` while it is used."""
    path = fetch_tree(store, artifact.files, work / "source") / artifact.root
    if artifact.code is not None:
        for file in artifact.code.files:
            target = work / "code" / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(read_bytes(store, file))
    return loader_module(artifact.loader).load(path, artifact, work)


def fingerprint(spec: ModelSpec, settings: Settings) -> Digest:
    """Identity of everything that `ingest` would read: the same fingerprint, the same `Artifact`. Nothing is stored."""
    entrypoint = spec.source.entrypoint
    code = [] if entrypoint is None else module_files(spec.folder, entrypoint)
    return digest_of(
        {
            "source": [digest_tree(locate(spec.source.uri, spec.folder)), spec.source],
            "evaluation": digest_tree(locate(spec.evaluation.data, spec.folder)),
            "code": [[path.as_posix(), (spec.folder / path).read_text()] for path in code],
            "name": spec.name,
            "labels": sorted({metric.label for metric in spec.evaluation.metrics}),
        }
    )


@contextmanager
def _scratch(settings: Settings) -> Iterator[Path]:
    settings.work.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="ingest-", dir=settings.work))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
