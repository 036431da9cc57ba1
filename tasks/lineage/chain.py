"""From any digest to the chain it belongs to: tuned image → image → package → parity and export → artifact → training
run → data.

In: a digest, an unambiguous beginning of one, an image reference, or an MLflow run id (a training run leads forward to
the packages made from it). Out: a `Trace`. The store answers what it knows; what MLflow would add and could not is
said in `notes`, never left out silently.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydantic import Field

from serving.contract import PackagedFile
from tasks.contracts import Contract, Digest, LineageRecord, Package, TunedImage, Verdict, digest_of
from tasks.errors import BadInput, TrackingUnavailable
from tasks.lineage.history import Recorded, packages
from tasks.lineage.origin import ARTIFACT_TAG, training_run_of
from tasks.lineage.tracking import public_uri, run_url, tracking
from tasks.reuse import artifact_digest
from tasks.settings import Settings
from tasks.store import Store

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: Fewer hexadecimal digits than this are a typing mistake, not an abbreviation.
_SHORTEST = 6

_HEXADECIMAL = re.compile(r"[0-9a-f]+")


class TrainingRun(Contract):
    """The run that trained a model, as MLflow tells it."""

    run_id: str
    name: str | None
    user: str | None
    status: str
    started_at: datetime | None
    params: dict[str, str]
    metrics: dict[str, float]
    url: str | None = None


class TracedCell(Contract):
    """One format's way through the gates. `None` where it did not get that far."""

    format: str
    export: Digest | None = None
    exported: Verdict
    parity: Verdict | None = None
    image: Digest | None = None
    reference: str | None = None
    tuned: tuple[TunedImage, ...] = Field((), description="images that were tuned from this one, newest first")
    smoke: dict[str, Verdict] = Field(default_factory=dict, description="instance type → verdict")


class TracedPackage(Contract):
    """One package and everything that it came from."""

    package: Digest
    name: str
    owner: str
    verdict: Verdict
    serving_format: str | None
    cells: tuple[TracedCell, ...]
    artifact: Digest
    source_uri: str
    files: tuple[PackagedFile, ...]
    evaluation: PackagedFile
    evaluation_rows: int
    source_run: str | None
    training: TrainingRun | None = None
    record: LineageRecord | None = None


class Trace(Contract):
    """What a digest leads to, newest package first."""

    query: str
    found: str = Field(description="what the digest is, e.g. `image onnx` or `evaluation data`")
    digest: str = Field(description="in full")
    packages: tuple[TracedPackage, ...] = Field(min_length=1)
    notes: tuple[str, ...] = ()


def trace(query: str, settings: Settings, store: Store) -> Trace:
    """Walk from `query` in both directions.

    Raises:
        BadInput: nothing that the store knows begins so, or several things do.
        StoreUnavailable: the store cannot be read.
    """
    known = list(packages(store))
    kind, digest = _resolve(query.strip(), known)
    hits = [recorded for recorded in known if digest in dict(_identifiers(recorded))]
    runs, notes = _training_runs(hits, settings)
    for hit in hits:
        if hit.record is None:
            notes.append(
                f"package {_short(hit.package.digest)} is not in MLflow: run the same `slipway package` again, "
                "which reuses every stage and records it"
            )
    return Trace(
        query=query,
        found=kind,
        digest=digest,
        packages=tuple(_traced(hit, runs) for hit in hits),
        notes=tuple(dict.fromkeys(notes)),
    )


# --- what was meant -----------------------------------------------------------------------------------------------


def _resolve(query: str, known: list[Recorded]) -> tuple[str, str]:
    """What `query` names, and its full form."""
    identifiers: dict[str, str] = {}
    for recorded in known:
        for name, kind in _identifiers(recorded):
            identifiers.setdefault(name, kind)
    reference = query.removeprefix("docker.io/")
    for exact in (query, f"sha256:{query}", reference, reference.rpartition("@")[2]):
        if exact in identifiers:
            return identifiers[exact], exact
    beginning = query.removeprefix("sha256:").lower()
    if not _HEXADECIMAL.fullmatch(beginning):
        raise BadInput(
            f"{query!r} is no digest and no image that Slipway built: "
            "`slipway status` lists the packages that are known"
        )
    if len(beginning) < _SHORTEST:
        raise BadInput(f"{query} is too short to tell digests apart: give at least {_SHORTEST} hexadecimal digits")
    found = {name: kind for name, kind in identifiers.items() if name.removeprefix("sha256:").startswith(beginning)}
    if not found:
        raise BadInput(
            f"no package in the store has anything to do with {query}: "
            "`slipway status` lists the packages that are known"
        )
    if len(found) > 1:
        several = "; ".join(f"{kind} {name}" for name, kind in sorted(found.items()))
        raise BadInput(f"{query} begins {len(found)} digests: give more of one of them: {several}")
    name, kind = next(iter(found.items()))
    return kind, name


