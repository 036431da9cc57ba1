"""Signed evidence: what a package says of itself, bound together and signed, for a release to hold against a key.

keys.py           the Ed25519 key: made on first use, or named by SLIPWAY_SIGNING_KEY
statement.py      a Package → an in-toto Statement: source → export → parity → image → smoke (pure)
verification.py   package, envelope, public key → a report that passes only if everything holds (pure)
sign.py           signs a package's statement into a DSSE envelope and leaves it in the store
"""

from __future__ import annotations

from tasks.attestation.keys import public_key, signer
from tasks.attestation.sign import attest, attestation_of
from tasks.attestation.verification import AttestationReport, verify

__all__ = ["AttestationReport", "attest", "attestation_of", "public_key", "signer", "verify"]
