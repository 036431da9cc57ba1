"""Signed evidence: what a package says of itself, bound together and signed, for a release to hold against a key.

keys.py           the Ed25519 key: made on first use, or named by SLIPWAY_SIGNING_KEY
envelope.py       a statement → a signed DSSE envelope, and back (pure)
statement.py      a Package → an in-toto Statement: source → export → parity → image → smoke (pure)
verification.py   package, envelope, public key → a report that passes only if everything holds (pure)
tuned.py          the same of an image that was tuned: package → image → curve → tuned image (pure)
sign.py           signs, and leaves the envelopes in the store
"""

from __future__ import annotations

from tasks.attestation.keys import public_key, signer
from tasks.attestation.sign import attest, attest_tuned, attestation_of, verify_stored
from tasks.attestation.tuned import envelope_digest
from tasks.attestation.verification import AttestationReport, verify

__all__ = [
    "AttestationReport",
    "attest",
    "attest_tuned",
    "attestation_of",
    "envelope_digest",
    "public_key",
    "signer",
    "verify",
    "verify_stored",
]
