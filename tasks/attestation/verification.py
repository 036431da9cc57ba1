"""Package, envelope, public key → a report that passes only when the envelope is signed by that key, speaks of exactly
this package, and what it says is a way through every gate. Pure, and closed: what is missing or unreadable blocks.

Three questions, in order; the first that fails ends it, because the next would be asked of something unproven:

1. Is it signed? The findings of `tasks.attestation.envelope`
2. Is it about this package? `ATTESTATION_{PACKAGE,SOURCE,DATA,EXPORT,PARITY,IMAGE,SMOKE}_DIFFERS`
3. Does it let anything through? `ATTESTATION_CHAIN_BROKEN`, `ATTESTATION_{PACKAGE,DATA,PARITY,SMOKE}_NOT_PASSED`
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tasks.attestation.envelope import Refused, finding, opened, predicate, subjects
from tasks.attestation.statement import PACKAGE, FormatEvidence, Predicate, predicate_of
from tasks.contracts import Digest, Finding, Package, Report, Verdict

if TYPE_CHECKING:
    from securesystemslib.signer import Key


class AttestationReport(Report):
    """The answer about one package, or about `image`, which was tuned from one of its images. `key` is the id of the
    key that it was held against."""

    package: Digest
    image: Digest | None = None
    key: str


def verify(package: Package, envelope: str | None, public_key: Key) -> AttestationReport:
    """Hold a package against its signed evidence: `envelope` is a DSSE envelope as JSON, `None` where there is none."""
    try:
        signed = opened(envelope, public_key, PACKAGE)
        said = predicate(signed, Predicate, PACKAGE)
    except Refused as error:
        findings = [error.finding]
    else:
        about = [*_subjects(subjects(signed), package), *_differences(said, predicate_of(package))]
        findings = about or [*_gates(said)]
    return answer(findings, package.digest, public_key)


def answer(findings: list[Finding], package: Digest, public_key: Key, image: Digest | None = None) -> AttestationReport:
    """The report of these findings; none is a pass."""
    return AttestationReport(
        verdict=Verdict.worst([Verdict.PASSED, *(each.verdict for each in findings)]),
        findings=tuple(findings),
        package=package,
        image=image,
        key=public_key.keyid,
    )


# --- 2. is it about this package ----------------------------------------------------------------------------------


def _subjects(found: list[str], package: Package) -> Iterator[Finding]:
    images = sorted(image.digest for image in package.images)
    if found != images:
        yield _differs("IMAGE", "the statement's subjects", ", ".join(images), ", ".join(found))


def _differences(said: Predicate, expected: Predicate) -> Iterator[Finding]:
    for field in ("package", "name", "owner", "inputs", "verdict", "serving_format"):
        yield from _difference("PACKAGE", field.replace("_", " "), getattr(expected, field), getattr(said, field))
    yield from _difference("SOURCE", "source", expected.source, said.source)
    yield from _difference("DATA", "evaluation data", expected.evaluation, said.evaluation)
    formats = {each.format: each for each in said.formats}
    yield from _difference("EXPORT", "formats", [each.format for each in expected.formats], [*formats])
    for each in expected.formats:
        if each.format in formats:
            yield from _format_differences(formats[each.format], each)


def _format_differences(said: FormatEvidence, expected: FormatEvidence) -> Iterator[Finding]:
    for field in ("export", "parity", "image", "smoke"):
        what = f"{field} of {expected.format}"
        yield from _difference(field.upper(), what, getattr(expected, field), getattr(said, field))


def _difference(code: str, what: str, expected: object, found: object) -> Iterator[Finding]:
    if expected != found:
        yield _differs(code, what, str(expected), str(found))


def _differs(code: str, what: str, expected: str, found: str) -> Finding:
    return finding(
        f"{code}_DIFFERS",
        f"{what}: the package says {expected or 'nothing'}, the attestation {found or 'nothing'}",
        PACKAGE.beware,
    )


# --- 3. does it let anything through ------------------------------------------------------------------------------


def _gates(said: Predicate) -> Iterator[Finding]:
    """The gates, asked of what was signed and not of the package's own verdict, which sums them up."""
    yield from _passed("PACKAGE", "the package", said.verdict)
    yield from _passed("DATA", "the evaluation data", said.evaluation.verdict)
    found = {each.format: each for each in said.formats}
    for name in said.inputs.formats:
        each = found.get(name) or FormatEvidence(format=name, export=None, parity=None, image=None, smoke=())
        yield from _chain(each)
        yield from _passed("PARITY", f"the parity of {name}", None if each.parity is None else each.parity.verdict)
        smoked = {report.instance_type: report.verdict for report in each.smoke}
        for kind in said.inputs.instance_types:
            yield from _passed("SMOKE", f"the smoke test of {name} on {kind}", smoked.get(kind))


def _passed(code: str, what: str, verdict: Verdict | None) -> Iterator[Finding]:
    if verdict is not Verdict.PASSED:
        yield finding(
            f"{code}_NOT_PASSED",
            f"{what} is {'missing' if verdict is None else verdict}, and only what passed may be released",
            "`slipway status MODEL` says what is in the way",
        )


def _chain(each: FormatEvidence) -> Iterator[Finding]:
    """Every piece of evidence is about the one before it."""
    parity, image = each.parity, each.image
    tested = None if image is None else image.digest
    links = [
        ("parity was measured on the export", each.export, None if parity is None else parity.export),
        ("the image holds the export", each.export, None if image is None else image.export),
        (
            "the image was built on parity's report",
            None if parity is None else parity.report,
            None if image is None else image.parity,
        ),
        *[("the image was smoke-tested", tested, report.image) for report in each.smoke],
    ]
    for what, expected, found in links:
        if not expected or expected != found:
            yield finding(
                "CHAIN_BROKEN",
                f"{each.format}: expected that {what} {expected or '(missing)'}, found {found or 'none'}",
                "run `slipway package` with --fresh: the evidence is of different builds",
            )
