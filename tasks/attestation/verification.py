"""Package, envelope, public key → a report that passes only when the envelope is signed by that key, speaks of exactly
this package, and what it says is a way through every gate. Pure, and closed: what is missing or unreadable blocks.

Three questions, in order; the first that fails ends it, because the next would be asked of something unproven:

1. Is it signed? `ATTESTATION_MISSING`, `_UNREADABLE`, `_KEY_UNKNOWN`, `_SIGNATURE_INVALID`, `_FOREIGN`
2. Is it about this package? `ATTESTATION_{PACKAGE,SOURCE,DATA,EXPORT,PARITY,IMAGE,SMOKE}_DIFFERS`
3. Does it let anything through? `ATTESTATION_CHAIN_BROKEN`, `ATTESTATION_{PACKAGE,DATA,PARITY,SMOKE}_NOT_PASSED`
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import ValidationError

from tasks.attestation.statement import PAYLOAD_TYPE, PREDICATE_TYPE, FormatEvidence, Predicate, predicate_of
from tasks.contracts import Digest, Finding, Owner, Package, Report, Verdict

if TYPE_CHECKING:
    from in_toto_attestation.v1.statement import Statement
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import Key

_REDO = "run the same `slipway package` again, which reuses every stage and signs the package anew"
_BEWARE = (
    "do not release it: package or attestation were changed after they were signed; "
    "`slipway package` with --fresh makes both again"
)


class AttestationReport(Report):
    """The answer about one package. `key` is the id of the key that it was held against."""

    package: Digest
    key: str


class _Refused(Exception):
    def __init__(self, code: str, message: str, advice: str) -> None:
        self.finding = _finding(code, message, advice)
        super().__init__(message)


def verify(package: Package, envelope: str | None, public_key: Key) -> AttestationReport:
    """Hold a package against its signed evidence: `envelope` is a DSSE envelope as JSON, `None` where there is none."""
    try:
        signed = _signed(envelope, public_key)
        said = _predicate(signed)
    except _Refused as error:
        findings = [error.finding]
    else:
        expected = predicate_of(package)
        findings = [*_subjects(signed, package), *_differences(said, expected)] or [*_gates(said)]
    return AttestationReport(
        verdict=Verdict.worst([Verdict.PASSED, *(finding.verdict for finding in findings)]),
        findings=tuple(findings),
        package=package.digest,
        key=public_key.keyid,
    )


# --- 1. is it signed ----------------------------------------------------------------------------------------------


def _signed(envelope: str | None, public_key: Key) -> Statement:
    """The statement in an envelope, once its signature holds."""
    from google.protobuf.json_format import Parse, ParseError
    from in_toto_attestation.v1.statement import Statement
    from in_toto_attestation.v1.statement_pb2 import Statement as Message
    from securesystemslib.exceptions import VerificationError

    if envelope is None:
        raise _Refused("MISSING", "the package has no attestation, so nothing binds its image to its evidence", _REDO)
    opened = _open(envelope)
    if public_key.keyid not in opened.signatures:
        signers = ", ".join(each[:12] for each in opened.signatures) or "nobody"
        raise _Refused(
            "KEY_UNKNOWN",
            f"expected a signature of the key {public_key.keyid[:12]}, found those of {signers}",
            "verify with the public key of whoever packaged it, or let whom you trust package it again",
        )
    try:
        opened.verify([public_key], threshold=1)
    except VerificationError:
        raise _Refused(
            "SIGNATURE_INVALID",
            f"the signature of the key {public_key.keyid[:12]} does not fit what the envelope holds",
            _BEWARE,
        ) from None
    if opened.payload_type != PAYLOAD_TYPE:
        raise _Refused("FOREIGN", f"expected {PAYLOAD_TYPE}, found {opened.payload_type}", _REDO)
    try:
        found = Statement.copy_from_pb(Parse(opened.payload, Message()))
        found.validate()
    except (ParseError, ValueError) as error:
        raise _Refused("FOREIGN", f"what was signed is no in-toto statement: {error}", _REDO) from None
    return found


def _open(envelope: str) -> Envelope:
    from securesystemslib.dsse import Envelope

    try:
        return Envelope.from_dict(json.loads(envelope))
    # whatever JSON may hold in the place of an envelope; securesystemslib documents three of them
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _Refused("UNREADABLE", f"the attestation is no DSSE envelope ({type(error).__name__})", _REDO) from None


def _predicate(signed: Statement) -> Predicate:
    from google.protobuf.json_format import MessageToDict

    if signed.pb.predicate_type != PREDICATE_TYPE:
        raise _Refused("FOREIGN", f"expected a {PREDICATE_TYPE}, found {signed.pb.predicate_type}", _REDO)
    try:
        return Predicate.model_validate(MessageToDict(signed.pb.predicate))
    except ValidationError as error:
        raise _Refused(
            "FOREIGN", f"the statement is of another version of Slipway ({error.error_count()} fields differ)", _REDO
        ) from None


# --- 2. is it about this package ----------------------------------------------------------------------------------


def _subjects(signed: Statement, package: Package) -> Iterator[Finding]:
    subjects = sorted(f"sha256:{subject.digest['sha256']}" for subject in signed.pb.subject)
    images = sorted(image.digest for image in package.images)
    if subjects != images:
        yield _differs("IMAGE", "the statement's subjects", ", ".join(images), ", ".join(subjects))


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
    return _finding(
        f"{code}_DIFFERS",
        f"{what}: the package says {expected or 'nothing'}, the attestation {found or 'nothing'}",
        _BEWARE,
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
        yield _finding(
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
            yield _finding(
                "CHAIN_BROKEN",
                f"{each.format}: expected that {what} {expected or '(missing)'}, found {found or 'none'}",
                "run `slipway package` with --fresh: the evidence is of different builds",
            )


def _finding(code: str, message: str, advice: str) -> Finding:
    return Finding(code=f"ATTESTATION_{code}", owner=Owner.PLATFORM, message=message, advice=advice)
