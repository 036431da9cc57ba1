"""The package's manifest: every stage's evidence gathered and judged. Pure: contracts in, a `Package` out.

A package passes when its evaluation data holds, each requested format passed export and parity, has an image, and that
image passed smoke on each requested instance type. What is missing blocks like what failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from tasks.contracts import (
    Artifact,
    DataReport,
    Digest,
    ExportReport,
    Finding,
    Image,
    Owner,
    Package,
    PackageInputs,
    ParityReport,
    Report,
    SmokeReport,
    Verdict,
)
from tasks.export.conversion import CANNOT_EXPRESS
from tasks.reuse import artifact_digest, pipeline_digest
from tasks.spec import ModelSpec

AUTO = "auto"
_T = TypeVar("_T")


def package_inputs(spec: ModelSpec, artifact: Artifact) -> PackageInputs:
    """All that the package follows from. Neither the order of formats and instance types nor repeats matter."""
    ordered = in_order(spec)
    return PackageInputs(
        spec=ordered.digest,
        artifact=artifact_digest(artifact),
        evaluation=artifact.evaluation.digest,
        formats=ordered.formats,
        instance_types=ordered.smoke.instance_types,
        pipeline=pipeline_digest(ordered.formats),
    )


def in_order(spec: ModelSpec) -> ModelSpec:
    """The spec that a package is known by: each format and instance type once, in one order."""
    smoke = spec.smoke.model_copy(update={"instance_types": _sorted(spec.smoke.instance_types)})
    return spec.model_copy(update={"formats": _sorted(spec.formats), "smoke": smoke})


def assemble(
    spec: ModelSpec,
    artifact: Artifact,
    exports: Sequence[ExportReport],
    parity: Sequence[ParityReport],
    images: Sequence[Image],
    smoke: Sequence[SmokeReport],
) -> Package:
    """Judge the evidence and write it down.

    Raises:
        ValueError: two reports answer for the same cell, or a report is about something that was not asked for.
    """
    inputs = package_inputs(spec, artifact)
    left_out = _left_out(exports) if spec.every_format else frozenset[str]()
    cells = _Cells(inputs, left_out, artifact.evaluation.quality, exports, parity, images, smoke)
    findings = tuple(cells.findings())
    serving, remarks = _serving_format(spec.serving.format, cells)
    findings += remarks
    verdict = Verdict.worst(
        [*cells.verdicts(), *(finding.verdict for finding in findings if finding.verdict is not Verdict.PASSED)]
    )
    return Package(
        verdict=verdict,
        findings=findings,
        name=spec.name,
        owner=spec.owner,
        inputs=inputs,
        artifact=artifact,
        exports=tuple(cells.exports[name] for name in inputs.formats if name in cells.exports),
        parity=tuple(cells.parity[name] for name in inputs.formats if name in cells.parity),
        images=tuple(cells.images[name] for name in inputs.formats if name in cells.images),
        smoke=tuple(cells.smoke[cell] for cell in cells.smoke_cells if cell in cells.smoke),
        serving_format=serving,
    )


class _Cells:
    """The reports by the cell they answer for, and the one about the data that all of them rest on."""

    def __init__(
        self,
        inputs: PackageInputs,
        left_out: frozenset[str],
        data: DataReport | None,
        exports: Sequence[ExportReport],
        parity: Sequence[ParityReport],
        images: Sequence[Image],
        smoke: Sequence[SmokeReport],
    ) -> None:
        self.data, self.left_out = data, left_out
        self.formats, self.types = inputs.formats, inputs.instance_types
        self.smoke_cells = tuple((name, kind) for name in self.formats for kind in self.types)
        self.exports = _by(exports, lambda report: report.format, self.formats)
        self.parity = _by(parity, lambda report: report.format, self.formats)
        self.images = _by(images, lambda image: image.format, self.formats)
        self.smoke = _by(smoke, lambda report: (report.format, report.instance_type), self.smoke_cells)

    def passed(self, name: str) -> bool:
        """Whether this format got through every gate, on every instance type."""
        return self.data_verdict is Verdict.PASSED and all(verdict is Verdict.PASSED for verdict in self._of(name))

    @property
    def data_verdict(self) -> Verdict:
        """Ingest's gate. Data that nobody looked at is no evidence."""
        return Verdict.INCONCLUSIVE if self.data is None else self.data.verdict

    def verdicts(self) -> Iterable[Verdict]:
        yield self.data_verdict
        for name in self.formats:
            if name not in self.left_out:
                yield from self._of(name)

    def rank(self, name: str) -> tuple[bool, int, str]:
        """Full precision first, then the smallest image.

        Not the measured latency: whatever passed smoke holds the spec's budgets, and milliseconds differ from run to
        run, so that the same inputs would give a package that serves another format each time.
        """
        exported = self.exports[name].export
        return exported is None or exported.precision != "full", self.images[name].size_bytes, name

    def _of(self, name: str) -> Iterable[Verdict]:
        """One verdict per gate up to the first that did not pass: what comes after it was rightly not run."""
        gates: list[tuple[Report | None, bool]] = [
            (self.exports.get(name), True),
            (self.parity.get(name), self._parity_is_of_the_export(name)),
        ]
        for report, belongs in gates:
            verdict = report.verdict if report is not None and belongs else Verdict.INCONCLUSIVE
            yield verdict
            if verdict is not Verdict.PASSED:
                return
        image = self.images.get(name)
        if image is None:
            yield Verdict.INCONCLUSIVE
            return
        for kind in self.types:
            report = self.smoke.get((name, kind))
            yield report.verdict if report and report.image_digest == image.digest else Verdict.INCONCLUSIVE

    def _parity_is_of_the_export(self, name: str) -> bool:
        exported, compared = self.exports.get(name), self.parity.get(name)
        return bool(
            exported and exported.export and compared and compared.export_digest == exported.export.files.digest
        )

    def findings(self) -> Iterable[Finding]:
        """Every report's findings with their place, and one for each piece of evidence that should be there."""
        yield from _placed(self.data, stage="ingest")
        if self.data is None:
            yield _no_data_report()
        for name in self.formats:
            exported, compared, image = self.exports.get(name), self.parity.get(name), self.images.get(name)
            if name in self.left_out:
                yield from map(_as_remark, _placed(exported, stage="export", format=name))
                continue
            yield from _placed(exported, stage="export", format=name)
            yield from _placed(compared, stage="parity", format=name)
            for kind in self.types:
                yield from _placed(self.smoke.get((name, kind)), stage="smoke", format=name, instance_type=kind)
            yield from self._missing(name, exported, compared, image)

    def _missing(
        self, name: str, exported: ExportReport | None, compared: ParityReport | None, image: Image | None
    ) -> Iterable[Finding]:
        if exported is None and self.data_verdict is not Verdict.PASSED:
            return  # rightly not exported
        if exported is None:
            yield _no_evidence("export", name)
        elif exported.export is None:
            return
        elif compared is None:
            yield _no_evidence("parity", name)
        elif not self._parity_is_of_the_export(name):
            yield _foreign_evidence("parity", name, "another export")
        elif compared.verdict is not Verdict.PASSED:
            return
        elif image is None:
            yield _no_evidence("image", name)
        else:
            for kind in self.types:
                report = self.smoke.get((name, kind))
                if report is None:
                    yield _no_evidence("smoke", name, kind)
                elif report.image_digest != image.digest:
                    yield _foreign_evidence("smoke", name, f"another image than {image.digest}", kind)


