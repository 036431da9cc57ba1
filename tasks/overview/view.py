"""What is shown of a package: one row per format, the worst of its instance types. Pure.

In: a `Package`, and its `LineageRecord` where MLflow has it. Out: a `PackageView`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from tasks.contracts import (
    ExportReport,
    Image,
    LineageRecord,
    Package,
    ParityReport,
    SmokeReport,
    Verdict,
)
from tasks.findings import PlacedFinding, placed


@dataclass(frozen=True, slots=True)
class FormatRow:
    """One format. Figures are `None` where there are none; of several instance types the worst counts."""

    format: str
    verdict: Verdict
    stage: str  # the first gate that did not pass; `smoke` where all did
    serves: bool
    max_abs_diff: float | None
    metrics: tuple[str, ...]  # `accuracy 0.987 → 0.987`
    size_bytes: int | None
    model_bytes: int | None
    cold_start_s: float | None
    p99_ms: float | None
    instance_types: tuple[tuple[str, Verdict], ...]
    image: str | None
    reference: str | None


@dataclass(frozen=True, slots=True)
class PackageView:
    """One package as people see it."""

    name: str
    owner: str
    digest: str
    verdict: Verdict
    rows: tuple[FormatRow, ...]
    findings: tuple[PlacedFinding, ...]
    version: str | None
    run_url: str | None
    recorded_at: datetime | None


def view_of(package: Package, record: LineageRecord | None) -> PackageView:
    """What is shown of one package."""
    return PackageView(
        name=package.name,
        owner=package.owner,
        digest=package.digest,
        verdict=package.verdict,
        rows=tuple(_row(package, name) for name in package.inputs.formats),
        findings=placed(finding for finding in package.findings if finding.verdict is not Verdict.PASSED),
        version=record.model_version if record else None,
        run_url=record.run_url if record else None,
        recorded_at=record.recorded_at if record else None,
    )


def _row(package: Package, name: str) -> FormatRow:
    exported = next((report for report in package.exports if report.format == name), None)
    compared = next((report for report in package.parity if report.format == name), None)
    image = next((image for image in package.images if image.format == name), None)
    smoked = [report for report in package.smoke if report.format == name]
    stage, verdict = _standing(exported, compared, image, smoked, package.inputs.instance_types)
    return FormatRow(
        format=name,
        verdict=verdict,
        stage=stage,
        serves=package.serving_format == name,
        max_abs_diff=_largest(output.max_abs_diff for output in compared.outputs) if compared else None,
        metrics=_metrics(compared),
        size_bytes=image.size_bytes if image else None,
        model_bytes=image.model_bytes if image else None,
        cold_start_s=_largest(report.figures.cold_start_s for report in smoked),
        p99_ms=_largest(report.figures.p99_ms for report in smoked),
        instance_types=tuple((report.instance_type, report.verdict) for report in smoked),
        image=image.digest if image else None,
        reference=image.reference if image else None,
    )


def _standing(
    exported: ExportReport | None,
    compared: ParityReport | None,
    image: Image | None,
    smoked: list[SmokeReport],
    types: tuple[str, ...],
) -> tuple[str, Verdict]:
    """The first gate that did not pass, and its answer; evidence that is missing is inconclusive."""
    for stage, report in (("export", exported), ("parity", compared)):
        verdict = report.verdict if report else Verdict.INCONCLUSIVE
        if verdict is not Verdict.PASSED:
            return stage, verdict
    if image is None:
        return "image", Verdict.INCONCLUSIVE
    missing = [Verdict.INCONCLUSIVE] if len(smoked) < len(types) else []
    return "smoke", Verdict.worst([*missing, *(report.verdict for report in smoked)])


def _metrics(compared: ParityReport | None) -> tuple[str, ...]:
    def shown(value: float | None) -> str:
        return "unknown" if value is None else f"{value:.4g}"

    found = compared.metrics if compared else ()
    return tuple(f"{metric.name} {shown(metric.source)} → {shown(metric.export)}" for metric in found)


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
