"""A `TunedImage` → what is signed of it, and whether that holds. Pure.

The statement's subject is the tuned image; its predicate is the `TunedImage` itself, which names the image it stands
on, that image's attestation, the curve and the contract by their digests. So the chain source → export → parity → image
goes on to the tuned image, and `verify_tuned` walks all of it: a tuned image is worth no more than its package.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.attestation.envelope import Kind, Refused, finding, opened, predicate, statement_of, subjects
from tasks.attestation.verification import AttestationReport, answer, verify
from tasks.contracts import Digest, Finding, Package, TunedImage

if TYPE_CHECKING:
    from securesystemslib.signer import Key

_AGAIN = "tune the package's image again: `slipway tune IMAGE`"
TUNED = Kind(
    predicate_type="urn:slipway:tuning:v1",
    subject="the tuned image",
    redo=_AGAIN,
    beware="do not release it: the tuned image's record, files or attestation were changed after they were signed; "
    + _AGAIN,
)

#: What is compared under which code.
_FIELDS = {
    "PACKAGE": ("package", "name", "format"),
    "IMAGE": ("reference", "digest", "layers"),
    "BASE": ("base", "base_attestation"),
    "CONTRACT": ("contract",),
    "CURVE": ("curve",),
    "SETTING": ("setting", "p99_ms", "rows", "cpus", "requests_per_s"),
}


@dataclass(frozen=True, slots=True)
class TunedEvidence:
    """All that a tuned image's attestation is held against. `None` where the store has no such thing."""

    package: Package
    package_envelope: str | None
    contract: bytes | None
    curve: bytes | None


def tuned_statement(tuned: TunedImage) -> bytes:
    """The in-toto Statement about a tuned image, as canonical JSON."""
    return statement_of({tuned.reference: tuned.digest}, TUNED, tuned)


def verify_tuned(
    tuned: TunedImage, envelope: str | None, evidence: TunedEvidence, public_key: Key
) -> AttestationReport:
    """Hold a tuned image against its signed evidence, and its package against the package's."""
    try:
        signed = opened(envelope, public_key, TUNED)
        said = predicate(signed, TunedImage, TUNED)
    except Refused as error:
        findings = [error.finding]
    else:
        findings = [*_differences(subjects(signed), said, tuned), *_files(tuned, evidence)]
        if not findings:
            findings = [
                *_base(tuned, evidence),
                *verify(evidence.package, evidence.package_envelope, public_key).findings,
            ]
    return answer(findings, evidence.package.digest, public_key, image=tuned.digest)


def envelope_digest(envelope: str) -> Digest:
    """What binds a statement to an attestation that came before it."""
    return _sha256(envelope.encode())


def _differences(about: list[str], said: TunedImage, tuned: TunedImage) -> Iterator[Finding]:
    if about != [tuned.digest]:
        yield _differs("IMAGE", "the statement's subject", tuned.digest, ", ".join(about))
    for code, fields in _FIELDS.items():
        for field in fields:
            expected, found = getattr(tuned, field), getattr(said, field)
            if expected != found:
                yield _differs(code, field.replace("_", " "), str(expected), str(found))


def _files(tuned: TunedImage, evidence: TunedEvidence) -> Iterator[Finding]:
    for code, file, content in (
        ("CONTRACT", tuned.contract, evidence.contract),
        ("CURVE", tuned.curve, evidence.curve),
    ):
        found = "nothing" if content is None else _sha256(content)
        if found != file.digest:
            message = f"{file.path}: signed was {file.digest}, the store holds {found}"
            yield finding(f"{code}_DIFFERS", message, TUNED.beware)


def _base(tuned: TunedImage, evidence: TunedEvidence) -> Iterator[Finding]:
    """The tuned image stands on an image of the package, and on the attestation that the package still has."""
    package, envelope = evidence.package, evidence.package_envelope
    image = next((each for each in package.images if each.digest == tuned.base and each.format == tuned.format), None)
    if package.digest != tuned.package or image is None or tuned.layers[:-1] != image.layers:
        yield finding(
            "CHAIN_BROKEN",
            f"expected a tuned image of {tuned.base} with one layer more, found that it is none of "
            f"package {package.digest}, or has other layers",
            TUNED.beware,
        )
    if envelope is not None and envelope_digest(envelope) != tuned.base_attestation:
        yield finding(
            "BASE_DIFFERS",
            f"it was tuned on the word of attestation {tuned.base_attestation}, and the package has "
            f"{envelope_digest(envelope)}: it was packaged or signed anew since",
            _AGAIN,
        )


def _differs(code: str, what: str, expected: str, found: str) -> Finding:
    message = f"{what}: the tuned image's record says {expected}, the attestation {found or 'nothing'}"
    return finding(f"{code}_DIFFERS", message, TUNED.beware)


def _sha256(content: bytes) -> Digest:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
