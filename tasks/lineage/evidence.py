"""A `Package` → what its MLflow runs say: one `Evidence` per run. Pure: nothing here talks to MLflow.

One run for the package, and below it one per stage and cell. Digests are tags (so that they can be searched for),
choices are parameters, figures are metrics, reports are files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from serving.contract import PackagedFile
from tasks.contracts import (
    Artifact,
    Capacity,
    Contract,
    Digest,
    ExportReport,
    FileTree,
    Image,
    Package,
    ParityReport,
    Report,
    SmokeReport,
    Verdict,
    digest_of,
)
from tasks.placement import HourlyPrice, matrix_of, recommend
from tasks.reuse import artifact_digest

#: A failed comparison's folder holds the model: above this, MLflow gets a note in its place, and the store keeps it.
LARGEST_ARTIFACT = 100_000_000
#: What MLflow takes for a metric's name (mlflow.utils.validation).
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_\-. :/]")


@dataclass(frozen=True)
class Evidence:
    """What one run holds. `files` are in the store, `texts` are written as they stand; both by name in the run."""

    stage: str
    label: str
    digest: Digest
    verdict: Verdict = Verdict.PASSED
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    files: dict[str, PackagedFile] = field(default_factory=dict)


def identity_tags(package: Package, source_run: str | None) -> dict[str, str]:
    """What the package's run and its model version are found by, and what they lead to."""
    tags = {
        "slipway.package": package.digest,
        "slipway.verdict": package.verdict.value,
        **{f"slipway.image.{image.format}": image.digest for image in package.images},
    }
    if source_run is not None:
        tags["slipway.source_run"] = source_run
    if package.serving_format is not None:
        tags["slipway.serving_format"] = package.serving_format
    return tags


def of_package(
    package: Package,
    spec_text: str,
    source_run: str | None,
    attestation: str | None = None,
    prices: Mapping[str, HourlyPrice] | None = None,
) -> Evidence:
    """The run of the package itself. Its figures are those of the format that serves; `attestation` is its signed
    envelope, and `prices` are what instance types cost."""
    from tasks.overview import render_matrix

    artifact = package.artifact
    matrix = matrix_of(package, prices or {})
    recommendation = recommend(matrix)
    return Evidence(
        stage="package",
        label=package.name,
        digest=digest_of([package, source_run, attestation, matrix, recommendation]),
        verdict=package.verdict,
        tags={
            **identity_tags(package, source_run),
            "slipway.name": package.name,
            "slipway.artifact": artifact_digest(artifact),
            "slipway.evaluation": artifact.evaluation.file.digest,
        },
        params={
            "owner": package.owner,
            "framework": artifact.framework,
            "loader": artifact.loader,
            "source": artifact.source_uri,
            "formats": ", ".join(package.inputs.formats),
            "instance_types": ", ".join(package.inputs.instance_types),
        },
        metrics=_serving_metrics(package),
        texts={
            "manifest.json": _pretty(package),
            "model.yaml": spec_text,
            "findings.md": _findings_text(package),
            "matrix.json": _pretty(matrix),
            "recommendation.json": _pretty(recommendation),
            "matrix.html": render_matrix(matrix, recommendation),
            **({} if attestation is None else {"attestation.json": attestation}),
        },
    )


def of_stages(package: Package) -> Iterator[Evidence]:
    """The runs below it, in the order of the stages."""
    yield _of_artifact(package.artifact)
    for exported in package.exports:
        yield _of_export(exported)
    for compared in package.parity:
        yield _of_parity(compared)
    for image in package.images:
        yield _of_image(image)
    for smoked in package.smoke:
        yield _of_smoke(smoked)


def _of_artifact(artifact: Artifact) -> Evidence:
    quality = artifact.evaluation.quality
    verdict = Verdict.INCONCLUSIVE if quality is None else quality.verdict
    return Evidence(
        stage="ingest",
        label=artifact.name,
        digest=digest_of(artifact),
        verdict=verdict,
        tags={
            "slipway.verdict": verdict.value,
            "slipway.artifact": artifact_digest(artifact),
            "slipway.files": artifact.files.digest,
        },
        params={
            "framework": artifact.framework,
            "loader": artifact.loader,
            "source": artifact.source_uri,
            "entrypoint": artifact.entrypoint or "none",
            "evaluation.columns": ", ".join(artifact.evaluation.columns),
        },
        metrics={"size_bytes": artifact.files.size_bytes, "evaluation.rows": artifact.evaluation.rows},
        texts={"artifact.json": _pretty(artifact)},
        files={} if quality is None else _below("data_docs", quality.docs),
    )


def _of_export(report: ExportReport) -> Evidence:
    export = report.export
    if export is None:
        return _of_report("export", report.format, report)
    return _of_report(
        "export",
        report.format,
        report,
        tags={"slipway.export": digest_of(export), "slipway.files": export.files.digest},
        params={
            "runtime": export.runtime,
            "exporter": export.exporter,
            "opset": str(export.opset),
            "ir_version": str(export.ir_version),
            **{f"version.{name}": version for name, version in export.versions.items()},
        },
        metrics={"size_bytes": export.files.size_bytes},
    )


