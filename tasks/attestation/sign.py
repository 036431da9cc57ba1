"""Signs packages and tuned images, verifies what was signed, and leaves the envelopes in the store.

`results/attestation/<digest>` holds the DSSE envelope of a package, by the package's digest, or of a tuned image, by
its own. A package without an image has none: there is nothing to release.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.attestation.envelope import seal
from tasks.attestation.keys import signer
from tasks.attestation.statement import statement
from tasks.attestation.tuned import TunedEvidence, tuned_statement, verify_tuned
from tasks.attestation.verification import AttestationReport, verify
from tasks.contracts import Digest, Package, TunedImage
from tasks.errors import CorruptObject, PlatformError
from tasks.settings import Settings
from tasks.store import Store

if TYPE_CHECKING:
    from securesystemslib.signer import Key

_STAGE = "attestation"


def attest(package: Package, store: Store, settings: Settings) -> str | None:
    """Sign the package as it stands, passed or not; the envelope, or `None` where it has no image.

    Raises:
        BadInput: the signing key cannot be used.
        PlatformError: what was signed does not verify.
    """
    if not package.images:
        return None
    key = signer(settings)
    text = seal(statement(package), key)
    # what the gates said is evidence too, and signed as it is; only a release asks that they passed
    _check(verify(package, text, key.public_key), besides=("_NOT_PASSED", "_CHAIN_BROKEN"))
    store.put_result(_STAGE, package.digest, text)
    return text


def attest_tuned(tuned: TunedImage, package: Package, store: Store, settings: Settings) -> str:
    """Sign a tuned image; the envelope.

    Raises:
        BadInput: the signing key cannot be used.
        PlatformError: what was signed does not verify, back to the source.
    """
    key = signer(settings)
    text = seal(tuned_statement(tuned), key)
    _check(verify_stored(tuned, package, store, key.public_key, text))
    store.put_result(_STAGE, tuned.digest, text)
    return text


def attestation_of(digest: Digest, store: Store) -> str | None:
    """A package's or a tuned image's envelope, where the store has one."""
    return store.get_result(_STAGE, digest)


def verify_stored(
    tuned: TunedImage, package: Package, store: Store, public_key: Key, envelope: str | None
) -> AttestationReport:
    """Hold a tuned image against its envelope and all that the store has of it."""
    evidence = TunedEvidence(
        package=package,
        package_envelope=attestation_of(package.digest, store),
        contract=_content(tuned.contract.digest, store),
        curve=_content(tuned.curve.digest, store),
    )
    return verify_tuned(tuned, envelope, evidence, public_key)


def _content(digest: Digest, store: Store) -> bytes | None:
    """An object as the store has it; whether it is what its digest names is for the verification to say."""
    try:
        with store.open(digest) as stream:
            return stream.read()
    except CorruptObject:  # it is not there
        return None


def _check(report: AttestationReport, besides: tuple[str, ...] = ()) -> None:
    unsound = [each for each in report.findings if not (besides and each.code.endswith(besides))]
    if unsound:
        raise PlatformError(f"the attestation that was just signed does not verify: {unsound[0].message}")
