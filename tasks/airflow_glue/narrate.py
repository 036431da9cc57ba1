"""What a stage found, as lines for a task's log: what was reused, the figures, the findings. Imports no Airflow.

Pure: contracts in, lines out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tasks.contracts import (
    Artifact,
    Contract,
    ExportReport,
    Finding,
    Image,
    Package,
    ParityReport,
    Report,
    SmokeReport,
    StageRun,
    Verdict,
)
from tasks.figures import figure, size
from tasks.findings import placed


def story(run: StageRun[Any]) -> list[str]:
    """A stage's run: how it came by its result, what the result is, and what was remarked. What blocks is `reason`."""
    since = "" if run.made_at is None else f" since {run.made_at:%Y-%m-%d %H:%M} UTC"
    how = (
        f"reused: nothing that it follows from has changed{since}" if run.reused else f"ran for {run.duration_s:.1f} s"
    )
    report = run.result.evaluation.quality if isinstance(run.result, Artifact) else run.result
    verdict = "" if report is None or not isinstance(report, Report) else f": {report.verdict}"
    return [f"{run.stage} of {run.label}{verdict}", how, *figures(run.result), *remarks(report)]


def figures(result: Contract) -> list[str]:
    """The figures of one stage's result."""
    return list(_FIGURES[type(result)](result))


def remarks(result: Contract | None) -> list[str]:
    """What was found and blocks nothing."""
    found = result.findings if isinstance(result, Report) else ()
    return list(_lines(finding for finding in found if finding.verdict is Verdict.PASSED))


def reason(report: Report, what: str) -> str:
    """Why a gate blocks: the message that a failed task ends with."""
    blocking = (finding for finding in report.findings if finding.verdict is not Verdict.PASSED)
    seen = []
    if isinstance(report, ParityReport) and report.reproduction is not None:
        seen = ["the folder `reproduction` in its MLflow run shows it without Slipway: python reproduce.py"]
    return "\n".join([f"{what}: {report.verdict}", *_lines(blocking), *seen])


def _lines(findings: Iterable[Finding]) -> Iterable[str]:
    """Each finding: what, where, whose it is, and what to do."""
    for item in placed(findings):
        finding = item.finding
        where = f" at {'; '.join(item.places)}" if item.places else ""
        yield f"{finding.code}{where} (for the {finding.owner} team): {finding.message}"
        yield f"    → {finding.advice}"


def _artifact(artifact: Artifact) -> Iterable[str]:
    yield f"{artifact.source_uri}: {artifact.framework} by {artifact.loader}, {size(artifact.files.size_bytes)}"
    yield f"evaluation data: {artifact.evaluation.rows} rows of {', '.join(artifact.evaluation.columns)}"
    if artifact.source_run:
        yield f"trained by the MLflow run {artifact.source_run}"


def _export(report: ExportReport) -> Iterable[str]:
    if report.export is None:
        return
    export = report.export
    opset = f", opset {export.opset}" if export.opset else ""
    ir = f", IR {export.ir_version}" if export.ir_version else ""
    yield f"by {export.exporter}{opset}{ir}: {len(export.files.files)} files, {size(export.files.size_bytes)}"
    yield "with " + ", ".join(f"{name} {version}" for name, version in sorted(export.versions.items()))


def _parity(report: ParityReport) -> Iterable[str]:
    yield f"batch sizes {', '.join(map(str, report.batch_sizes))}"
    for output in report.outputs:
        yield (
            f"{output.name}: largest difference {figure(output.max_abs_diff)} over {output.compared_values} values, "
            f"{figure(output.worst_margin)} of what is allowed"
        )
    for metric in report.metrics:
        yield (
            f"{metric.name}: source {figure(metric.source)}, export {figure(metric.export)}, "
            f"drop {figure(metric.drop)} of at most {metric.max_drop:g}, on {metric.rows} rows"
        )


def _image(image: Image) -> Iterable[str]:
    yield f"{image.reference} ({image.digest})"
    yield f"{size(image.size_bytes)}, of which the model adds {size(image.model_bytes)}"


def _smoke(report: SmokeReport) -> Iterable[str]:
    measured = report.figures
    memory = "unknown" if measured.peak_memory_bytes is None else size(measured.peak_memory_bytes)
    yield f"under {report.vcpus:g} vCPUs and {size(report.memory_bytes)}"
    yield (
        f"cold start {figure(measured.cold_start_s)} s, p50 {figure(measured.p50_ms)} ms, "
        f"p99 {figure(measured.p99_ms)} ms over {measured.requests} requests, peak memory {memory}"
    )
    yield f"{measured.golden_rows} golden rows, {measured.concurrency} requests at once"


def _package(package: Package) -> Iterable[str]:
    yield f"package {package.digest}"
    yield f"serves as {package.serving_format}" if package.serving_format else "no format passed every gate"


_FIGURES: Mapping[type[Contract], Callable[[Any], Iterable[str]]] = {
    Artifact: _artifact,
    ExportReport: _export,
    ParityReport: _parity,
    Image: _image,
    SmokeReport: _smoke,
    Package: _package,
}