def _identifiers(recorded: Recorded) -> Iterator[tuple[str, str]]:
    """Every name under which somebody may come asking for this package, and what it names. The first one counts."""
    package, artifact = recorded.package, recorded.package.artifact
    yield package.digest, "package"
    for image in package.images:
        yield image.digest, f"image {image.format}"
        yield image.reference, f"image {image.format}"
        yield image.contract_digest, f"contract of image {image.format}"
    for tuned in recorded.tuned:
        yield tuned.digest, f"tuned image {tuned.format}"
        yield tuned.reference, f"tuned image {tuned.format}"
        yield tuned.contract.digest, f"contract of tuned image {tuned.format}"
        yield tuned.curve.digest, f"curve of tuned image {tuned.format}"
    yield artifact_digest(artifact), "artifact"
    yield artifact.files.digest, "artifact"
    for report in package.exports:
        if report.export is not None:
            yield digest_of(report.export), f"export {report.format}"
            yield report.export.files.digest, f"export {report.format}"
    for compared in package.parity:
        yield compared.export_digest, f"export {compared.format}"
    if (source_run := _source_run(recorded)) is not None:
        yield source_run, "training run"
    if recorded.record is not None:
        yield recorded.record.run_id, "MLflow run of the package"
    yield artifact.evaluation.file.digest, "evaluation data"
    for file in artifact.files.files:
        yield file.digest, f"source file {file.path}"
    for file in () if artifact.code is None else artifact.code.files:
        yield file.digest, f"code file {file.path}"
    for report in package.exports:
        for file in () if report.export is None else report.export.files.files:
            yield file.digest, f"file {file.path} of export {report.format}"


# --- what is said about it ----------------------------------------------------------------------------------------


def _traced(recorded: Recorded, runs: dict[Digest, TrainingRun]) -> TracedPackage:
    package, artifact = recorded.package, recorded.package.artifact
    return TracedPackage(
        package=package.digest,
        name=package.name,
        owner=package.owner,
        verdict=package.verdict,
        serving_format=package.serving_format,
        cells=tuple(_cells(recorded)),
        artifact=artifact_digest(artifact),
        source_uri=artifact.source_uri,
        files=artifact.files.files,
        evaluation=artifact.evaluation.file,
        evaluation_rows=artifact.evaluation.rows,
        source_run=runs[package.digest].run_id if package.digest in runs else _source_run(recorded),
        training=runs.get(package.digest),
        record=recorded.record,
    )


def _cells(recorded: Recorded) -> Iterator[TracedCell]:
    package = recorded.package
    parity = {report.format: report for report in package.parity}
    images = {image.format: image for image in package.images}
    for report in package.exports:
        compared, image = parity.get(report.format), images.get(report.format)
        yield TracedCell(
            format=report.format,
            export=None if report.export is None else digest_of(report.export),
            exported=report.verdict,
            parity=None if compared is None else compared.verdict,
            image=None if image is None else image.digest,
            reference=None if image is None else image.reference,
            tuned=() if image is None else tuple(item for item in recorded.tuned if item.base == image.digest),
            smoke={item.instance_type: item.verdict for item in package.smoke if item.format == report.format},
        )


def _source_run(recorded: Recorded) -> str | None:
    """The training run as far as the store knows: named by the source, or found when the package was recorded."""
    named = recorded.package.artifact.source_run
    return recorded.record.source_run if named is None and recorded.record is not None else named


def _training_runs(hits: list[Recorded], settings: Settings) -> tuple[dict[Digest, TrainingRun], list[str]]:
    """The training run by package, and what could not be found out about it."""
    runs: dict[Digest, TrainingRun] = {}
    notes: list[str] = []
    try:
        with tracking(settings, only_existing=True) as client:
            for hit in hits:
                run_id = _source_run(hit) or training_run_of(client, hit.package.artifact)
                run = None if run_id is None else _training_run(client, run_id, settings)
                if run is not None:
                    runs[hit.package.digest] = run
                else:
                    notes.append(_no_training_run(hit.package, run_id, settings))
    except TrackingUnavailable as error:
        notes.append(f"what MLflow knows of the training run is missing here: {error}")
    return runs, notes


def _no_training_run(package: Package, run_id: str | None, settings: Settings) -> str:
    server = public_uri(settings.tracking_uri)
    if run_id is None:
        return (
            f"MLflow at {server} knows no run that trained {package.artifact.source_uri}: let the source be a "
            f"runs:/ or models:/ URI, or set the tag {ARTIFACT_TAG} on the training run to the file's sha256"
        )
    return f"MLflow at {server} does not know the training run {run_id}: it was deleted, or logged to another server"


def _training_run(client: MlflowClient, run_id: str, settings: Settings) -> TrainingRun | None:
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            return None
        raise
    started = run.info.start_time
    return TrainingRun(
        run_id=run_id,
        name=run.info.run_name,
        user=run.data.tags.get("mlflow.user") or run.info.user_id or None,
        status=run.info.status,
        started_at=None if started is None else datetime.fromtimestamp(started / 1000, UTC),
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        url=run_url(settings.tracking_uri, run.info.experiment_id, run_id),
    )


def _short(digest: Digest) -> str:
    return digest.removeprefix("sha256:")[:12]
