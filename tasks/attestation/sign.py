"""Signs a package's statement, verifies what was signed, and leaves the envelope in the store beside the manifest.

`results/attestation/<package digest>` holds the DSSE envelope's JSON, as in-toto's and Sigstore's tools read it. A
package without an image has none: there is nothing to release.
"""

from __future__ import annotations

import json

from tasks.attestation.keys import signer
from tasks.attestation.statement import PAYLOAD_TYPE, statement
from tasks.attestation.verification import verify
from tasks.contracts import Digest, Package
from tasks.errors import PlatformError
from tasks.settings import Settings
from tasks.store import Store

_STAGE = "attestation"


def attest(package: Package, store: Store, settings: Settings) -> str | None:
    """Sign the package as it stands, passed or not; the envelope, or `None` where it has no image.

    Raises:
        BadInput: the signing key cannot be used.
        PlatformError: what was signed does not verify.
    """
    from securesystemslib.dsse import Envelope

    if not package.images:
        return None
    key = signer(settings)
    envelope = Envelope(statement(package), PAYLOAD_TYPE, {})
    envelope.sign(key)
    text = json.dumps(envelope.to_dict(), sort_keys=True)
    unsound = [
        finding
        for finding in verify(package, text, key.public_key).findings
        # what the gates said is evidence too, and signed as it is; only a release asks that they passed
        if not finding.code.endswith(("_NOT_PASSED", "_CHAIN_BROKEN"))
    ]
    if unsound:
        raise PlatformError(f"the attestation that was just signed does not verify: {unsound[0].message}")
    store.put_result(_STAGE, package.digest, text)
    return text


def attestation_of(package: Digest, store: Store) -> str | None:
    """A package's envelope, where the store has one."""
    return store.get_result(_STAGE, package)
