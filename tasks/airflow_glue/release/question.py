"""What a person sees who is asked whether users may meet a new version: the evidence, in Markdown. Pure.

In: the release after shadow, both packages. Out: a `Question`. What is not known is said to be unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydantic import Field

from tasks.airflow_glue.markdown import table
from tasks.contracts import Contract, LineageRecord, Package, ParityReport, Report, Verdict
from tasks.figures import NOTHING, figure, short
from tasks.findings import placed
from tasks.release.contracts import Deployed, Plan, Release, ShadowReport


class Question(Contract):
    """What a person is asked, where the spec wants one to be."""

    is_asked: bool
    subject: str
    body: str = Field(description="Markdown")


def question(
    release: Release, package: Package, record: LineageRecord | None, replaced: Package | None, *, is_asked: bool
) -> Question:
    """The question about `release`, whose candidate is `package` and whose stable version is `replaced`."""
    candidate = _called(release.model, release.candidate)
    stable = "nothing: the model was never released before"
    if release.stable is not None:
        stable = f"**{_called(release.model, release.stable)}**, package `{release.stable.package}`"
    run = f" ([MLflow]({record.run_url}))" if record is not None and record.run_url else ""
    parts = [
        f"**{candidate}**, package `{release.candidate.package}`{run}, would replace {stable}.",
        table(("", "new", "now"), _compared(release, package, replaced)),
        f"### Shadow: {release.shadow.verdict if release.shadow else 'not run'}",
        *_shadow(release.shadow),
        "### What follows",
        _plan(release.plan),
    ]
    return Question(is_asked=is_asked, subject=f"Release {candidate}?", body="\n\n".join(parts))


def _called(model: str, deployed: Deployed) -> str:
    return f"{model} version {deployed.version}" if deployed.version else f"{model} {short(deployed.package)}"


def _compared(release: Release, package: Package, replaced: Package | None) -> Iterator[tuple[str, str, str]]:
    new, old = release.candidate.format, release.stable.format if release.stable else ""
    yield "format", new, old or NOTHING
    yield (
        "image",
        f"`{short(release.candidate.image)}`",
        f"`{short(release.stable.image)}`" if release.stable else NOTHING,
    )
    mine, theirs = _metrics(package, new), _metrics(replaced, old)
    for name in dict.fromkeys([*mine, *theirs]):
        yield name, mine.get(name, "unknown"), theirs.get(name, NOTHING if replaced is None else "unknown")
    yield "parity", _verdicts(_parity(package, new)), _verdicts(_parity(replaced, old))
    yield "smoke", _smoked(package, new), _smoked(replaced, old)


def _metrics(package: Package | None, format: str) -> dict[str, str]:
    """The task metrics of the export that serves."""
    if package is None:
        return {}
    return {
        compared.name: f"{figure(compared.export)} on {compared.rows} rows"
        for report in _parity(package, format)
        for compared in report.metrics
    }


def _parity(package: Package | None, format: str) -> list[ParityReport]:
    return [report for report in package.parity if report.format == format] if package else []


def _smoked(package: Package | None, format: str) -> str:
    if package is None:
        return NOTHING
    reports = [report for report in package.smoke if report.format == format]
    return ", ".join(f"{report.instance_type} {report.verdict}" for report in reports) or "unknown"


def _verdicts(reports: Iterable[Report]) -> str:
    return ", ".join(str(report.verdict) for report in reports) or NOTHING


def _shadow(report: ShadowReport | None) -> Iterator[str]:
    if report is None:
        return
    agreed = "" if report.agreement is None else f", {report.agreement:.2%} of rows answered alike"
    metrics = "".join(f"; {name} {figure(old)} → {figure(new)}" for name, (old, new) in report.metrics.items())
    yield (
        f"{report.requests} requests ({report.distinct} different) from {report.source or 'an unknown source'}: "
        f"{report.errors} not answered, {report.slow} slow{agreed}{metrics}. Compared as {report.kind}."
    )
    for item in placed(report.findings):
        mark = "remark" if item.finding.verdict is Verdict.PASSED else str(item.finding.verdict)
        yield f"- `{item.finding.code}` ({mark}, {item.finding.owner}): {item.finding.message}"


def _plan(plan: Plan) -> str:
    steps = " → ".join(f"{step:g}" for step in plan.steps)
    return (
        f"{steps} % of traffic, each for at least {plan.bake_s:g} s and {plan.min_requests} requests. An equal version "
        f"is rolled back with a chance of at most {plan.alpha:.2%}; what does not decide within {plan.extend_s:g} s "
        "more is held for a person. Reject leaves the version that serves now."
    )