def _of_parity(report: ParityReport) -> Evidence:
    metrics: dict[str, float | None] = {}
    params = {"batch_sizes": ", ".join(map(str, report.batch_sizes))}
    for output in report.outputs:
        metrics[f"{output.name}.max_abs_diff"] = output.max_abs_diff
        metrics[f"{output.name}.max_rel_diff"] = output.max_rel_diff
        metrics[f"{output.name}.worst_margin"] = output.worst_margin
        params[f"{output.name}.tolerance"] = f"atol {output.tolerance.atol:g}, rtol {output.tolerance.rtol:g}"
    for metric in report.metrics:
        metrics[f"{metric.name}.source"] = metric.source
        metrics[f"{metric.name}.export"] = metric.export
        metrics[f"{metric.name}.drop"] = metric.drop
        params[f"{metric.name}.max_drop"] = f"{metric.max_drop:g}"
    return _of_report(
        "parity",
        report.format,
        report,
        tags={"slipway.export": report.export_digest},
        params=params,
        metrics=metrics,
        files={
            **({} if report.html is None else {"report.html": report.html}),
            **_below("data_docs", report.docs),
            **_below("reproduction", report.reproduction),
        },
        texts=_left_out("reproduction", report.reproduction),
    )


def _of_image(image: Image) -> Evidence:
    return Evidence(
        stage="image",
        label=image.format,
        digest=digest_of(image),
        tags={"slipway.image": image.digest, "slipway.contract": image.contract_digest},
        params={"runtime": image.runtime, "reference": image.reference, "layers": str(len(image.layers))},
        metrics={"size_bytes": image.size_bytes, "model_bytes": image.model_bytes},
        texts={"image.json": _pretty(image)},
        files={file.path: file for file in (image.sbom, image.licences) if file is not None},
    )


def _of_smoke(report: SmokeReport) -> Evidence:
    return _of_report(
        "smoke",
        f"{report.format} × {report.instance_type}",
        report,
        tags={"slipway.image": report.image_digest},
        params={
            "instance_type": report.instance_type,
            "vcpus": f"{report.vcpus:g}",
            "memory_bytes": str(report.memory_bytes),
        },
        metrics=_numbers(report.figures.model_dump()) | _of_capacity(report.capacity),
    )


def _of_capacity(capacity: Capacity | None) -> dict[str, float]:
    """What the type bears, with names of their own: a p99 at the highest rate is not that of one client."""
    if capacity is None:
        return {}
    split = {} if capacity.split is None else capacity.split.model_dump()
    return {f"capacity.{name}": value for name, value in _numbers(capacity.model_dump() | split).items()}


def _numbers(figures: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: value for name, value in figures.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _of_report(
    stage: str,
    label: str,
    report: Report,
    *,
    tags: dict[str, str] | None = None,
    params: dict[str, str] | None = None,
    metrics: dict[str, Any] | None = None,
    files: dict[str, PackagedFile] | None = None,
    texts: dict[str, str] | None = None,
) -> Evidence:
    return Evidence(
        stage=stage,
        label=label,
        digest=digest_of(report),
        verdict=report.verdict,
        tags={"slipway.verdict": report.verdict.value, **(tags or {})},
        params=params or {},
        metrics=measured(metrics or {}),
        texts={"report.json": _pretty(report), **(texts or {})},
        files=files or {},
    )


def _below(folder: str, tree: FileTree | None) -> dict[str, PackagedFile]:
    """A tree's files below a folder of the run, but for those that only the store holds."""
    files = () if tree is None else tree.files
    return {f"{folder}/{file.path}": file for file in files if file.size_bytes <= LARGEST_ARTIFACT}


def _left_out(folder: str, tree: FileTree | None) -> dict[str, str]:
    """A note in the place of each file that only the store holds."""
    return {
        f"{folder}/{file.path}.where.txt": f"{file.digest}, {file.size_bytes} bytes, is in Slipway's store and was not "
        "copied here: `slipway reproduce` writes the whole folder\n"
        for file in (() if tree is None else tree.files)
        if file.size_bytes > LARGEST_ARTIFACT
    }


def _serving_metrics(package: Package) -> dict[str, float]:
    served = [report.figures for report in package.smoke if report.format == package.serving_format]
    image = next((image for image in package.images if image.format == package.serving_format), None)
    return measured(
        {
            "p99_ms": max((figures.p99_ms for figures in served if figures.p99_ms is not None), default=None),
            "cold_start_s": max(
                (figures.cold_start_s for figures in served if figures.cold_start_s is not None), default=None
            ),
            "image_size_bytes": None if image is None else image.size_bytes,
        }
    )


def measured(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Figures as MLflow takes them: what was not measured is left out, and names have characters that it knows."""
    return {_NOT_IN_A_NAME.sub("_", name): float(value) for name, value in metrics.items() if value is not None}


def _findings_text(package: Package) -> str:
    lines = [f"# {package.name}: {package.verdict.value}", ""]
    for finding in package.findings:
        where = ", ".join(f"{key} {value}" for key, value in finding.evidence.items())
        lines += [f"- **{finding.code}** ({finding.owner.value}, {finding.verdict.value}): {finding.message}"]
        lines += [f"  - {finding.advice}", f"  - {where}"]
    return "\n".join([*lines, *(["No findings."] if not package.findings else [])]) + "\n"


def _pretty(contract: Contract) -> str:
    return contract.model_dump_json(indent=2) + "\n"
