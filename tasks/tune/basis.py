"""What a tuned image will stand on: an image of a package, once its signed evidence holds.

In: the image that was asked for, and the packages that the store knows. Out: a `Basis`, or an error that says why
nothing may stand on that image. A tuned image that is tuned again stands on the package's image that it was made of, so
that layers and attestations do not pile up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.attestation import AttestationReport, attestation_of, envelope_digest, verify, verify_stored
from tasks.contracts import Digest, Image, Package, Verdict
from tasks.errors import BadInput, GateBlocked
from tasks.figures import short
from tasks.image.engine import Engine, ImageInfo
from tasks.lineage.history import Recorded
from tasks.store import Store

if TYPE_CHECKING:
    from securesystemslib.signer import Key


@dataclass(frozen=True, slots=True)
class Basis:
    """A package's image, as the package and as the engine know it, and the digest of the attestation that vouches."""

    package: Package
    image: Image
    there: ImageInfo
    attestation: Digest


def basis_of(
    asked: str, image: ImageInfo, known: Sequence[Recorded], store: Store, engine: Engine, public_key: Key
) -> Basis:
    """The basis of a tuned image, when `image` (which was `asked` for) is what is measured.

    Raises:
        GateBlocked: no package in the store has the image, or its attestation does not verify.
        BadInput: the image that a tuned one stands on is not in the engine.
    """
    for recorded in known:
        package = recorded.package
        for tuned in recorded.tuned:
            if tuned.digest == image.id:
                envelope = attestation_of(tuned.digest, store)
                _check(asked, verify_stored(tuned, package, store, public_key, envelope))
                return _basis(asked, package, tuned.base, store, engine)
        if image.id in {each.digest for each in package.images}:
            _check(asked, verify(package, attestation_of(package.digest, store), public_key))
            return _basis(asked, package, image.id, store, engine)
    raise GateBlocked(
        f"no package in this store has the image {asked}, so nothing vouches for it, and a tuned image of it could not "
        "be released: tune it where it was packaged, or say --measure-only to measure without writing an image"
    )


def _basis(asked: str, package: Package, digest: Digest, store: Store, engine: Engine) -> Basis:
    image = next(each for each in package.images if each.digest == digest)
    there = engine.find_image(digest)
    if there is None:
        raise BadInput(
            f"{asked} was tuned from {image.reference}, which is no longer in the engine: "
            "`slipway package` makes it again"
        )
    envelope = attestation_of(package.digest, store) or ""  # it has just been verified
    return Basis(package, image, there, envelope_digest(envelope))


def _check(asked: str, report: AttestationReport) -> None:
    if report.verdict is Verdict.PASSED:
        return
    first = report.findings[0]
    more = f" (and {len(report.findings) - 1} more: `slipway verify-attestation`)" if len(report.findings) > 1 else ""
    raise GateBlocked(
        f"the attestation of {asked} (package {short(report.package)}) does not verify, and no image is written that "
        f"could not be released: {first.code}: {first.message}{more}; {first.advice}; "
        "--measure-only measures and writes none"
    )
