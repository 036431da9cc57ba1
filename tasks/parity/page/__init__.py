"""The parity report for people: one HTML file that needs nothing else, on a phone, on paper, light and dark.

    outputs.py   difference against noise, per output and pool; batch sizes
    metrics.py   the drop of each task metric with its bound, against what is allowed
    classes.py   rows lost and gained, per class
    layers.py    the way through the layers, and where it leaves the source

In: the report and the evidence behind it. Out: the text of the page. The modules turn contracts into places in per cent
and pixels; how that looks is in the templates (`report.html.j2` includes the others), which escape everything that they
are given. What was not measured has no section.
"""

from __future__ import annotations

from dataclasses import dataclass

from tasks.contracts import Artifact, Export, ParityReport, Verdict
from tasks.figures import size
from tasks.parity.confrontation import Judgement
from tasks.parity.page.classes import changes
from tasks.parity.page.layers import way
from tasks.parity.page.metrics import interval
from tasks.parity.page.outputs import batches, chart
from tasks.parity.page.words import figure, share
from tasks.spec import ModelSpec

_SAID = {
    Verdict.PASSED: "answers as the source model does",
    Verdict.FAILED: "does not answer as the source model does",
    Verdict.INCONCLUSIVE: "could not be compared with its source model",
}


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that the page shows beside the report itself."""

    spec: ModelSpec
    artifact: Artifact
    export: Export
    judgement: Judgement


def render(report: ParityReport, evidence: Evidence) -> str:
    """The page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = evidence.judgement
    environment = Environment(
        loader=PackageLoader("tasks.parity.page", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": figure, "share": share, "size": size}
    return environment.get_template("report.html.j2").render(
        report=report,
        said=_SAID[report.verdict],
        summary=_summary(report),
        spec=evidence.spec,
        artifact=evidence.artifact,
        export=evidence.export,
        charts=[chart(tensor, found) for tensor in evidence.spec.outputs] if found.outcomes else [],
        batches=batches(found.outcomes, found.pools),
        intervals=[interval(metric) for metric in report.metrics],
        changes=changes(report.classes),
        way=None if report.divergence is None else way(report.divergence),
        case=found.case,
        blocking=[finding for finding in report.findings if finding.verdict is not Verdict.PASSED],
        remarks=[finding for finding in report.findings if finding.verdict is Verdict.PASSED],
    )


def _summary(report: ParityReport) -> str:
    """One sentence of figures for a pass; what blocks is said by the findings."""
    margins = [output.worst_margin for output in report.outputs if output.worst_margin is not None]
    if report.verdict is not Verdict.PASSED or not margins:
        return ""
    values = sum(output.compared_values for output in report.outputs)
    said = f"{values:,} values compared; the largest difference is {share(max(margins))} of what is allowed"
    moved = [f"{metric.name} {figure(metric.source, 4)} → {figure(metric.export, 4)}" for metric in report.metrics]
    return "; ".join([said, *moved]) + "."
