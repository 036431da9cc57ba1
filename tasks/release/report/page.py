"""The release report: one HTML file that needs nothing else, on a phone, on paper, light and dark.

In: a release, its trace, its judgements, the journal's words. Out: the text of the page. Everything from outside is
escaped. What was not seen has no section.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from tasks.contracts import Finding, Verdict
from tasks.figures import NOTHING
from tasks.release.contracts import Deployed, Judgement, Phase, Release, Sample, Written
from tasks.release.report.curves import curves
from tasks.release.report.view import sentence, steps, trail, verdict

_SHADOW = {
    "equivalent": "Two packages of one model: every row must be answered the same",
    "retrained": "A retrained model: as good at its task as the version in production",
    "first": "The first version: answers as the package's own evidence has them",
}


def render(
    release: Release,
    trace: Sequence[Sample] = (),
    judgements: Sequence[Judgement] = (),
    history: Sequence[Written] = (),
) -> str:
    """The page. `history` is the journal, word for word, the first one first."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        # The look is the parity report's: one style sheet for all pages that a package leaves.
        loader=ChoiceLoader([PackageLoader("tasks.release.report", "."), PackageLoader("tasks.parity.page", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "duration": duration, "moment": moment, "words": _words}
    known = judgements or ([] if release.judgement is None else [release.judgement])
    return environment.get_template("release.html.j2").render(
        release=release,
        verdict=verdict(release),
        sentence=sentence(release),
        blocking=_blocking(release),
        deployed=_deployed(release.candidate, release.stable),
        steps=steps(release, trace, known),
        curves=curves(release, trace, known),
        shadow_said="" if release.shadow is None else _SHADOW[release.shadow.kind],
        trail=trail(history or [Written(release=release, by=release.started_by)]),
        looks=f"{len(trace):,}",
    )


def _blocking(release: Release) -> list[Finding]:
    """Why it ended as it did, and what the last judgement and shadow found, each once."""
    judged = () if release.judgement is None else release.judgement.findings
    shadowed = () if release.shadow is None else release.shadow.findings
    found = (*release.findings, *judged, *shadowed)
    kept: list[Finding] = []
    for finding in found:
        if finding.verdict is not Verdict.PASSED and finding not in kept:
            kept.append(finding)
    return kept


def _deployed(new: Deployed, old: Deployed | None) -> list[tuple[str, str, str]]:
    def of(deployed: Deployed | None) -> tuple[str, ...]:
        if deployed is None:
            return (NOTHING,) * 5
        return deployed.version or NOTHING, deployed.package, deployed.format, deployed.reference, deployed.image

    labels = ("Version in MLflow", "Package", "Format", "Image", "Image digest")
    return list(zip(labels, of(new), of(old), strict=True))


def percent(value: float | None, digits: int | None = None) -> str:
    """Percent, as many decimals as asked for; `–` of nothing."""
    if value is None:
        return NOTHING
    return f"{value:g} %" if digits is None else f"{value:.{digits}f} %"


def duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    for size, name, small, smaller in ((3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size} {name}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def moment(at: datetime) -> str:
    """UTC, to the second."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _words(phase: Phase) -> str:
    return phase.value.replace("_", " ")