def _left_out(exports: Sequence[ExportReport]) -> frozenset[str]:
    """Formats of `[all]` that cannot express the model; none where that would leave nothing."""
    names = frozenset(report.format for report in exports if _cannot_express(report))
    return names if len(names) < len(exports) else frozenset()


def _cannot_express(report: ExportReport) -> bool:
    """Whether that is all that is wrong; a failure without a reason is not known to be that."""
    codes = {finding.code for finding in report.findings if finding.verdict is not Verdict.PASSED}
    return report.verdict is Verdict.FAILED and bool(codes) and codes <= CANNOT_EXPRESS


def _as_remark(finding: Finding) -> Finding:
    return finding.model_copy(
        update={
            "verdict": Verdict.PASSED,
            "message": f"left out of [all]: {finding.message}",
            "advice": "nothing, unless this format is wanted; then name it in formats, where it blocks",
        }
    )


def _serving_format(asked: str, cells: _Cells) -> tuple[str | None, tuple[Finding, ...]]:
    """The format that serves: the one asked for, or the first in rank of those that passed."""
    if asked != AUTO:
        if asked in cells.formats:
            return (asked if cells.passed(asked) else None), ()
        return None, (
            Finding(
                code="PACKAGE_SERVING_FORMAT_NOT_BUILT",
                owner=Owner.MODEL,
                message=f"serving.format is {asked}, which is not among the formats of this package "
                f"({', '.join(cells.formats)})",
                advice=f"add {asked} to the formats, or set serving.format: {AUTO}",
            ),
        )
    passed = [name for name in cells.formats if cells.passed(name)]
    return min(passed, key=cells.rank, default=None), ()


def _placed(report: Report | None, **place: str) -> Iterable[Finding]:
    for finding in () if report is None else report.findings:
        yield finding.model_copy(update={"evidence": {**finding.evidence, **place}})


def _no_evidence(stage: str, name: str, instance_type: str | None = None) -> Finding:
    cell = name if instance_type is None else f"{name} on {instance_type}"
    return Finding(
        code=f"PACKAGE_{stage.upper()}_MISSING",
        owner=Owner.PLATFORM,
        verdict=Verdict.INCONCLUSIVE,
        message=f"there is no {stage} result for {cell}",
        advice=f"look why the {stage} of {cell} did not finish, then run the same again: what finished is reused",
        evidence=_place(stage, name, instance_type),
    )


def _no_data_report() -> Finding:
    return Finding(
        code="PACKAGE_DATA_MISSING",
        owner=Owner.PLATFORM,
        verdict=Verdict.INCONCLUSIVE,
        message="there is no report on the evaluation data",
        advice="run the same again with --fresh",
        evidence={"stage": "ingest"},
    )


def _foreign_evidence(stage: str, name: str, what: str, instance_type: str | None = None) -> Finding:
    return Finding(
        code=f"PACKAGE_{stage.upper()}_FOREIGN",
        owner=Owner.PLATFORM,
        verdict=Verdict.INCONCLUSIVE,
        message=f"the {stage} result for {name} is about {what}",
        advice="run the same again with --fresh",
        evidence=_place(stage, name, instance_type),
    )


def _place(stage: str, name: str, instance_type: str | None) -> dict[str, str | int | float | bool]:
    place: dict[str, str | int | float | bool] = {"stage": stage, "format": name}
    return place if instance_type is None else {**place, "instance_type": instance_type}


_Cell = TypeVar("_Cell", str, tuple[str, str])


def _by(reports: Sequence[_T], cell: Callable[[_T], _Cell], asked: Sequence[_Cell]) -> dict[_Cell, _T]:
    found: dict[_Cell, _T] = {}
    for report in reports:
        key = cell(report)
        if key in found:
            raise ValueError(f"two reports answer for {key}")
        if key not in asked:
            raise ValueError(f"a report answers for {key}, which was not asked for")
        found[key] = report
    return found


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(names)))


__all__ = ["AUTO", "Digest", "assemble", "package_inputs"]
